"""The noise floor of a replay: what the reference shows against itself.

Models of one dtype are compared with the reference whose batch is split in two; models of two
dtypes with the reference cast to the candidate's. Where even that is exact, rounding in another
order still is no bug: `minimum_db` is the SQNR above which a difference of that dtype is told
from nothing by nobody.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

MINIMUM_DB = {
    torch.float64: 240.0,
    torch.float32: 100.0,
    torch.float16: 62.0,
    torch.bfloat16: 48.0,
}
"""Sums in another order reach 110-130 dB in float32. Two right RMSNorms that cast at another
place are 50-51 dB apart in bfloat16; 11 bits of float16 are 18 dB more than bfloat16's 8."""


@dataclass(frozen=True, slots=True)
class Floor:
    """How the floor is measured: `model` is the reference in the other dtype, or None."""

    how: str
    minimum_db: float
    model: nn.Module | None = None


def floor_of(reference: nn.Module, candidate: nn.Module) -> Floor:
    """Return how the noise of two models is measured."""
    one, other = dtype_of(reference), dtype_of(candidate)
    least = min(MINIMUM_DB.get(kind, 48.0) for kind in (one, other))
    if one == other or candidate is reference:
        return Floor("the reference against itself, its batch split in two", least)
    cast = copy.deepcopy(reference).to(other)
    name = str(other).removeprefix("torch.")
    return Floor(f"the reference against itself in {name}", least, cast)


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of most of a model's parameters."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return max(sizes, key=lambda kind: sizes[kind], default=torch.float32)
