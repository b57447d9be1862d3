"""BitHistogram: exact counts on the bit patterns of the values."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, Num

from ffn_probe.sketches.bit_codes import (
    MAX_BITS,
    bit_codes,
    canonical_dense,
    coarser,
    infinity_code,
    magnitude_edges,
    nan_code,
    sign_bit,
)
from ffn_probe.sketches.expected_noise import (
    NumberFormat,
    mean_squares,
    square_errors,
    weighted_mean,
)
from ffn_probe.sketches.quant_noise import sqnr_db
from ffn_probe.sketches.widen import widen


@dataclass(frozen=True, slots=True, eq=False)
class BitHistogram:
    """Counts of values by sign, exponent and `bits` mantissa bits (7: a bfloat16).

    No range, no rescale, integer counts: `merge` is exactly associative and commutative, at the
    coarser of two resolutions, and `empty()` is its identity. A quantile is within
    `quantile_bound` (2^-(bits+1), relative; 2^-8 at 7 bits) of the value of that rank, and
    exact when `exact`: every value was its bin's lower edge, as bfloat16 values are. Below
    2^-126 the error is under 2^-(126+bits), absolute. NaN, +Inf, -Inf and exact zeros have
    codes of their own; "count" and every statistic are over finite values.

    >>> import numpy as np
    >>> sketch = BitHistogram.of(np.array([0.0, 1.0, 2.0, 4.0, np.inf], dtype=np.float32))
    >>> sketch.count, sketch.zeros, sketch.pos_inf, float(sketch.quantile(0.5))
    (4, 1, 1, 1.0)
    """

    bits: int
    codes: Int32[np.ndarray, " bins"]  # ascending, unique
    counts: Int64[np.ndarray, " bins"]  # > 0
    exact: bool

    @classmethod
    def empty(cls, bits: int = MAX_BITS) -> "BitHistogram":
        """Return the histogram of no values; with 7 bits the identity of `merge`."""
        return cls(bits, np.zeros(0, np.int32), np.zeros(0, np.int64), exact=True)

    @classmethod
    def of(cls, values: Num[np.ndarray, "..."], bits: int = MAX_BITS) -> "BitHistogram":
        """Return the histogram of `values`, of any float or integer type."""
        flat = np.asarray(values).ravel()
        codes = bit_codes(flat, bits)
        dense = np.bincount(codes, minlength=2 * sign_bit(bits))
        finite = np.isfinite(flat)
        edges = magnitude_edges(bits)
        magnitude = np.minimum(codes & (sign_bit(bits) - 1), edges.size - 1)
        exact = bool(np.all((np.abs(widen(flat)) == edges[magnitude]) | ~finite))
        return cls.of_codes(dense.astype(np.int64), bits, exact=exact)

    @classmethod
    def of_codes(
        cls, dense_counts: Int64[np.ndarray, " codes"], bits: int = MAX_BITS, *, exact: bool
    ) -> "BitHistogram":
        """Return the histogram of a dense count vector of length 2^(9 + bits).

        Raises:
            SketchError: the vector has another length.
        """
        dense, codes = dense_counts, np.flatnonzero(dense_counts)
        unusual = codes & (sign_bit(bits) - 1) > infinity_code(bits)
        if unusual.any() or dense.size != 2 * sign_bit(bits):
            dense = canonical_dense(dense, bits)
            codes = np.flatnonzero(dense)
        return cls(bits, codes.astype(np.int32), dense[codes], exact=exact)

    def coarsen(self, bits: int) -> "BitHistogram":
        """Return the histogram with `bits` mantissa bits, exactly as if made with them.

        Raises:
            SketchError: `bits` is above the present ones or below 1.
        """
        codes = coarser(self.codes, self.bits, bits)
        if bits == self.bits:
            return self
        exact = self.exact and not np.any(self.codes & ((1 << (self.bits - bits)) - 1))
        return BitHistogram(bits, *_grouped(codes, self.counts), exact=bool(exact))

    def merge(self, other: "BitHistogram") -> "BitHistogram":
        """Return the histogram of both streams, at the coarser of the two resolutions."""
        bits = min(self.bits, other.bits)
        a, b = self.coarsen(bits), other.coarsen(bits)
        codes = np.concatenate([a.codes, b.codes])
        counts = np.concatenate([a.counts, b.counts])
        return BitHistogram(bits, *_grouped(codes, counts), exact=a.exact and b.exact)

    def to_row(self) -> dict[str, object]:
        """Return bits, codes, counts, exact: two scalars and two list columns."""
        return {
            "bits": self.bits,
            "codes": self.codes,
            "counts": self.counts,
            "exact": self.exact,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "BitHistogram":
        """Return the histogram that `to_row` came from; nothing is checked (speed)."""
        codes, counts = np.asarray(row["codes"], np.int32), np.asarray(row["counts"], np.int64)
        return cls(int(row["bits"]), codes, counts, exact=bool(row["exact"]))  # type: ignore[call-overload]

    def equals(self, other: "BitHistogram") -> bool:
        """Return whether resolution, exactness and counts are the same."""
        same = self.bits == other.bits and self.exact == other.exact
        return (
            same
            and np.array_equal(self.codes, other.codes)
            and np.array_equal(self.counts, other.counts)
        )

    # ---- counts -------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Finite values."""
        return int(self.counts[self._finite].sum())

    @property
    def nan(self) -> int:
        """NaN values."""
        return self._at(nan_code(self.bits))

    @property
    def pos_inf(self) -> int:
        """+Inf values."""
        return self._at(infinity_code(self.bits))

    @property
    def neg_inf(self) -> int:
        """-Inf values."""
        return self._at(infinity_code(self.bits) + sign_bit(self.bits))

    @property
    def zeros(self) -> int:
        """Values that are exactly +0 or -0."""
        return self._at(0) + self._at(sign_bit(self.bits))

    @property
    def zero_share(self) -> float:
        """Exact zeros among the finite values, 0..1; NaN for no values."""
        return self.zeros / self.count if self.count else float("nan")

    # ---- the support, in the order of the values ----------------------------------------

    def ordered(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Return the signed magnitude codes of the finite values, ascending, and counts.

        +0 and -0 are one point, code 0.
        """
        finite = self._finite
        codes, counts = self.codes[finite].astype(np.int64), self.counts[finite]
        split = int(np.searchsorted(codes, sign_bit(self.bits)))
        negative = sign_bit(self.bits) - codes[split:][::-1]
        signed = np.concatenate([negative, codes[:split]])
        counts = np.concatenate([counts[split:][::-1], counts[:split]])
        zero = np.flatnonzero(signed == 0)
        if zero.size == 2:
            counts[zero[0]] += counts[zero[1]]
            signed, counts = np.delete(signed, zero[1]), np.delete(counts, zero[1])
        return signed, counts

    def weights(self) -> Int64[np.ndarray, " n"]:
        """Return the counts of the finite bins in the order of the values."""
        return self.ordered()[1]

    def edges(self) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Return the left and right edge of each finite bin in the order of the values.

        The bin of zero is [0, 0].
        """
        signed, _ = self.ordered()
        inner, outer = bin_edges(np.abs(signed), self.bits)
        negative = signed < 0
        return np.where(negative, -outer, inner), np.where(negative, -inner, outer)

    def midpoints(self) -> Float64[np.ndarray, " n"]:
        """Return each finite bin's representative in the order of the values.

        The value itself when `exact`, else the middle of the bin.
        """
        return representatives(self.ordered()[0], self.bits, exact=self.exact)

    # ---- statistics ---------------------------------------------------------------------

    @property
    def quantile_bound(self) -> float:
        """Largest relative error of a quantile; 0 when `exact`."""
        return 0.0 if self.exact else 2.0 ** -(self.bits + 1)

    def quantile(self, q: float | Float64[np.ndarray, " q"]) -> np.ndarray:
        """Return the value of rank ceil(q n) for each share q, 0..1; NaN for no values.

        numpy's "inverted_cdf", within `quantile_bound` of the exact answer.
        """
        return _at_rank(self.midpoints(), self.weights(), np.asarray(q, np.float64))

    def abs_quantile(self, q: float | Float64[np.ndarray, " q"]) -> np.ndarray:
        """Return the quantile of |x| for each share q, 0..1; NaN for no values."""
        points, counts = self._folded()
        return _at_rank(points, counts, np.asarray(q, np.float64))

    def cdf(self, x: float | Float64[np.ndarray, " x"]) -> np.ndarray:
        """Return the share of finite values at or below x, linear inside a bin."""
        return _share_below(
            self.edges(), self.midpoints(), self.weights(), np.asarray(x), exact=self.exact
        )

    def share_above(self, limit: float) -> float:
        """Return the share of finite values with |x| > limit, linear inside a bin."""
        magnitude, counts = self._magnitudes()
        inner, outer = bin_edges(magnitude, self.bits)
        points = representatives(magnitude, self.bits, exact=self.exact)
        below = _share_below(
            (inner, outer), points, counts, np.asarray(limit, np.float64), exact=self.exact
        )
        return float(1.0 - below)

    def smallest_energy(self, share: float = 0.5) -> float:
        """Return the part of the sum of squares held by the smallest `share` of |x|, 0..1."""
        points, counts = self._folded()
        if counts.size == 0 or points[-1] == 0:
            return float("nan")
        energy = counts * (points / points[-1]) ** 2
        ends = np.cumsum(counts) / counts.sum()
        part = np.interp(share, np.r_[0.0, ends], np.r_[0.0, np.cumsum(energy)])
        return float(part / energy.sum())

    def robust_sigma(self) -> float:
        """Return a scale that massive values do not move, in the unit of the values.

        The first that is above zero of: interquartile range / 1.349, median absolute
        deviation of the non-zeros * 1.4826, RMS. 0 when all values are zero, or none.
        """
        points, counts = self.midpoints(), self.weights()
        if counts.size == 0:
            return 0.0
        low, high = _at_rank(points, counts, np.array([0.25, 0.75]))
        if high > low:
            return float((high - low) / 1.349)
        spread = _median_deviation(points[points != 0], counts[points != 0])
        if spread > 0:
            return 1.4826 * spread
        peak = float(np.abs(points).max())
        if peak == 0:
            return 0.0
        return peak * float(np.sqrt(np.average((points / peak) ** 2, weights=counts)))

    @property
    def absmax_bin(self) -> float:
        """Representative of the bin of the largest |x|; NaN for no values."""
        points, _ = self._folded()
        return float(points[-1]) if points.size else float("nan")

    # ---- what a number format would do --------------------------------------------------

    def noise(self, number_format: NumberFormat, scale: float = 1.0) -> float:
        """Return the expected squared error of quantizing a value, in its unit squared.

        Q(x) = round(x / scale) * scale on the numbers of an elementwise format, clamped to
        its largest. Each bin's values count as evenly spread, or as the bin's value when
        `exact`. NaN for no values. Within 0.1 dB of quantizing the values themselves, unless a
        few float32 values carry most of the energy, or they are below 2^-126 (where bins are
        wide): a bin does not tell where they lie in it.

        Raises:
            SketchError: the scale is not a positive number, or the format has blocks.
        """
        inner, outer, counts = self._spread()
        errors = square_errors(inner, outer, number_format=number_format, scale=scale)
        return weighted_mean(errors, counts)

    def sqnr_db(self, number_format: NumberFormat, scale: float = 1.0) -> float:
        """Return 10 log10(mean x^2 / `noise`) in dB; inf without noise, NaN without signal."""
        inner, outer, counts = self._spread()
        signal = weighted_mean(mean_squares(inner, outer), counts)
        return sqnr_db(signal, self.noise(number_format, scale))

    # ---- parts --------------------------------------------------------------------------

    @property
    def _finite(self) -> Bool[np.ndarray, " bins"]:
        """Which bins hold finite values."""
        return (self.codes & (sign_bit(self.bits) - 1)) < infinity_code(self.bits)

    def _at(self, code: int) -> int:
        index = int(np.searchsorted(self.codes, code))
        found = index < self.codes.size and self.codes[index] == code
        return int(self.counts[index]) if found else 0

    def _magnitudes(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Return the magnitude codes of the finite values, ascending, and their counts."""
        finite = self._finite
        magnitude = self.codes[finite].astype(np.int64) & (sign_bit(self.bits) - 1)
        return _grouped(magnitude, self.counts[finite])

    def _spread(
        self,
    ) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Return the bounds of |x| in each bin, equal when `exact`, and the counts."""
        magnitude, counts = self._magnitudes()
        if self.exact:
            points = representatives(magnitude, self.bits, exact=True)
            return points, points, counts
        return *bin_edges(magnitude, self.bits), counts

    def _folded(self) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Return the representatives of |x|, ascending, and their counts."""
        magnitude, counts = self._magnitudes()
        return representatives(magnitude, self.bits, exact=self.exact), counts


def bin_edges(
    magnitude: Int64[np.ndarray, " n"], bits: int
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Return the inner and outer edge of magnitude codes; those of code 0 are both 0."""
    table = magnitude_edges(bits)
    inner = np.where(magnitude == 1, 0.0, table[magnitude])
    outer = np.where(magnitude == 0, 0.0, table[magnitude + 1])
    return inner, outer


def representatives(
    signed: Int64[np.ndarray, " n"], bits: int, *, exact: bool
) -> Float64[np.ndarray, " n"]:
    """Return the value that stands for each signed magnitude code."""
    magnitude = np.abs(signed)
    if exact:
        points: np.ndarray = magnitude_edges(bits)[magnitude]
    else:
        inner, outer = bin_edges(magnitude, bits)
        points = (inner + outer) / 2
    return np.where(signed < 0, -points, points)


def _grouped(
    codes: np.ndarray, counts: Int64[np.ndarray, " n"]
) -> tuple[np.ndarray, Int64[np.ndarray, " m"]]:
    """Return the distinct codes, ascending, and the sums of their counts."""
    if codes.size == 0:
        return codes, counts
    order = np.argsort(codes, kind="stable")
    codes, counts = codes[order], counts[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    return codes[starts], np.add.reduceat(counts, starts)


def _at_rank(
    points: Float64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"], q: np.ndarray
) -> np.ndarray:
    if counts.size == 0:
        return np.full(q.shape, np.nan)
    ends = np.cumsum(counts)
    total = int(ends[-1])
    rank = np.clip(np.ceil(q * total), 1, float(total)).astype(np.int64)
    index = np.searchsorted(ends, np.minimum(rank, total), side="left")
    return np.asarray(points[index])


def _share_below(
    edges: tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]],
    points: Float64[np.ndarray, " n"],
    counts: Int64[np.ndarray, " n"],
    x: np.ndarray,
    *,
    exact: bool,
) -> np.ndarray:
    """Return the share of values at or below x."""
    if counts.size == 0:
        return np.full(x.shape, np.nan)
    ends = np.r_[0, np.cumsum(counts)]
    if exact:
        return np.asarray(ends[np.searchsorted(points, x, side="right")] / ends[-1])
    left, right = edges
    bin_of = np.searchsorted(left, x, side="right") - 1
    inside = np.maximum(bin_of, 0)
    width = right[inside] - left[inside]
    part = np.where(width > 0, (x - left[inside]) / np.where(width > 0, width, 1.0), 1.0)
    share = ends[inside] + counts[inside] * np.clip(part, 0.0, 1.0)
    return np.asarray(np.where(bin_of < 0, 0.0, share) / ends[-1])


def _median_deviation(
    points: Float64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]
) -> float:
    """Return the median absolute deviation from the median; 0 for no values."""
    if counts.size == 0:
        return 0.0
    half = np.array(0.5)
    deviation = np.abs(points - _at_rank(points, counts, half))
    order = np.argsort(deviation, kind="stable")
    return float(_at_rank(deviation[order], counts[order], half))
