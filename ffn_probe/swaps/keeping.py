"""The parts of a swap that keep what the model computes, and measure how well they do."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.errors import SwapError
from ffn_probe.probes.record import moved
from ffn_probe.swaps.exact import exact_norm
from ffn_probe.swaps.folds import smooth
from ffn_probe.swaps.swap import Swap, named
from ffn_probe.swaps.swapped import Change, Left, Swapped


def convert(
    model: nn.Module, swap: Swap, blocks: Sequence[Block], stack: ExitStack, example: Any
) -> Swapped:
    """Convert the norms of a residual stream exactly, until `stack` is closed.

    Raises:
        SwapError: it is impossible here (the message says why), or applies to nothing.
        UnknownName: no norm of that name can be exact.
    """
    name, params = named("norm", swap.norm or "")
    if params:
        raise SwapError(f"an exact conversion keeps the eps of each norm; write norm={name!r}")
    if example is None:
        raise SwapError("how='exact' reads the model's code from a pass: pass example=")
    before = {b.norm.module: b.name for b in blocks if b.norm.module is not None}
    if swap.norms == "ffn" and not before:
        raise SwapError(f"the swap {swap.text} applies to nothing: no block has a norm module")
    only = None if swap.norms == "all" else frozenset(before)
    report = exact_norm(model, example, stack, target=name, only=only)
    note = f"{len(report.centred)} parameters centred, {len(report.biases)} took a bias"
    old = "rmsnorm" if name == "layernorm" else "layernorm"
    changed = tuple(
        Change("norm", before.get(path, ""), path, old, name, note) for path in report.norms
    )
    left = tuple(Left("norm", path, "it stays what it was") for path in report.left)
    return Swapped(
        swap.text, changed, left, {"max_abs": report.max_abs, "sqnr_db": report.sqnr_db}
    )


def smooth_blocks(
    model: nn.Module,
    blocks: Sequence[Block],
    stack: ExitStack,
    calibration: Iterable[Any] | None,
) -> list[Change]:
    """Bring the hidden channels of blocks to one absmax by factors folded into up and down.

    Raises:
        SwapError: there is no calibration, or a factor cannot pass a block.
    """
    if calibration is None:
        raise SwapError(
            "gating='smooth_swiglu' takes its scales from batches: pass calibration=[batch]"
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    folds = smooth(model, blocks, (moved(batch, device) for batch in calibration), stack)
    return [
        Change(
            "gating", fold.place, fold.place, "hidden", "smooth_swiglu",
            f"channels times {fold.low:g} .. {fold.high:g}",
            fold.sqnr_db,
        )
        for fold in folds
    ]  # fmt: skip
