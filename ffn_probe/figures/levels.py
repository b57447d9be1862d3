"""An axis of SQNR in dB, worse upward, with a strip of its own for what is equal."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

LEVEL = "SQNR, dB (worse upward)"
"""What the axis shows."""

_BEST = 160.0  # dB: beyond this two tensors are as good as equal
_STRIP = 0.09  # of the axis: from the best level to what is equal


@dataclass(frozen=True, slots=True)
class Levels:
    """The ends of an axis: `worst` is on top, `best` above the strip of what is equal."""

    worst: float
    best: float

    @classmethod
    def over(cls, values: Iterable[float]) -> "Levels":
        """Return the axis that holds the values; those that are not finite do not count.

        >>> Levels.over([33.3, 12.0, math.inf, math.nan])
        Levels(worst=10.0, best=40.0)
        """
        known = [min(value, _BEST) for value in values if math.isfinite(value)]
        low = 10.0 * math.floor(min(known, default=0.0) / 10)
        high = 10.0 * math.ceil(max(known, default=60.0) / 10)
        return cls(low, max(high, low + 20))

    @property
    def equal(self) -> float:
        """Where what is equal lies, at the foot of the axis."""
        return self.best + _STRIP * (self.best - self.worst)

    def place(self, level: float) -> float:
        """Return where a level lies on the axis; NaN for NaN."""
        if math.isnan(level):
            return math.nan
        if level > self.best:
            return self.equal
        return max(level, self.worst)

    def places(self, levels: Sequence[float]) -> list[float | None]:
        """Return where levels lie, None (a gap) where one is not known."""
        return [None if math.isnan(level) else self.place(level) for level in levels]

    def heights(self, levels: Sequence[float]) -> list[float | None]:
        """Return how far bars that stand on the foot of the axis reach, None for no bar."""
        return [None if math.isnan(v) else self.place(v) - self.equal for v in levels]

    def draw(self, figure: go.Figure) -> None:
        """Give the figure this axis as its y axis."""
        span = self.best - self.worst
        step = next(s for s in (5, 10, 20, 50, 100) if span / s <= 7 or s == 100)
        marks = range(step * math.ceil(self.worst / step), int(self.best) + 1, step)
        room = 0.06 * span
        shown = [float(m) for m in marks if self.equal - m > room]
        figure.update_yaxes(
            title=LEVEL, range=[self.equal, self.worst - 0.02 * span],
            tickvals=[*shown, self.equal], ticktext=[*(f"{m:g}" for m in shown), "equal"],
        )  # fmt: skip
