"""Evidence: what a run knows of one site, fold by fold, ready to be compared."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float64

from ffn_probe.anatomy import Site
from ffn_probe.runs import EVEN, FOLDS, ODD, WHOLE, Run
from ffn_probe.sketches import BitHistogram, Channels, Moments


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The statistics of one site (or of the experts of a mixture together) of one run.

    The arrays have one entry a fold: finite sampled values, their mean and sum of squared
    deviations, and the largest finite |x| of all rows (0 for none). `seen` and the
    non-finite counts are over all rows. `halves` are the channels of even and odd folds.
    """

    seen: int
    nan: int
    pos_inf: int
    neg_inf: int
    count: Float64[np.ndarray, " folds"]
    mean: Float64[np.ndarray, " folds"]
    m2: Float64[np.ndarray, " folds"]
    absmax: Float64[np.ndarray, " folds"]
    histograms: tuple[BitHistogram | None, ...]
    whole: BitHistogram
    halves: tuple[Channels | None, Channels | None]
    dtype: str = ""

    @classmethod
    def of(cls, run: Run, sites: Iterable[Site]) -> "Evidence":
        """Return the evidence of the sites together (one, or the experts of a mixture)."""
        return reduce(lambda a, b: a.merge(b), [cls._of_one(run, site) for site in sites])

    @classmethod
    def _of_one(cls, run: Run, site: Site) -> "Evidence":
        moments = run.load("moments").get(site, {})
        extremes = run.load("extremes").get(site, {})
        histograms = run.load("histograms").get(site, {})
        channels = run.load("channels").get(site, {})
        none = Moments.empty()
        rows = [moments.get(fold, none) for fold in range(FOLDS)]
        tops = [extremes[fold].absmax if fold in extremes else 0.0 for fold in range(FOLDS)]
        absmax = np.fmax(np.array(tops), 0.0)  # NaN without finite values
        counted = [extremes.get(fold, moment) for fold, moment in enumerate(rows)]
        count, mean, m2 = np.array([(m.count, m.mean, m.m2) for m in rows], np.float64).T
        folds = tuple(histograms.get(fold) for fold in range(FOLDS))
        whole = histograms.get(WHOLE) or _merged(folds)
        halves = channels.get(EVEN), channels.get(ODD)
        seen, nan, pos_inf, neg_inf = (
            sum(getattr(part, name) for part in counted)
            for name in ("count", "nan", "pos_inf", "neg_inf")
        )
        _, _, dtype = run.rows(site)
        return cls(
            seen, nan, pos_inf, neg_inf, count, mean, m2, absmax, folds, whole, halves, dtype
        )

    def merge(self, other: "Evidence") -> "Evidence":
        """Return the evidence of both sites as if they were one."""
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        delta = other.mean - self.mean
        pairs = zip(self.histograms, other.histograms, strict=True)
        halves = [_both(a, b) for a, b in zip(self.halves, other.halves, strict=True)]
        return Evidence(
            self.seen + other.seen,
            self.nan + other.nan,
            self.pos_inf + other.pos_inf,
            self.neg_inf + other.neg_inf,
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta * delta * share * self.count,
            np.maximum(self.absmax, other.absmax),
            tuple(a.merge(b) if a and b else a or b for a, b in pairs),
            self.whole.merge(other.whole),
            (halves[0], halves[1]),
            self.dtype if self.dtype == other.dtype else "mixed",
        )

    @property
    def nonfinite(self) -> int:
        """NaN, +Inf and -Inf values of all rows."""
        return self.nan + self.pos_inf + self.neg_inf

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds with finite values and a histogram."""
        return tuple(
            k for k in range(FOLDS) if self.count[k] > 0 and self.histograms[k] is not None
        )

    @property
    def channels(self) -> Channels | None:
        """The channels of all folds."""
        even, odd = self.halves
        return even.merge(odd) if even and odd else even or odd


def _merged(folds: Iterable[BitHistogram | None]) -> BitHistogram:
    present = [fold for fold in folds if fold is not None]
    return reduce(lambda a, b: a.merge(b), present, BitHistogram.empty())


def _both(a: Channels | None, b: Channels | None) -> Channels | None:
    """Return both together; None when they have unlike numbers of channels."""
    if a is None or b is None:
        return a or b
    return a.merge(b) if a.count.size == b.count.size else None
