"""`replay`: two models on the same inputs, into one paired run.

Both see every batch; per site and view the paired sums are kept, never the tensors. Neither
model is changed: outputs, modes, buffers, hooks and random generators are as before.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.compare.align import Mapped
from ffn_probe.discover import Scan
from ffn_probe.errors import ExampleError
from ffn_probe.probes.attach import check_watchable
from ffn_probe.probes.description import described, versions
from ffn_probe.replay.apart import trained_apart
from ffn_probe.replay.models import as_given, candidate_of, pairing_of
from ffn_probe.replay.pairing import named_pairs
from ffn_probe.replay.replaying import Options, Progress, Replaying
from ffn_probe.runs import Manifest, Run, RunWriter
from ffn_probe.swaps import Swap


def replay(  # noqa: PLR0913 - the options of a replay
    reference: nn.Module,
    candidate: nn.Module | None,
    batches: Iterable[Any],
    *,
    to: str | os.PathLike[str],
    swap: Swap | None = None,
    found: Scan | Sequence[Block] | None = None,
    found_candidate: Scan | Sequence[Block] | None = None,
    blocks: str | Iterable[str | int] | None = None,
    mapping: Mapped | None = None,
    options: Options | None = None,
    autopsy: bool = False,
    calibration: Sequence[Any] | None = None,
    names: tuple[str, str] = ("reference", "candidate"),
    tags: dict[str, str] | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Run:
    """Run two models on the same batches and return the paired run.

    Args:
        reference: the model that is right.
        candidate: the model that is judged. None with `swap`: a copy of the reference with the
            swap applied. Both may be the same object: then everything is equal.
        batches: as `record`; each goes to both models, on their own devices.
        to: the folder of the run, which must not exist.
        swap: what was swapped (stored in the run; with norm and activation the 2 x 2 of both is
            measured), applied to a copy of the reference when there is no candidate.
        found: what `scan` returned for the reference, else the first batch shows it.
        found_candidate: the same for the candidate.
        blocks: which blocks of the reference, as `attach`.
        mapping: block name of the reference -> of the candidate, over the alignment.
        options: how much is measured, see Options; None: the defaults.
        autopsy: also look for the bug, and store what was found.
        calibration: batches for a swap that needs some; None: the first four.
        names: what the models are called.
        tags: free text, stored in the run.
        command: the command line, stored in the run.
        progress: called as things go on.

    Raises:
        ExampleError: there were no batches, or a model rejected one (what was replayed before
            stays, in a closed run).
        ModelError: a model has no FFN, or cannot be read.
        CompareError: no block of one model meets one of the other.
        RunError: the folder exists, or cannot be written.

    An interrupt closes the run with what was replayed, and is raised again.
    """
    RunWriter.check_free(to)
    options = options or Options()
    check_watchable(reference)
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ExampleError("there are no batches to replay: the iterable is empty")
    kept = [first]
    wanted = max(options.patch, 4 if swap is not None and candidate is None else 1)
    kept += [b for _, b in zip(range(wanted - 1), stream, strict=False)]
    judged = candidate_of(reference, candidate, swap, calibration or kept[:4], first)
    check_watchable(judged)
    with as_given(reference, judged, keep_mode=options.keep_mode):
        pairing, blocks_b = pairing_of(
            reference, judged, first, found, found_candidate, blocks, mapping
        )
        reason = trained_apart(reference, judged, first, pairing.pairs)
        quantize = swap.quantize if swap is not None else {}
        work = Replaying(reference, judged, pairing, options, progress, reason, quantize)
        manifest = _manifest(work, blocks_b, names, swap, tags or {}, command)
        with RunWriter.create(to, manifest) as writer:
            every = chain(kept, stream)
            work.run(writer, every, kept[: max(options.patch, 1)], swap, autopsy=autopsy)
    return Run.open(Path(to))


def _manifest(
    work: Replaying,
    blocks_b: Sequence[Block],
    names: tuple[str, str],
    swap: Swap | None,
    tags: dict[str, str],
    command: str,
) -> Manifest:
    pairing = work.pairing
    one_sided = [f"{b.name} has no block in the candidate" for b in pairing.only_a]
    one_sided += [
        f"{b.name} of the candidate has none in the reference" for b in pairing.only_b
    ]
    notes = [*pairing.notes, *one_sided[:8], *([work.reason] if work.reason else [])]
    told: dict[str, Any] = {
        "candidate": described(work.candidate),
        "blocks": [block.to_dict() for block in blocks_b],
        "pairs": named_pairs(pairing),
        "names": list(names),
        "options": {
            "noise": work.options.noise, "patch": work.options.patch,
            "rows": work.options.rows, "memory": work.options.memory,
            "keep_mode": work.options.keep_mode,
        },
        "factors": ["norm", "activation"],
        "floors": {"how": work.floor.how},
    }  # fmt: skip
    if swap is not None:
        told["swap"] = swap.to_dict()
    return Manifest(
        kind="paired",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=described(work.reference),
        blocks=tuple(p.a for p in pairing.pairs),
        versions=versions(),
        device=str(next(work.reference.parameters(), torch.zeros(0)).device),
        tags=tags,
        warnings=tuple(notes),
        command=command,
        paired=told,
    )
