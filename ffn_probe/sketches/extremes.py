"""Extremes: the largest values with their addresses, and how tokens differ in size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Integer, Num

from ffn_probe.sketches.histogram import BitHistogram
from ffn_probe.sketches.widen import widen

TOP = np.dtype(
    [
        ("value", "f8"),
        ("step", "i8"),
        ("sequence", "i8"),
        ("position", "i8"),
        ("token", "i8"),
        ("channel", "i8"),
    ]
)
"""One of the largest values: where it was seen. -1 stands for unknown."""

TOKEN_BITS = 3
"""Mantissa bits of the per-token histograms: quantiles within 2^-4."""

TOKEN_SKETCHES = ("token_absmax", "token_rms", "token_ratio")

_COUNTS = ("k", "rows", "count", "nan", "pos_inf", "neg_inf")


@dataclass(frozen=True, slots=True, eq=False)
class Extremes:
    """Range, top-k |x| with addresses, and per-token absmax, RMS and |mean|/std, over all rows.

    `count` is every value seen, `rows` every token. The top holds finite values other than
    zero, by |value| descending; ties are in the order of TOP's fields, so `merge` is
    exactly associative and commutative. `empty(k)` is its identity; unlike k merge at the
    smaller. No finite values: min is +Inf and max -Inf. A token without finite values is
    NaN in the token histograms; one without spread has ratio +Inf (NaN if all zero).
    """

    k: int
    rows: int
    count: int
    nan: int
    pos_inf: int
    neg_inf: int
    min: float
    max: float
    top: np.ndarray  # of dtype TOP
    token_absmax: BitHistogram
    token_rms: BitHistogram
    token_ratio: BitHistogram

    @classmethod
    def empty(cls, k: int = 16) -> "Extremes":
        """Return the sketch of no rows, the identity of `merge` for this k."""
        none = BitHistogram.empty(TOKEN_BITS)
        top = np.zeros(0, TOP)
        return cls(k, 0, 0, 0, 0, 0, float("inf"), float("-inf"), top, none, none, none)

    @classmethod
    def of(
        cls,
        values: Num[np.ndarray, "rows channels"],
        k: int = 16,
        *,
        step: int = -1,
        sequence: Integer[np.ndarray, " rows"] | None = None,
        position: Integer[np.ndarray, " rows"] | None = None,
        token: Integer[np.ndarray, " rows"] | None = None,
    ) -> "Extremes":
        """Return the sketch of rows seen at `step`, with each row's address where known."""
        wide = widen(values)
        if wide.size == 0:
            return cls.empty(k)
        finite = np.isfinite(wide)
        labels = {"sequence": sequence, "position": position, "token": token}
        top = _largest(np.where(finite, wide, 0.0), k)
        rows, channels = np.divmod(top, wide.shape[1])
        records = np.zeros(top.size, TOP)
        records["value"], records["channel"], records["step"] = (
            wide.ravel()[top],
            channels,
            step,
        )
        for name, column in labels.items():
            records[name] = -1 if column is None else column[rows]
        return cls(
            k,
            wide.shape[0],
            wide.size,
            int(np.isnan(wide).sum()),
            int((wide == np.inf).sum()),
            int((wide == -np.inf).sum()),
            float(np.where(finite, wide, np.inf).min()),
            float(np.where(finite, wide, -np.inf).max()),
            _ranked(records, k),
            *_token_sketches(wide, finite),
        )

    def merge(self, other: "Extremes") -> "Extremes":
        """Return the sketch of both streams of rows, with the smaller k of the two."""
        k = min(self.k, other.k)
        return Extremes(
            k,
            self.rows + other.rows,
            self.count + other.count,
            self.nan + other.nan,
            self.pos_inf + other.pos_inf,
            self.neg_inf + other.neg_inf,
            min(self.min, other.min),
            max(self.max, other.max),
            _ranked(np.concatenate([self.top, other.top]), k),
            self.token_absmax.merge(other.token_absmax),
            self.token_rms.merge(other.token_rms),
            self.token_ratio.merge(other.token_ratio),
        )

    def to_row(self) -> dict[str, object]:
        """Return scalars, `top_*` lists and the columns of each token histogram."""
        row: dict[str, object] = {name: getattr(self, name) for name in _COUNTS}
        row |= {"min": self.min, "max": self.max}
        row |= {f"top_{name}": np.ascontiguousarray(self.top[name]) for name in TOP.names or ()}
        for name in TOKEN_SKETCHES:
            row |= {f"{name}_{key}": x for key, x in getattr(self, name).to_row().items()}
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Extremes":
        """Return the sketch that `to_row` came from; other columns are ignored."""
        names = TOP.names or ()
        columns = [np.asarray(row[f"top_{name}"]) for name in names]
        top = np.zeros(columns[0].size, TOP)
        for name, column in zip(names, columns, strict=True):
            top[name] = column
        fields: dict[str, Any] = {name: row[name] for name in (*_COUNTS, "min", "max")}
        keys = ("bits", "codes", "counts", "exact")
        for name in TOKEN_SKETCHES:
            fields[name] = BitHistogram.from_row({key: row[f"{name}_{key}"] for key in keys})
        return cls(**fields, top=top)

    def equals(self, other: "Extremes") -> bool:
        """Return whether every field is the same."""
        pairs = zip(self.to_row().values(), other.to_row().values(), strict=True)
        return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)

    @property
    def absmax(self) -> float:
        """Largest finite |x|, in the unit of the values; NaN for no finite values."""
        return max(abs(self.min), abs(self.max)) if self.min <= self.max else float("nan")

    @property
    def spike_ratio(self) -> float:
        """Largest per-token absmax over the median one; Inf if most tokens are zero.

        The median is within 2^-4 of the exact one.
        """
        median = float(self.token_absmax.quantile(0.5))
        if median == 0:
            return float("inf") if self.absmax > 0 else float("nan")
        return self.absmax / median


def _largest(kept: Float64[np.ndarray, "rows channels"], k: int) -> Integer[np.ndarray, " n"]:
    """Return the flat indices of the k largest |x|, and of all that tie with the last."""
    size = np.abs(kept).ravel()
    if size.size > k > 0:
        least = np.partition(size, size.size - k)[size.size - k]
        return np.flatnonzero((size >= least) & (size > 0))
    return np.flatnonzero(size > 0) if k else np.zeros(0, np.int64)


def _ranked(records: np.ndarray, k: int) -> np.ndarray:
    """Return the first k records by |value| descending, ties in a fixed order."""
    ties = [records[name] for name in reversed(TOP.names or ())]
    return records[np.lexsort([*ties, -np.abs(records["value"])])[:k]]


def _token_sketches(
    wide: Float64[np.ndarray, "rows channels"], finite: Bool[np.ndarray, "rows channels"]
) -> tuple[BitHistogram, BitHistogram, BitHistogram]:
    """Return the sketches of absmax, RMS and |mean|/std of every row's finite values."""
    kept = np.where(finite, wide, 0.0)
    count = finite.sum(axis=1).astype(np.float64)
    count[count == 0] = np.nan
    with np.errstate(all="ignore"):
        absmax = np.where(np.isnan(count), np.nan, np.abs(kept).max(axis=1))
        rms = np.sqrt((kept * kept).sum(axis=1) / count)
        # Shifted by the row's first finite value: a constant row has no spread.
        columns = finite.argmax(axis=1)[:, None]
        shift = np.take_along_axis(kept, columns, axis=1)
        deviation = np.where(finite, wide - shift, 0.0)
        offset = deviation.sum(axis=1) / count
        deviation = np.where(finite, deviation - offset[:, None], 0.0)
        spread = np.sqrt((deviation * deviation).sum(axis=1) / count)
        ratio = np.abs(shift[:, 0] + offset) / spread
    return (
        BitHistogram.of(absmax, TOKEN_BITS),
        BitHistogram.of(rms, TOKEN_BITS),
        BitHistogram.of(ratio, TOKEN_BITS),
    )
