"""The colour scale of a measure: linear, or logarithmic where it spans decades."""

import math
from dataclasses import dataclass

import numpy as np

from ffn_probe.figures.grid import Grid
from ffn_probe.figures.numbers import number

DECADES = 100.0
"""A measure whose largest value is so many times its smallest is drawn on a log scale."""

_TICKS = 4


@dataclass(frozen=True, slots=True)
class Span:
    """A scale from `low` to `high`, in the unit of the measure."""

    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """Return where a value falls, 0..1; NaN where it has no place."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        if self.high <= self.low:
            return 0.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Return (place, value as text) of the marks of the scale, its ends among them."""
        if self.high <= self.low:
            return ((0.0, number(self.low)),)
        places = np.linspace(0, 1, _TICKS).tolist()
        if self.log:
            values = [self.low * (self.high / self.low) ** place for place in places]
        else:
            values = [self.low + (self.high - self.low) * place for place in places]
        return tuple((place, number(v)) for place, v in zip(places, values, strict=True))


def span(grid: Grid) -> Span | None:
    """Return the scale of a measure's grid; None when it holds no finite value."""
    known = grid.values[np.isfinite(grid.values)]
    if not known.size:
        return None
    low, high = float(known.min()), float(known.max())
    return Span(low, high, log=low > 0 and high / low > DECADES)
