"""How far a model's outputs are from those of before a change that should not be seen."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.discover.calling import call_arguments, undisturbed
from ffn_probe.errors import SwapError


@dataclass(frozen=True, slots=True)
class Gap:
    """The difference of two lists of outputs.

    `max_abs` is the largest in their unit, `max_relative` the same over the largest output,
    `sqnr_db` the energy over that of the difference (inf: equal bit for bit), `rounding_db` the
    SQNR that rounding alone keeps.
    """

    max_abs: float
    max_relative: float
    sqnr_db: float
    rounding_db: float

    @property
    def is_rounding(self) -> bool:
        """Whether the difference may be rounding alone."""
        return self.sqnr_db >= self.rounding_db


def outputs_of(model: nn.Module, example: Any) -> list[Tensor]:
    """Return every floating tensor that the model returns for the example.

    Raises:
        SwapError: there is no finite number among them.
    """
    args, kwargs = call_arguments(example)
    with torch.no_grad(), undisturbed(model):
        found = [t.clone() for t in _floats(model(*args, **kwargs))]
    if not any(bool(t.isfinite().any()) for t in found):
        raise SwapError(
            f"{type(model).__name__} returns no finite number for the example, so whether a "
            "change is exact cannot be measured; pass another example"
        )
    return found


def _floats(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _floats(item)


def gap_between(before: list[Tensor], after: list[Tensor]) -> Gap:
    """Return how far two lists of outputs are apart.

    Rounding is taken to keep half of the digits at least, of float32 at most: models that are
    float64 outside may be float32 inside. Where one side alone is finite the gap is infinite.
    """
    largest, worst, error, signal = 0.0, 0.0, 0.0, 0.0
    eps = torch.finfo(torch.float32).eps
    for old, new in zip(before, after, strict=True):
        eps = max(eps, torch.finfo(old.dtype).eps)
        both = old.isfinite()
        if not torch.equal(both, new.isfinite()):
            return Gap(math.inf, math.inf, -math.inf, 0.0)
        a, gap = old[both].double(), old[both].double() - new[both].double()
        if a.numel():
            largest = max(largest, float(a.abs().max()))
            worst = max(worst, float(gap.abs().max()))
        error += float(gap.square().sum())
        signal += float(a.square().sum())
    rounding = -10 * math.log10(eps)
    if error == 0.0:
        return Gap(0.0, 0.0, math.inf, rounding)
    db = 10 * math.log10(signal / error) if signal else -math.inf
    return Gap(worst, worst / largest if largest else math.inf, db, rounding)
