"""How far every quantile moved from a reference to a candidate: what a Q-Q difference shows."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ffn_probe.figures.numbers import number
from ffn_probe.sketches import BitHistogram

SHARES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
"""The quantiles that are named on the axis."""

_POINTS = 81


@dataclass(frozen=True, slots=True)
class Shift:
    """The shift of quantiles 0.1 % to 99.9 %, candidate less reference.

    `shares` are the quantiles and `places` where they lie on a logit axis, which gives the
    tails room; `values` are the shifts in the reference's sigmas, `heights` these on an asinh
    axis.
    """

    shares: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]

    @property
    def places(self) -> Float[np.ndarray, " n"]:
        """Where the quantiles lie on the axis."""
        return np.log(self.shares / (1 - self.shares))

    @property
    def heights(self) -> Float[np.ndarray, " n"]:
        """Where the shifts lie on the axis: linear near zero, logarithmic beyond."""
        return np.asarray(np.arcsinh(self.values / _LINEAR))

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the upright axis: as far above 0 as below."""
        most = max(float(np.abs(self.heights).max()), math.asinh(1.0))
        return -1.08 * most, 1.08 * most

    @property
    def columns(self) -> tuple[tuple[float, str], ...]:
        """The marks of the level axis: (place, quantile in words)."""
        return tuple((math.log(q / (1 - q)), f"{100 * q:g} %") for q in SHARES[1::2])

    @property
    def rows(self) -> tuple[tuple[float, str], ...]:
        """The marks of the upright axis: (place, shift as text)."""
        most = math.sinh(self.ends[1] / 1.08) * _LINEAR
        power = 10.0 ** math.floor(math.log10(most))
        size = next(d * power for d in (5, 2, 1) if d * power <= most)
        marks = (-size, 0.0, size)
        return tuple((math.asinh(v / _LINEAR), number(v, signed=True)) for v in marks)


_LINEAR = 0.1  # sigmas: up to here the axis is nearly linear


def shift(a: BitHistogram, b: BitHistogram, sigma: float) -> Shift | None:
    """Return the shift of the quantiles, in units of `sigma`; None for no values."""
    if not a.count or not b.count:
        return None
    logits = np.linspace(*(math.log(q / (1 - q)) for q in (SHARES[0], SHARES[-1])), _POINTS)
    shares = 1 / (1 + np.exp(-logits))
    moved = (b.quantile(shares) - a.quantile(shares)) / sigma
    return Shift(shares, np.clip(moved, -1e30, 1e30))
