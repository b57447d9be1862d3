"""Channels: the moments of every channel of a site."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num

from ffn_probe.errors import SketchError
from ffn_probe.sketches.widen import widen

_FIELDS = ("count", "mean", "m2", "absmax", "active")
_INTEGERS = ("count", "active")


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """Per channel: finite count, mean, M2, absmax and active count.

    Count, mean, m2 and active come from the sampled rows, absmax from all rows. `active`
    counts finite values other than zero. Non-finite values are left out here; Moments and
    Extremes count them. `empty(channels)` is the identity of `merge`; `merge` is bitwise
    commutative, associative up to float64 rounding, and changes neither operand.
    """

    count: Int64[np.ndarray, " channels"]
    mean: Float64[np.ndarray, " channels"]
    m2: Float64[np.ndarray, " channels"]
    absmax: Float64[np.ndarray, " channels"]
    active: Int64[np.ndarray, " channels"]

    @classmethod
    def empty(cls, channels: int) -> "Channels":
        """Return the sketch of no rows of `channels` channels, the identity of `merge`."""
        whole, real = np.zeros(channels, np.int64), np.zeros(channels)
        return cls(whole, real, real, real, whole)

    @classmethod
    def of(cls, values: Num[np.ndarray, "rows channels"]) -> "Channels":
        """Return the sketch of the rows of `values`, two passes in float64."""
        wide = widen(values)
        if wide.shape[0] == 0:
            return cls.empty(wide.shape[1])
        finite = np.isfinite(wide)
        kept = np.where(finite, wide, 0.0)
        count = finite.sum(axis=0, dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            mean, deviation = centre(wide, finite)
            m2 = (deviation * deviation).sum(axis=0)
        active = np.count_nonzero(kept, axis=0).astype(np.int64)
        return cls(count, mean, m2, np.abs(kept).max(axis=0), active)

    def merge(self, other: "Channels") -> "Channels":
        """Return the sketch of both streams of rows (Chan 1983).

        Raises:
            SketchError: the numbers of channels differ.
        """
        if self.count.shape != other.count.shape:
            raise SketchError(
                f"cannot merge sketches of {self.count.size} and {other.count.size} channels"
            )
        with np.errstate(all="ignore"):
            mean = pooled_mean(self.count, other.count, self.mean, other.mean)
            weight = pair_weight(self.count, other.count)
            delta = other.mean - self.mean
            m2 = self.m2 + other.m2 + np.where(weight > 0, weight * delta * delta, 0.0)
        return Channels(
            self.count + other.count,
            mean,
            m2,
            np.maximum(self.absmax, other.absmax),
            self.active + other.active,
        )

    @classmethod
    def concatenate(cls, parts: Iterable["Channels"]) -> "Channels":
        """Return the channels of `parts` side by side, as tensor-parallel ranks hold them."""
        listed = list(parts)
        return cls(*(np.concatenate([getattr(part, f) for part in listed]) for f in _FIELDS))

    def to_row(self) -> dict[str, object]:
        """Return the fields as 1-D arrays, one list column each."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Channels":
        """Return the sketch that `to_row` came from; other columns are ignored."""
        return cls(
            *(np.asarray(row[f], np.int64 if f in _INTEGERS else np.float64) for f in _FIELDS)
        )

    def equals(self, other: "Channels") -> bool:
        """Return whether every field is the same, NaN being equal to NaN."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in _FIELDS)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    @property
    def rms(self) -> Float64[np.ndarray, " channels"]:
        """Root mean square of each channel, in the unit of the values; NaN for no rows."""
        with np.errstate(all="ignore"):
            root: np.ndarray = np.sqrt(self.m2 / self.count + self.mean**2)
        return np.where(self.count > 0, root, np.nan)

    @property
    def std(self) -> Float64[np.ndarray, " channels"]:
        """Standard deviation of each channel (biased); NaN for no rows."""
        with np.errstate(divide="ignore", invalid="ignore"):
            root: np.ndarray = np.sqrt(self.m2 / self.count)
        return root

    def he_kurtosis(self) -> float:
        """Return mean(s^4) / mean(s^2)^2 over channels, s the channel's RMS.

        From 1 (all channels alike) to the number of channels (one carries everything);
        NaN when nothing was seen, all is zero, or a square overflowed (float64 values
        beyond 1e154). Source: He et al. 2024, 2405.19279, eq. 1.
        """
        rms = self.rms[self.count > 0]
        largest = rms.max(initial=0.0)
        if not 0 < largest < np.inf:
            return float("nan")
        square = (rms / largest) ** 2
        return float((square**2).mean() / square.mean() ** 2)

    def dead(self, relative: float = 1e-3) -> Bool[np.ndarray, " channels"]:
        """Return the channels whose absmax is at most `relative` times the typical RMS.

        Typical is the median RMS over channels that are not all zero, so a channel that is
        always zero is dead at any threshold. Channels without rows are not called dead.
        """
        quiet: np.ndarray = self.absmax <= relative * self._typical_rms
        return quiet & (self.count > 0)

    def outliers(self, factor: float = 6.0) -> Bool[np.ndarray, " channels"]:
        """Return the channels whose RMS is above `factor` times the typical RMS."""
        above: np.ndarray = np.nan_to_num(self.rms, nan=0.0) > factor * self._typical_rms
        return above

    @property
    def _typical_rms(self) -> float:
        """Median RMS over the channels that are not all zero; 0 when there is none."""
        alive = self.rms[(self.count > 0) & (self.active > 0)]
        return float(np.median(alive)) if alive.size else 0.0


def centre(
    values: Float64[np.ndarray, "rows channels"], kept: Bool[np.ndarray, "rows channels"]
) -> tuple[Float64[np.ndarray, " channels"], Float64[np.ndarray, "rows channels"]]:
    """Return the mean of the kept values of each channel and the deviations, 0 elsewhere.

    Shifted by each channel's first kept value, so a constant channel has no variance.
    """
    columns = np.arange(values.shape[1])
    shift = np.where(kept.any(axis=0), values[kept.argmax(axis=0), columns], 0.0)
    deviation = np.where(kept, values - shift, 0.0)
    offset = deviation.sum(axis=0) / np.maximum(kept.sum(axis=0), 1)
    mean: np.ndarray = shift + offset
    return mean, np.where(kept, deviation - offset, 0.0)


def pooled_mean(
    count_a: Int64[np.ndarray, " channels"],
    count_b: Int64[np.ndarray, " channels"],
    mean_a: Float64[np.ndarray, " channels"],
    mean_b: Float64[np.ndarray, " channels"],
) -> Float64[np.ndarray, " channels"]:
    """Return the means of two streams together; exact where one is empty or both agree."""
    total = np.maximum(count_a + count_b, 1)
    mean = mean_a * (count_a / total) + mean_b * (count_b / total)
    mean = np.where(mean_a == mean_b, mean_a, mean)
    return np.where(count_a == 0, mean_b, np.where(count_b == 0, mean_a, mean))


def pair_weight(
    count_a: Int64[np.ndarray, " channels"], count_b: Int64[np.ndarray, " channels"]
) -> Float64[np.ndarray, " channels"]:
    """Return n_a n_b / (n_a + n_b), the weight of the squared difference of two means."""
    both = count_a.astype(np.float64) * count_b.astype(np.float64)
    weight: np.ndarray = both / np.maximum(count_a + count_b, 1)
    return weight
