"""The shift function: how far every quantile moved, beside what chance moves it.

Doksum & Sievers 1976, "Plotting with confidence: graphical comparisons of two populations":
the candidate's quantile less the reference's, over the reference's value.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.floor import LEAST_FOLDS, LEVEL, splits
from ffn_probe.compare.fold_table import FoldTable
from ffn_probe.compare.support import Support, laid_out

POINTS = 121
_TAIL = 1e-4  # shares below are in the tables of extremes
_LEAST = 10.0  # values beyond the outermost quantile

Quantiles = Float64[np.ndarray, " quantiles"]


@dataclass(frozen=True, slots=True, eq=False)
class QuantileShift:
    """Quantiles of a reference and of a candidate, in the unit of the tensor.

    `shares` ascend, evenly on the logit scale. `band` is what the choice of inputs alone
    moves a quantile by (95 % of random halves of the folds, pointwise), None with fewer
    than 8 folds. `sigma` is the reference's robust sigma.
    """

    shares: Quantiles
    a: Quantiles
    b: Quantiles
    band: Quantiles | None
    sigma: float

    @property
    def shift(self) -> Quantiles:
        """The candidate's quantiles less the reference's."""
        return np.asarray(self.b - self.a)


def quantile_shift(a: Evidence, b: Evidence, table: FoldTable | None) -> QuantileShift | None:
    """Return the shift of the quantiles; None where a side has no finite values.

    `table` are the folds, which the band is made of. Quantiles are linear inside a bin: to
    0.4 % of the whole, the band's (3 mantissa bits) to 6 %.
    """
    if not (a.whole.count and b.whole.count):
        return None
    least = _LEAST / min(a.whole.count, b.whole.count)
    tail = min(max(_TAIL, least), 0.25)
    ends = np.log(tail / (1 - tail))
    shares = 1 / (1 + np.exp(-np.linspace(ends, -ends, POINTS)))
    support, counts = laid_out((a.whole, b.whole))
    one, other = quantiles(support, _cumulative(counts), shares)
    sigma = a.whole.robust_sigma() or b.whole.robust_sigma() or 1.0
    return QuantileShift(shares, one, other, _band(table, shares), sigma)


def quantiles(
    support: Support, cdf: Float64[np.ndarray, "rows points"], shares: Quantiles
) -> Float64[np.ndarray, "rows quantiles"]:
    """Return the quantiles of each row of cumulative shares, linear inside a bin."""
    left = np.concatenate([-support.outer[:0:-1], support.inner])
    right = np.concatenate([-support.inner[:0:-1], support.outer])
    found = np.empty((cdf.shape[0], shares.size))
    for row, ends in zip(found, cdf, strict=True):
        at = np.minimum(np.searchsorted(ends, shares), ends.size - 1)
        before = np.where(at > 0, ends[at - 1], 0.0)
        own = ends[at] - before
        part = np.where(own > 0, (shares - before) / np.where(own > 0, own, 1.0), 1.0)
        row[:] = left[at] + np.clip(part, 0.0, 1.0) * (right[at] - left[at])
    return found


def _cumulative(counts: Float64[np.ndarray, "rows points"]) -> np.ndarray:
    ends = np.cumsum(counts, axis=1)
    return np.asarray(ends / ends[:, -1:])


def _band(table: FoldTable | None, shares: Quantiles) -> Quantiles | None:
    """Return the 95 % quantile of what halves of the folds differ by, as floors are made."""
    if table is None or min(table.a.size, table.b.size) < LEAST_FOLDS:
        return None
    ends = [folds.ends.astype(np.float64) for folds in (table.a, table.b)]
    (plus_a, minus_a), (plus_b, minus_b) = splits(table.a.size), splits(table.b.size)
    if table.paired:
        one, other = plus_a @ ends[0] + minus_b @ ends[1], minus_a @ ends[0] + plus_b @ ends[1]
        return _largest(_gaps(table, one, other, shares))
    both = [
        _largest(_gaps(table, plus @ own, minus @ own, shares))
        for plus, minus, own in ((plus_a, minus_a, ends[0]), (plus_b, minus_b, ends[1]))
    ]
    return np.asarray(np.maximum(*both) / np.sqrt(2.0))


def _gaps(
    table: FoldTable,
    one: Float64[np.ndarray, "splits points"],
    other: Float64[np.ndarray, "splits points"],
    shares: Quantiles,
) -> Float64[np.ndarray, "splits quantiles"]:
    left, right = (quantiles(table.support, x / x[:, -1:], shares) for x in (one, other))
    return np.asarray(np.abs(right - left))


def _largest(gaps: Float64[np.ndarray, "splits quantiles"]) -> Quantiles:
    ranked = np.sort(gaps, axis=0)
    return np.asarray(ranked[int(np.ceil(LEVEL * ranked.shape[0])) - 1])
