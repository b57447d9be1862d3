"""Factors for the hidden channels of a block, from what calibration batches make of them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.calling import call_arguments, undisturbed
from ffn_probe.errors import SwapError
from ffn_probe.swaps.interpose import interposed, readers


def hidden_absmax(
    model: nn.Module, blocks: Sequence[Block], batches: Iterable[Any]
) -> dict[str, Float[Tensor, " d_ff"]]:
    """Return the largest finite |hidden| of each channel on the batches, by name of the block.

    The experts of a mixture count as one: each channel number is a channel.

    Raises:
        SwapError: a block never ran on the batches.
    """
    found: dict[str, Tensor] = {}

    def watch(block: Block, tap: Tap, value: Tensor) -> None:
        del tap
        rows = value.detach().double().abs().reshape(-1, value.shape[-1]).cpu()
        if len(rows):
            top = torch.where(rows.isfinite(), rows, 0.0).amax(0)
            found[block.name] = torch.maximum(found.get(block.name, top), top)

    entries = [entry for block in blocks for entry in readers(block, ["hidden"])]
    with interposed(model, entries, watch), torch.no_grad(), undisturbed(model):
        for batch in batches:
            args, kwargs = call_arguments(batch)
            model(*args, **kwargs)
    idle = [block.name for block in blocks if block.name not in found]
    if idle:
        raise SwapError(f"{idle[0]!r} never ran on the calibration batches; give it some")
    return found


def smooth_scales(
    absmax: Float[Tensor, " d_ff"], *, level: float | None = None, base: int | None = 2
) -> Float[Tensor, " d_ff"]:
    """Return the factor of each hidden channel that brings its absmax to one level.

    Args:
        absmax: of the hidden tensor on calibration batches.
        level: the absmax that all channels get; None: their median, so that the tensor as a
            whole stays where it was. Channels that are always zero keep the factor one.
        base: factors are rounded to powers of it: 2 makes the fold exact bit for bit, 4 that
            of a squared activation; None: not rounded.

    >>> smooth_scales(torch.tensor([1.0, 50.0, 2.0, 0.0])).tolist()
    [2.0, 0.03125, 1.0, 1.0]

    Raises:
        SwapError: an absmax is negative or not finite, or the level is not positive.
    """
    wide = absmax.detach().double()
    if not bool((wide.isfinite() & (wide >= 0)).all()):
        raise SwapError(f"an absmax is a finite number from 0 up, not {_first_bad(wide)}")
    alive = wide > 0
    target = level
    if target is None:
        target = float(wide[alive].median()) if bool(alive.any()) else 1.0
    if not (math.isfinite(target) and target > 0):
        raise SwapError(f"the level of a scale is a positive number, not {target}")
    scales = torch.where(alive, target / wide.clamp(min=torch.finfo(wide.dtype).tiny), 1.0)
    if base is not None:
        scales = torch.pow(float(base), torch.round(scales.log2() / math.log2(base)))
    return scales


def _first_bad(values: Tensor) -> float:
    return float(values[~(values.isfinite() & (values >= 0))][0])
