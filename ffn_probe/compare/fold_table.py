"""FoldTable: the folds of a pair of sites, ready to be summed with any weights.

One row of weights picks or repeats folds: all of one run, one fold, all but one, or a draw
with replacement. Fold histograms are stored with 3 mantissa bits, so that quantiles of sums
of folds are within 6 % (linear inside a bin: far less for smooth densities), the others exact.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.panel import Parts, Reference
from ffn_probe.compare.support import Support, laid_out

Weights = Float64[np.ndarray, "rows folds"]


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """The folds of one run: cumulative counts on the support, and sums.

    `ids` are their numbers, `sums` count, sum, sum of squares of each, `absmax` the largest
    |x|.
    """

    ids: tuple[int, ...]
    ends: Float64[np.ndarray, "folds points"]
    sums: Float64[np.ndarray, "3 folds"]
    absmax: Float64[np.ndarray, " folds"]

    def parts(self, weights: Weights) -> Parts:
        """Return one row of statistics for each row of weights (>= 0, not all 0)."""
        cdf = weights @ self.ends
        cdf /= cdf[:, -1:]
        count, total, squares = self.sums @ weights.T
        absmax = np.where(weights > 0, self.absmax, 0.0).max(axis=1)
        return Parts(cdf, total / count, np.sqrt(squares / count), absmax)

    @property
    def size(self) -> int:
        """The number of folds."""
        return int(self.absmax.size)


@dataclass(frozen=True, slots=True, eq=False)
class FoldTable:
    """The folds of a site in the reference and in the candidate on one support.

    Of a paired comparison the folds are those that both have, in the same order.
    """

    support: Support
    a: Folds
    b: Folds
    reference: Reference
    paired: bool

    @classmethod
    def of(cls, a: Evidence, b: Evidence, *, gate: bool, paired: bool) -> "FoldTable | None":
        """Return the folds of two pieces of evidence; None where a side has none."""
        folds_a, folds_b = a.folds, b.folds
        if paired:
            folds_a = folds_b = tuple(k for k in folds_a if k in folds_b)
        if not folds_a or not folds_b:
            return None
        histograms = [a.histograms[k] for k in folds_a] + [b.histograms[k] for k in folds_b]
        support, counts = laid_out(histograms)
        ends = np.cumsum(counts, axis=1)
        middle = len(folds_a)
        one = _folds(a, folds_a, ends[:middle])
        other = _folds(b, folds_b, ends[middle:])
        scale = a.whole.robust_sigma() or b.whole.robust_sigma()
        whole = one.parts(np.ones((1, one.size)))
        std = float(np.sqrt(max(whole.rms[0] ** 2 - whole.mean[0] ** 2, 0.0)))
        return cls(support, one, other, Reference(scale, std, gate), paired)


def _folds(x: Evidence, folds: tuple[int, ...], ends: np.ndarray) -> Folds:
    index = list(folds)
    count, mean = x.count[index], x.mean[index]
    squares = x.m2[index] + count * mean * mean
    return Folds(folds, ends, np.stack([count, count * mean, squares]), x.absmax[index])
