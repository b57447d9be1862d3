"""Replay block by block from recorded inputs: for models of which one block fits the memory.

`record_inputs` keeps the reference's residual stream before every block on disk, once.
`replay_blocks` then asks for one block of each model at a time, runs both on that stream, and
writes a paired run with the views local and stage and the shares of the parts.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ffn_probe.anatomy import ROLES, Block
from ffn_probe.discover import scan
from ffn_probe.discover.calling import undisturbed
from ffn_probe.errors import ExampleError, ModelError, RunError
from ffn_probe.probes.description import versions
from ffn_probe.probes.record import moved
from ffn_probe.replay.analyses import Analyses
from ffn_probe.replay.pairing import BlockPair, named_pairs, paired
from ffn_probe.replay.parts import Parts, parts_of
from ffn_probe.replay.passes import capture
from ffn_probe.replay.tokens import Tokens
from ffn_probe.replay.views import Shown, Views
from ffn_probe.runs import Manifest, Run, RunWriter
from ffn_probe.swaps.interpose import readers

LoadBlock = Callable[[Block], nn.Module]
"""Returns a module in which the parameters of this one block are loaded (the rest may be on
the meta device), under the names of the whole model."""

_FILE = "inputs.json"


def record_inputs(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    to: str | os.PathLike[str],
    found: Sequence[Block] | None = None,
) -> Path:
    """Write the residual stream before every block of `model` to a folder, and return it.

    Args:
        model: the reference; it may be offloaded, as long as it runs.
        batches: its inputs.
        to: the folder, which must not exist. It needs batches x tokens x d_model values of the
            model's dtype a block.
        found: the blocks, else the first batch shows them.

    Raises:
        RunError: the folder exists or cannot be written.
        ExampleError: there were no batches, or the model rejected one.
    """
    folder = Path(to)
    RunWriter.check_free(folder)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    blocks: tuple[Block, ...] = tuple(found or ())
    sizes: list[list[int]] = []
    with torch.no_grad(), undisturbed(model):
        for number, batch in enumerate(batches):
            blocks = blocks or scan(model, moved(batch, device)).blocks
            folder.mkdir(parents=True, exist_ok=True)
            tokens = Tokens.of(batch, 0)
            sizes.append([tokens.sequences, tokens.length])
            entries = [e for b in blocks for e in readers(b, ["resid"])]
            shown, _ = capture(model, batch, entries)
            for (name, _, _, ordinal), value in shown.items():
                if ordinal == 0:
                    rows = tokens.rows(value)[0].contiguous().cpu()
                    save_file({"resid": rows}, _path(folder, name, number))
    if not sizes:
        raise ExampleError("there are no batches to record: the iterable is empty")
    told = {"blocks": [b.to_dict() for b in blocks], "batches": sizes}
    (folder / _FILE).write_text(json.dumps(told))
    return folder


def _path(folder: Path, block: str, batch: int) -> Path:
    return folder / f"{block or 'model'}.{batch}.safetensors"


def replay_blocks(
    inputs: str | os.PathLike[str],
    reference: LoadBlock,
    candidate: LoadBlock,
    *,
    to: str | os.PathLike[str],
    blocks: Sequence[Block] | None = None,
    rows: int = 512,
    names: tuple[str, str] = ("reference", "candidate"),
) -> Run:
    """Replay one block after another on recorded inputs and return the paired run.

    Args:
        inputs: what `record_inputs` wrote.
        reference: loads a block of the reference.
        candidate: loads a block of the candidate.
        to: the folder of the run, which must not exist.
        blocks: the candidate's blocks; None: they are as the reference's.
        rows: rows a batch that the shares are of.
        names: what the models are called.

    Raises:
        RunError: there are no inputs, or the run's folder exists.
        ModelError: no block could be read.
    """
    folder = Path(inputs)
    known, sizes = _read_inputs(folder)
    pairing = paired(known, blocks or known)
    effects = Analyses(nn.Module(), nn.Module(), rows=rows)
    views = Views(nn.Module(), nn.Module())
    manifest = Manifest(
        kind="paired", created=datetime.now(UTC).isoformat(timespec="seconds"),
        blocks=tuple(p.a for p in pairing.pairs), versions=versions(),
        warnings=(*pairing.notes, "replayed block by block: nothing is known of the output"),
        paired={
            "candidate": {}, "blocks": [p.b.to_dict() for p in pairing.pairs],
            "pairs": named_pairs(pairing), "names": list(names),
        },
    )  # fmt: skip
    with RunWriter.create(to, manifest) as writer:
        for pair in pairing.pairs:
            _replay_block(pair, reference, candidate, folder, sizes, views, effects)
        by_name = {p.a.name: p for p in pairing.pairs}
        tables = views.rows({name: p.a for name, p in by_name.items()}, 0)
        if not tables["paired"]:
            writer.discard()
            raise ModelError(
                f"no block could be replayed: {'; '.join(effects.notes) or 'none'}"
            )
        tables["activation_error"] = effects.finish(by_name, 0)
        tables["effects"] = effects.effects.rows(0)
        writer.write_window(0, tables)
        count = sum(sequences * length for sequences, length in sizes)
        notes = (*writer.manifest.warnings, *effects.notes)
        writer.update(windows=1, steps=len(sizes), tokens=count, warnings=notes)
    return Run.open(Path(to))


def _read_inputs(folder: Path) -> tuple[tuple[Block, ...], list[tuple[int, int]]]:
    try:
        told = json.loads((folder / _FILE).read_text())
        blocks = tuple(Block.from_dict(data) for data in told["blocks"])
        return blocks, [(int(a), int(b)) for a, b in told["batches"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder} holds no recorded inputs ({error}); make them with record_inputs"
        ) from error


def _replay_block(
    pair: BlockPair,
    reference: LoadBlock,
    candidate: LoadBlock,
    folder: Path,
    sizes: Sequence[tuple[int, int]],
    views: Views,
    effects: Analyses,
) -> None:
    """Replay one pair on all batches; its parameters are let go of afterwards."""
    try:
        a = parts_of(reference(pair.a), pair.a)
        b = parts_of(candidate(pair.b), pair.b)
    except ModelError as error:
        effects.notes.setdefault(f"{pair.a.name}: {error}")
        return
    effects.parts[pair.a.name] = (a, b)
    for resid, tokens in _streams(folder, pair.a.name, sizes):
        effects.tokens = tokens
        with torch.no_grad():
            own = _named(pair.a, a.run({"resid": resid}))
            shown = {(pair.a.name, role, -1, 0): value for role, value in own.items()}
            for view, roles in (("local", _local(b, resid)), ("stage", _stages(b, own))):
                for role in ROLES[1:]:
                    if role in roles and role in own:
                        key = (pair.b.name, role, -1, 0)
                        views.compare(pair, key, roles[role], tokens, shown, view)
                        effects.listen(pair, view, role, roles[role], own[role])
            nothing = torch.zeros(0)
            effects.add(pair, Shown(nothing, nothing, None, shown, {}), tokens)
    del effects.parts[pair.a.name]


def _streams(
    folder: Path, block: str, sizes: Sequence[tuple[int, int]]
) -> Iterator[tuple[Tensor, Tokens]]:
    first = 0
    for number, (sequences, length) in enumerate(sizes):
        with safe_open(str(_path(folder, block, number)), "pt") as file:
            resid = file.get_tensor("resid")
        folds = (torch.arange(sequences) + first) % 16
        first += sequences
        yield resid, Tokens(sequences, length, folds, None)


def _named(block: Block, roles: dict[str, Tensor]) -> dict[str, Tensor]:
    return {role: value for role, value in roles.items() if role in block.roles}


def _local(parts: Parts, resid: Tensor) -> dict[str, Tensor]:
    return parts.run({"resid": resid})


def _stages(parts: Parts, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return every role of the candidate's block made of the reference's roles before it."""
    before = {
        "normed": ("resid",), "gate": ("normed",), "value": ("normed",),
        "hidden": ("gate", "value"), "out": ("hidden",),
    }  # fmt: skip
    found = {}
    for role, needed in before.items():
        given = {name: own[name] for name in needed if name in own}
        if given and role in own:
            found[role] = parts.run(given)[role]
    return found


__all__ = ["LoadBlock", "record_inputs", "replay_blocks"]
