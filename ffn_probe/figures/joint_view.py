"""The pairs of gate and value of one or two blocks on one cut of the recorded grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Num

from ffn_probe.sketches import JOINT_BINS, JOINT_EDGES, Joint

FLOOR = 20
"""Pairs below which the ratio of a cell says little: its relative error is over 30 %."""

_INNER = 0.02
"""Share of the pairs around zero that the two innermost cells of an axis may hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Cells along gate or value: an octave of the magnitude each, and two around zero."""

    edges: Float64[np.ndarray, " edges"]

    @property
    def inner(self) -> float:
        """The magnitude at which the two cells around zero end."""
        return min(abs(float(edge)) for edge in self.edges if edge)

    def place(self, values: Num[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return where values fall, the cells being 1 wide; logarithmic outside of `inner`."""
        return np.asarray(self._signed(values) - self._signed(self.edges[:1])[0])

    def _signed(self, values: Num[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        size = np.abs(np.asarray(values, np.float64)) / self.inner
        log = 1 + np.log2(np.maximum(size, 1))
        return np.asarray(np.sign(values) * np.where(size < 1, size, log))

    def value(self, places: Num[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return the values at places: the inverse of `place`."""
        signed = np.asarray(places, np.float64) + self._signed(self.edges[:1])[0]
        size = np.abs(signed)
        grown = np.exp2(np.maximum(size, 1) - 1)
        return np.asarray(np.sign(signed) * self.inner * np.where(size < 1, size, grown))

    def ticks(self, most: int = 9) -> tuple[tuple[int, str], ...]:
        """Return (place, value as text) of edges: zero, and powers of two evenly apart.

        Not of those next to zero, whose text would lie over its own.
        """
        zero = int(np.flatnonzero(self.edges == 0)[0])
        reach = max(zero, self.edges.size - 1 - zero)
        step = next(s for s in (1, 2, 4, 8, 16, 32) if 2 * reach / s <= most - 1)
        found = [
            (i, f"{edge:.3g}".replace("-", "\u2212"))
            for i, edge in enumerate(self.edges.tolist())
            if edge == 0 or (abs(i - zero) > 1 and round(np.log2(abs(edge))) % step == 0)
        ]
        return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class JointView:
    """Counts of (gate cell, value cell) of a reference and, when there is one, a candidate."""

    gate: Axis
    value: Axis
    a: Int64[np.ndarray, "gates values"]
    b: Int64[np.ndarray, "gates values"] | None = None

    def shares(self, side: str) -> Float64[np.ndarray, "gates values"]:
        """Return the share of the pairs of side "a" or "b" in each cell."""
        counts = self.b if side == "b" and self.b is not None else self.a
        total = counts.sum()
        return counts / total if total else np.zeros(counts.shape)

    def densities(self, side: str) -> Float64[np.ndarray, "gates values"]:
        """Return the share per unit of gate and unit of value."""
        area = np.diff(self.gate.edges)[:, None] * np.diff(self.value.edges)
        return np.asarray(self.shares(side) / area)

    @property
    def reach(self) -> float:
        """How many octaves of the ratio a scale of colours has to hold: 0.5 to 4."""
        known = np.abs(self.log_ratio[np.isfinite(self.log_ratio)])
        most = float(np.quantile(known, 0.98)) if known.size else 0.0
        return next((step for step in (0.5, 1.0, 2.0) if most <= step), 4.0)

    @property
    def log_ratio(self) -> Float64[np.ndarray, "gates values"]:
        """log2 of the candidate's share over the reference's; NaN under FLOOR pairs in both.

        Half a pair is added to both, so that a cell that is empty on one side has a number.
        """
        if self.b is None:
            return np.full(self.a.shape, np.nan)
        one, other = ((c + 0.5) / (c.sum() + 0.5) for c in (self.a, self.b))
        known = np.maximum(self.a, self.b) >= FLOOR
        return np.where(known, np.log2(other / one), np.nan)


def joint_view(a: Joint, b: Joint | None = None) -> JointView:
    """Return the cells that hold pairs of either block; those close to zero are put together.

    An octave that is 2^-8 of the typical one would take as much room as it, for next to no
    pairs: the innermost cells reach as far as two in a hundred of the pairs on their axis do.
    """
    grids = [j.grid.reshape(JOINT_BINS, JOINT_BINS) for j in (a, b) if j is not None]
    cuts = [_cut([grid.sum(axis=1 - axis) for grid in grids]) for axis in (0, 1)]
    counts = [
        np.add.reduceat(np.add.reduceat(grid, cuts[0][:-1], axis=0), cuts[1][:-1], axis=1)
        if grid.any()
        else np.zeros((len(cuts[0]) - 1, len(cuts[1]) - 1), np.int64)
        for grid in (_trimmed(grid, cuts) for grid in grids)
    ]
    axes = [Axis(JOINT_EDGES[cut]) for cut in cuts]
    return JointView(axes[0], axes[1], counts[0], counts[1] if b is not None else None)


def _trimmed(
    grid: Int64[np.ndarray, "gates values"], cuts: list[Int64[np.ndarray, " _"]]
) -> Int64[np.ndarray, "rows columns"]:
    """Return the grid without what lies beyond the last edges, where there is nothing."""
    return grid[: cuts[0][-1], : cuts[1][-1]]


def _cut(marginals: list[Int64[np.ndarray, " bins"]]) -> Int64[np.ndarray, " edges"]:
    """Return which of the 49 edges bound the cells of an axis."""
    middle = JOINT_BINS // 2
    held = np.flatnonzero(np.sum(marginals, axis=0))
    if not held.size:
        return np.array([middle - 1, middle, middle + 1])
    low, high = min(int(held[0]), middle - 1), max(int(held[-1]) + 1, middle + 1)
    inner = 1
    while inner < max(middle - low, high - middle) - 1 and all(
        m[middle - inner - 1 : middle + inner + 1].sum() <= _INNER * m.sum() for m in marginals
    ):
        inner += 1
    left = np.arange(min(low, middle - inner), middle - inner + 1)
    right = np.arange(middle + inner, max(high, middle + inner) + 1)
    return np.concatenate([left, [middle], right])
