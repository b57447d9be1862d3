"""Two histograms on shared bins: what an overlay of distributions shows."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ffn_probe.sketches import BitHistogram

BINS = 96

Axis = Literal["asinh", "log"]
"""asinh is linear up to the robust sigma; log shows the decades below it, too."""

_SMALLEST = 1e-3  # share of the values other than zero that a log axis leaves near zero
_DECADES = 1e-8  # of the largest |x|: a log axis begins there at the least

_LARGEST = float(np.finfo(np.float32).max)
_NONE = BitHistogram.empty()


@dataclass(frozen=True, slots=True)
class Density:
    """Densities of a reference and a candidate over asinh(x / scale).

    `edges` are the bins' edges on that axis, `a` and `b` the shares per unit of the axis (0
    where a bin is empty), `ticks` pairs of (place on the axis, value as text). `scale` is
    up to where the axis is linear, in the unit of the tensor: the reference's robust sigma,
    or far less on a log axis.
    """

    edges: Float[np.ndarray, " edges"]
    a: Float[np.ndarray, " bins"]
    b: Float[np.ndarray, " bins"]
    ticks: tuple[tuple[float, str], ...]
    scale: float

    def values(self, places: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the values at places on the axis, in the unit of the tensor (float32)."""
        values = np.clip(np.sinh(places) * self.scale, -_LARGEST, _LARGEST)
        return np.asarray(values)

    def places(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return where values lie on the axis."""
        return np.asarray(np.arcsinh(values / self.scale))

    @property
    def powers(self) -> tuple[float, float] | None:
        """The powers of ten between which the densities lie, at most 8; None without any."""
        heights = np.concatenate([self.a, self.b])
        known = heights[heights > 0]
        if not known.size:
            return None
        high = math.ceil(2 * math.log10(known.max()) + 0.1) / 2
        return max(float(math.floor(math.log10(known.min()))), high - 8), high

    def outline(
        self, heights: Float[np.ndarray, " bins"], floor: float
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Return the corners of the steps, which fall to `floor` where a bin is empty.

        A lone value in a tail, or an atom, is so a column that can be seen.
        """
        x = np.concatenate([self.edges[:1], np.repeat(self.edges, 2)[1:-1], self.edges[-1:]])
        y = np.repeat(np.where(heights > 0, heights, floor), 2)
        return x, np.concatenate([[floor], y, [floor]])


def shared_density(
    a: BitHistogram, b: BitHistogram | None = None, *, bins: int = BINS, axis: Axis = "asinh"
) -> Density:
    """Return the densities of two histograms on bins that hold all values of both.

    The axis is asinh(x / s): linear near zero, logarithmic in the tails; on a log axis s is
    so small that both signs are logarithmic in |x| but for 1 in 1,000 values. With no
    finite value on either side the densities are 0.
    """
    other = _NONE if b is None else b
    scale = _scale(a, other)
    if axis == "log":
        scale = min(scale, _smallest(a, other) or scale)
    ends = [_ends(h, scale) for h in (a, other) if h.count] or [(-1.0, 1.0)]
    low, top = min(e[0] for e in ends), max(e[1] for e in ends)
    if top <= low:
        low, top = low - 1, top + 1
    pad = 0.02 * (top - low)
    low, top = low - pad, top + pad
    edges = np.linspace(low, top, bins + 1)
    return Density(edges, _shares(a, edges, scale), _shares(other, edges, scale),
                   _ticks(low, top, scale), scale)  # fmt: skip


def _scale(a: BitHistogram, b: BitHistogram) -> float:
    for histogram in (a, b):
        if histogram.count:
            sigma = histogram.robust_sigma()
            if sigma > 0 and math.isfinite(sigma):
                return float(sigma)
    return 1.0


def _smallest(a: BitHistogram, b: BitHistogram) -> float:
    """Return the |x| that all but few of the values other than zero exceed; 0 without any."""
    found = []
    for histogram in (a, b):
        zeros = histogram.zeros
        if histogram.count > zeros:
            share = (zeros + _SMALLEST * (histogram.count - zeros)) / histogram.count
            least, largest = histogram.abs_quantile(np.array([share, 1.0])).tolist()
            found.append(max(least, _DECADES * largest))
    return min(found, default=0.0)


def _ends(histogram: BitHistogram, scale: float) -> tuple[float, float]:
    low, top = histogram.quantile(np.array([0.0, 1.0])).tolist()
    return math.asinh(low / scale), math.asinh(top / scale)


def _shares(
    histogram: BitHistogram, edges: Float[np.ndarray, " edges"], scale: float
) -> Float[np.ndarray, " bins"]:
    """Return the density per unit of the axis; a zero atom falls into its bin."""
    if not histogram.count:
        return np.zeros(edges.size - 1)
    places = np.arcsinh(histogram.midpoints() / scale)
    mass, _ = np.histogram(places, bins=edges, weights=histogram.weights().astype(np.float64))
    return mass / histogram.count / np.diff(edges)


def _ticks(low: float, top: float, scale: float) -> tuple[tuple[float, str], ...]:
    largest = max(abs(math.sinh(low)), abs(math.sinh(top))) * scale
    powers = [10.0**k for k in range(-45, 39) if scale / 3 <= 10.0**k <= largest]
    if len(powers) < 3:  # less than three decades: 1, 2, 5
        steps = (digit * 10.0**k for k in range(-45, 39) for digit in (1, 2, 5))
        powers = [step for step in steps if scale * 0.8 <= step <= largest]
    while len(powers) > 4:
        powers = powers[1::2]
    values = [*(-p for p in reversed(powers)), 0.0, *powers]
    places = ((math.asinh(v / scale), f"{v:g}") for v in values)
    return tuple((place, text) for place, text in places if low <= place <= top)
