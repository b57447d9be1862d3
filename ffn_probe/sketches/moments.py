"""Moments: count, mean and central moments of a stream, exact under merging."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Num

from ffn_probe.sketches.widen import widen

_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and central sums of powers of the finite values of a stream.

    `empty()` is the identity of `merge`; `merge` is bitwise commutative, and associative
    up to float64 rounding; neither operand changes. NaN, +Inf and -Inf are counted apart
    and never folded in. No values: `mean` is 0 and every ratio is NaN. One value: variance
    0, skew and kurtosis NaN. Exact to about 1e-12 for anything float32 can hold; values
    beyond 1e77 (float64 sources only) overflow the fourth power to inf without raising.

    >>> import numpy as np, scipy.stats
    >>> values = np.array([1.0, 2.0, 3.0, 10.0, np.nan])
    >>> sketch = Moments.of(values)
    >>> sketch.count, sketch.nan, sketch.mean
    (4, 1, 4.0)
    >>> bool(np.isclose(sketch.kurtosis_fisher, scipy.stats.kurtosis(values[:4])))
    True
    """

    count: int
    nan: int
    pos_inf: int
    neg_inf: int
    mean: float
    m2: float  # sum of (x - mean)^2, in the unit of the values squared
    m3: float
    m4: float

    @classmethod
    def empty(cls) -> "Moments":
        """Return the sketch of no values, the identity of `merge`."""
        return cls(0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)

    @classmethod
    def of(cls, values: Num[np.ndarray, "..."]) -> "Moments":
        """Return the sketch of `values`, two passes in float64."""
        flat = widen(values).ravel()
        kept = flat[np.isfinite(flat)]
        nan, pos_inf = int(np.isnan(flat).sum()), int((flat == np.inf).sum())
        neg_inf = flat.size - kept.size - nan - pos_inf
        if kept.size == 0:
            return cls(0, nan, pos_inf, neg_inf, 0.0, 0.0, 0.0, 0.0)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            # Shifted by the first value, so that a constant has exactly no variance.
            mean = float(kept[0] + (kept - kept[0]).mean())
            if not math.isfinite(mean):
                mean = float((kept / kept.size).sum())
            deviation = kept - mean
            square = deviation * deviation
            m2, m3 = float(square.sum()), float((square * deviation).sum())
            m4 = float((square * square).sum())
        return cls(kept.size, nan, pos_inf, neg_inf, mean, m2, m3, m4)

    def merge(self, other: "Moments") -> "Moments":
        """Return the sketch of both streams together (Chan 1983; Pebay 2008, eq. 2.1)."""
        nan, pos_inf = self.nan + other.nan, self.pos_inf + other.pos_inf
        neg_inf = self.neg_inf + other.neg_inf
        if self.count == 0 or other.count == 0:
            kept = other if self.count == 0 else self
            sums = (kept.mean, kept.m2, kept.m3, kept.m4)
            return Moments(kept.count, nan, pos_inf, neg_inf, *sums)
        sums = _pooled(self, other)
        return Moments(self.count + other.count, nan, pos_inf, neg_inf, *sums)

    def to_row(self) -> dict[str, object]:
        """Return the fields as plain scalars, one column each."""
        return {
            "count": self.count,
            "nan": self.nan,
            "pos_inf": self.pos_inf,
            "neg_inf": self.neg_inf,
            "mean": self.mean,
            "m2": self.m2,
            "m3": self.m3,
            "m4": self.m4,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Moments":
        """Return the sketch that `to_row` came from; other columns are ignored."""
        counts = [int(row[name]) for name in ("count", "nan", "pos_inf", "neg_inf")]  # type: ignore[call-overload]
        sums = [float(row[name]) for name in ("mean", "m2", "m3", "m4")]  # type: ignore[arg-type]
        return cls(*counts, *sums)

    def equals(self, other: "Moments") -> bool:
        """Return whether every field is the same, NaN being equal to NaN."""
        mine, theirs = list(self.to_row().values()), list(other.to_row().values())
        return bool(np.array_equal(np.array(mine), np.array(theirs), equal_nan=True))

    @property
    def nonfinite(self) -> int:
        """NaN, +Inf and -Inf together, values."""
        return self.nan + self.pos_inf + self.neg_inf

    @property
    def variance(self) -> float:
        """Mean squared deviation (biased, divided by count); NaN for no values."""
        return self.m2 / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Root of `variance`, in the unit of the values."""
        return math.sqrt(self.variance)

    @property
    def energy(self) -> float:
        """Sum of squares, in the unit of the values squared; 0 for no values."""
        return self.m2 + self.count * self.mean * self.mean

    @property
    def rms(self) -> float:
        """Root mean square, in the unit of the values; NaN for no values."""
        return math.sqrt(self.energy / self.count) if self.count else math.nan

    @property
    def skew(self) -> float:
        """Fisher-Pearson skewness E3 / E2^1.5 (biased); NaN for a constant."""
        if self._constant:
            return math.nan
        return self.m3 / self.m2 * math.sqrt(self.count / self.m2)

    @property
    def kurtosis_pearson(self) -> float:
        """Centred E4 / E2^2, 3 for a Gaussian (biased); NaN for a constant."""
        return math.nan if self._constant else self.m4 / self.m2 / self.m2 * self.count

    @property
    def kurtosis_fisher(self) -> float:
        """`kurtosis_pearson` - 3, 0 for a Gaussian."""
        return self.kurtosis_pearson - 3.0

    @property
    def _constant(self) -> bool:
        """Whether the spread is no more than the rounding of the mean."""
        if self.count == 0 or self.m2 == 0:
            return True
        return math.sqrt(self.m2 / self.count) <= 4 * _EPSILON * abs(self.mean)


def _pooled(a: Moments, b: Moments) -> tuple[float, float, float, float]:
    """Return mean, m2, m3, m4 of two non-empty streams, symmetric in every term."""
    count_a, count_b = float(a.count), float(b.count)
    share_a, share_b = count_a / (count_a + count_b), count_b / (count_a + count_b)
    mean = a.mean if a.mean == b.mean else share_a * a.mean + share_b * b.mean
    with np.errstate(all="ignore"):
        delta = np.float64(b.mean) - np.float64(a.mean)
        both = count_a * count_b / (count_a + count_b) * delta * delta
        m2 = a.m2 + b.m2 + both
        m3 = a.m3 + b.m3 + both * delta * (share_a - share_b)
        m3 += 3 * delta * (share_a * b.m2 - share_b * a.m2)
        m4 = a.m4 + b.m4
        m4 += both * delta * delta * (share_a * share_a + share_b * share_b - share_a * share_b)
        m4 += 6 * delta * delta * (share_a * share_a * b.m2 + share_b * share_b * a.m2)
        m4 += 4 * delta * (share_a * b.m3 - share_b * a.m3)
    return float(mean), float(m2), float(m3), float(m4)
