"""The two models of a replay: made ready, kept undisturbed, their blocks met."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.compare.align import Mapped
from ffn_probe.discover import Scan, scan
from ffn_probe.discover.calling import undisturbed
from ffn_probe.errors import CompareError, FfnProbeError, ModelError
from ffn_probe.probes.attach import chosen_blocks
from ffn_probe.probes.record import moved
from ffn_probe.replay.halves import shortened
from ffn_probe.replay.pairing import Pairing, borrowed, paired, whole_mixtures
from ffn_probe.replay.passes import run_model
from ffn_probe.swaps import Swap, apply


def candidate_of(
    reference: nn.Module,
    candidate: nn.Module | None,
    swap: Swap | None,
    calibration: Sequence[Any],
    example: Any,
) -> nn.Module:
    """Return the candidate, or a copy of the reference with a swap applied.

    Raises:
        FfnProbeError: there is neither a candidate nor a swap, or the swap cannot be applied.
    """
    if candidate is not None:
        return candidate
    if swap is None:
        raise FfnProbeError("replay needs a candidate, or swap= to make one of the reference")
    judged = copy.deepcopy(reference)
    apply(judged, swap, example=example, calibration=list(calibration))
    return judged


@contextmanager
def as_given(reference: nn.Module, candidate: nn.Module, *, keep_mode: bool) -> Iterator[None]:
    """Keep both models undisturbed; evaluation mode unless `keep_mode`."""
    modes = [(m, m.training) for model in (reference, candidate) for m in model.modules()]
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(undisturbed(reference))
        stack.enter_context(undisturbed(candidate))
        if keep_mode:
            for module, training in modes:
                module.training = training
        yield


def pairing_of(
    reference: nn.Module,
    candidate: nn.Module,
    example: Any,
    found: Scan | Sequence[Block] | None,
    found_candidate: Scan | Sequence[Block] | None,
    wanted: str | Iterable[str | int] | None,
    mapping: Mapped | None,
) -> tuple[Pairing, tuple[Block, ...]]:
    """Return the pairs of blocks, and all blocks of the candidate.

    Raises:
        ModelError: the reference has no FFN.
        CompareError: no block of one model meets one of the other.
        UnknownName: no block is meant by `wanted`, or by the mapping.
    """
    known = _blocks(reference, example, found)
    if not known:
        raise ModelError(f"no FFN in the reference ({type(reference).__name__}); see scan")
    mine = chosen_blocks(known, wanted, allow_flagged=True)
    same = candidate is reference and found_candidate is None
    theirs = known if same else _blocks(candidate, example, found_candidate)
    theirs = borrowed(known, theirs, candidate)
    mine = whole_mixtures(mine, reference, partial(run_model, reference, example))
    theirs = whole_mixtures(theirs, candidate, partial(run_model, candidate, example))
    if wanted is not None:
        layers = {block.layer for block in mine}
        theirs = tuple(b for b in theirs if b.layer in layers)
    pairing = paired(mine, theirs, mapping)
    if not pairing.pairs:
        raise CompareError(
            f"no block of the candidate ({type(candidate).__name__}, {len(theirs)} blocks) "
            f"meets one of the reference ({len(mine)}). Give mapping={{its name: the other's}}."
        )
    return pairing, theirs


def _blocks(
    model: nn.Module, example: Any, found: Scan | Sequence[Block] | None
) -> tuple[Block, ...]:
    if isinstance(found, Scan):
        return found.blocks
    if found is not None:
        return tuple(found)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return scan(model, moved(shortened(example), device)).blocks
