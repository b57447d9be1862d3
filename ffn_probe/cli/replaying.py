"""`ffn-probe replay`: two models on the same batches, with a progress bar, and the story."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ffn_probe.cli.explaining import print_story
from ffn_probe.cli.loading import batches_from, load
from ffn_probe.cli.phases import phases
from ffn_probe.cli.stopping import stopping
from ffn_probe.cli.tables import console, counted
from ffn_probe.errors import FfnProbeError, RunError
from ffn_probe.replay import Options, replay
from ffn_probe.report import report
from ffn_probe.report.report import check_place
from ffn_probe.runs import Run, RunWriter
from ffn_probe.swaps import Swap


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models as they were typed, and the batches both see.

    `candidate` may be left out when `swap` says how it is made of the reference.
    """

    reference: str
    candidate: str | None
    swap: str | None
    data: str | None
    batches: int | None
    sequences: int
    length: int
    random: bool
    dtype: str | None
    candidate_dtype: str | None
    device: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The models of a pair and their batches; `count` is None when it is not known."""

    reference: nn.Module
    candidate: nn.Module | None
    swap: Swap | None
    stream: Iterable[Any]
    count: int | None
    names: tuple[str, str]


def print_replay(
    pair: Pair,
    *,
    to: Path,
    out: Path | None,
    autopsy: bool,
    as_json: bool,
    noise: int,
    patch: int,
    options: Mapping[str, Any],
) -> None:
    """Replay a pair and tell what made it drift; an interrupt keeps what was replayed."""
    RunWriter.check_free(to)
    if out is not None:
        check_place(out)
    measured = Options(noise=noise, patch=patch)
    run = replay_with_bar(loaded(pair), to, autopsy=autopsy, options=measured, **options)
    told = run.explain()
    if out is not None:  # first: a reader of the output may leave before its end
        report(run, to=out)
    if as_json:
        print(told.to_json())
    else:
        print_story(told, problems=run.problems)
    say = console(stderr=as_json)
    for path in (to, out):
        if path is not None:
            say.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def loaded(pair: Pair) -> Loaded:
    """Return the models and the batches of a pair.

    Raises:
        FfnProbeError: there is neither a candidate nor a swap, a name is unknown, a model
            cannot be loaded, or there are no batches.
    """
    swap = None if pair.swap is None else Swap.parse(pair.swap)
    if pair.candidate is None and swap is None:
        raise FfnProbeError(
            "replay needs two models: name the candidate, or make it of the reference with "
            "--swap (for example --swap norm=rmsnorm,activation=silu)"
        )
    model, made = load(pair.reference, random=pair.random, dtype=pair.dtype, device=pair.device)
    stream, count = batches_from(
        pair.data, made, model=pair.reference, sequences=pair.sequences, length=pair.length,
        limit=pair.batches,
    )  # fmt: skip
    return Loaded(model, _candidate(pair), swap, stream, count, _names(pair, swap))


def _candidate(pair: Pair) -> nn.Module | None:
    """Return the candidate; None when it is a copy of the reference with the swap."""
    if pair.candidate is not None:
        dtype = pair.candidate_dtype or pair.dtype
        return load(pair.candidate, random=pair.random, dtype=dtype, device=pair.device)[0]
    if pair.candidate_dtype:
        raise FfnProbeError(
            "--candidate-dtype needs a candidate: name the reference again, or write "
            f"--swap dtype={pair.candidate_dtype}"
        )
    return None


def _names(pair: Pair, swap: Swap | None) -> tuple[str, str]:
    """Return what the models are called: as typed, the last part of a path alone."""
    reference = _short(pair.reference)
    if pair.candidate is None:
        return reference, f"{reference}: {swap.text}" if swap is not None else "candidate"
    candidate = _short(pair.candidate)
    if candidate == reference and pair.candidate_dtype:
        candidate = f"{candidate} ({pair.candidate_dtype})"
    return reference, candidate


def _short(name: str) -> str:
    return Path(name).name or name


def replay_with_bar(pair: Loaded, to: Path, **options: Any) -> Run:
    """Replay with a progress bar on stderr.

    Raises:
        FfnProbeError, KeyboardInterrupt: as `replay`; a note says what was kept on disk.
    """
    RunWriter.check_free(to)
    screen = console(stderr=True)
    try:
        with (
            phases(f"replaying {to.name}", pair.count) as say,
            stopping(screen.print) as check,
        ):

            def tell(phase: str, done: int, of: int | None) -> None:
                say(phase, done, of)
                check()

            return replay(
                pair.reference, pair.candidate, _checked(pair.stream, check), to=to,
                swap=pair.swap, names=pair.names, progress=tell, **options,
            )  # fmt: skip
    except KeyboardInterrupt as stop:
        stop.add_note(_kept(to) or f"nothing was kept in {to}")
        raise
    except FfnProbeError as error:
        if left := _kept(to):
            error.add_note(left)
        raise


def _checked(stream: Iterable[Any], check: Any) -> Iterator[Any]:
    """Yield the batches; a signal in between stops before the next one is made."""
    for ordinal, batch in enumerate(stream):
        if ordinal:
            check()
        yield batch


def _kept(to: Path) -> str:
    """Return what a replay that ended early left on disk, "" for nothing."""
    try:
        run = Run.open(to)
    except RunError:
        return ""
    made = run.manifest
    parts = {"batch": made.steps, "token": made.tokens, "pair of blocks": len(run.blocks)}
    state = "a closed run" if run.closed else "not closed: the open window is lost"
    holds = ", ".join(_counted(number, noun) for noun, number in parts.items())
    return f"kept in {to} ({state}): {holds}"


def _counted(number: int, noun: str) -> str:
    first, _, rest = noun.partition(" ")
    return f"{counted(number, first)} {rest}".strip()
