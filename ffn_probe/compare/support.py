"""Support: the histograms of a pair of sites as rows of one matrix.

Sums of rows are histograms of unions of folds, so that a whole run, a half of it and a
swap of two runs are all products with this matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ffn_probe.sketches import BitHistogram
from ffn_probe.sketches.bit_codes import infinity_code, sign_bit
from ffn_probe.sketches.histogram import bin_edges, representatives


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """The points of several histograms, mirrored about zero so that |x| folds by slicing.

    `points` are 2 m + 1 representatives, ascending, zero in the middle; `inner` and `outer`
    bound the m + 1 magnitudes, zero first; equal where the values are known exactly.
    """

    points: Float64[np.ndarray, " points"]
    inner: Float64[np.ndarray, " magnitudes"]
    outer: Float64[np.ndarray, " magnitudes"]

    @property
    def zero(self) -> int:
        """The column of exact zeros."""
        return self.inner.size - 1

    def folded(
        self, cdf: Float64[np.ndarray, "rows points"]
    ) -> Float64[np.ndarray, "rows magnitudes"]:
        """Return the cumulative shares of |x| from those of x."""
        middle = self.zero
        both = cdf[:, middle:].copy()
        both[:, :middle] -= cdf[:, :middle][:, ::-1]
        return both


def laid_out(
    histograms: Sequence[BitHistogram | None],
) -> tuple[Support, Float64[np.ndarray, "rows points"]]:
    """Return the common support of the histograms and the counts of each on it.

    Taken to the coarsest resolution among them. None, and one without finite values, is a
    row of zeros.
    """
    bits = min((h.bits for h in histograms if h is not None), default=7)
    kept = [h if h is None or h.bits == bits else h.coarsen(bits) for h in histograms]
    sizes = [0 if h is None else h.codes.size for h in kept]
    present = [h for h in kept if h is not None]
    empty = np.zeros(0, np.int64)
    codes = np.concatenate([empty, *(h.codes for h in present)])
    weights = np.concatenate([empty, *(h.counts for h in present)])
    row = np.repeat(np.arange(len(kept)), sizes)
    half = sign_bit(bits)
    magnitude = codes & (half - 1)
    finite = magnitude < infinity_code(bits)
    if not finite.all():
        codes, weights, row = codes[finite], weights[finite], row[finite]
        magnitude = magnitude[finite]
    seen = np.zeros(half, bool)
    seen[magnitude] = True
    seen[0] = True
    magnitudes = np.flatnonzero(seen)
    middle = magnitudes.size - 1
    rank = np.cumsum(seen) - 1
    column = np.where(codes >= half, middle - rank[magnitude], middle + rank[magnitude])
    width = 2 * middle + 1
    counts = np.bincount(row * width + column, weights=weights, minlength=len(kept) * width)
    exact = all(h.exact for h in present)
    return _support(magnitudes, bits, exact=exact), counts.reshape(len(kept), width)


def _support(
    magnitudes: Int64[np.ndarray, " magnitudes"], bits: int, *, exact: bool
) -> Support:
    points = representatives(magnitudes, bits, exact=exact)
    inner, outer = (points, points) if exact else bin_edges(magnitudes, bits)
    return Support(np.concatenate([-points[:0:-1], points]), inner, outer)
