"""The noise floor of a replay: what the reference shows against itself.

Models of one dtype are compared with the reference whose batch is split in two; models of two
dtypes with the reference cast to the candidate's. (What rounding in another order makes of
right implementations is added by `explain`, see attribution.floors.)
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Floor:
    """How the floor is measured: `model` is the reference in the other dtype, or None."""

    how: str
    model: nn.Module | None = None


def floor_of(reference: nn.Module, candidate: nn.Module) -> Floor:
    """Return how the noise of two models is measured."""
    one, other = dtype_of(reference), dtype_of(candidate)
    if one == other or candidate is reference:
        return Floor("the reference against itself, its batch split in two")
    cast = copy.deepcopy(reference).to(other)
    name = str(other).removeprefix("torch.")
    return Floor(f"the reference against itself in {name}", cast)


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of most of a model's parameters."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return max(sizes, key=lambda kind: sizes[kind], default=torch.float32)
