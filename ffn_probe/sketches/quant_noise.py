"""QuantNoise: what number formats do to the values of a site."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Num

from ffn_probe.errors import SketchError, UnknownName
from ffn_probe.sketches.widen import widen

_COLUMNS = ("count", "signal", "noise", "clipped", "zeroed")


@dataclass(frozen=True, slots=True)
class Noise:
    """Totals of one format: counts of finite values, energies in the values' unit squared."""

    count: int
    signal: float  # sum of x^2
    noise: float  # sum of (Q(x) - x)^2
    clipped: int  # values beyond the largest number of the format at their scale
    zeroed: int  # values other than zero that became zero


@dataclass(frozen=True, slots=True)
class QuantNoise:
    """Signal and noise energy per number format and granularity.

    Keys are "format:granularity", as "int8:tensor" or "mxfp4:block". Every part is
    quantized with its own scales and the parts are added, so `merge` equals the whole for
    scales no wider than a part (token, group, block), and describes the scales in use
    for the wider ones. `empty()` is the identity of `merge`, which is bitwise commutative and
    associative up to float64 rounding. Non-finite values are left out.
    """

    entries: Mapping[str, Noise] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> "QuantNoise":
        """Return the sketch without formats, the identity of `merge`."""
        return cls({})

    @classmethod
    def measured(
        cls,
        values: Num[np.ndarray, "..."],
        quantized: Mapping[str, np.ndarray],
        *,
        clipped: Mapping[str, int] | None = None,
    ) -> "QuantNoise":
        """Return the totals of `values` against what each key's quantizer made of them.

        `quantized` maps a key to an array shaped like `values`. Only positions where the
        value itself is finite count. `clipped` gives how many values a key's quantizer
        clamped (0 for a key that is absent): the results alone do not tell.

        Raises:
            SketchError: a quantized array has another shape.
        """
        wide = widen(values)
        finite = np.isfinite(wide)
        kept = wide[finite]
        clips = clipped or {}
        entries = {}
        for key, array in quantized.items():
            if array.shape != wide.shape:
                raise SketchError(f"{key} has shape {array.shape}, the values {wide.shape}")
            result = widen(array)[finite]
            zeroed = int(((result == 0) & (kept != 0)).sum())
            with np.errstate(all="ignore"):
                error = result - kept
                energies = float((kept * kept).sum()), float((error * error).sum())
            entries[key] = Noise(kept.size, *energies, clips.get(key, 0), zeroed)
        return cls(entries)

    def merge(self, other: "QuantNoise") -> "QuantNoise":
        """Return the totals of both, key by key; a key on one side only is kept."""
        entries = dict(self.entries)
        for key, theirs in other.entries.items():
            mine = entries.get(key)
            entries[key] = theirs if mine is None else _added(mine, theirs)
        return QuantNoise(entries)

    def __getitem__(self, key: str) -> Noise:
        """Return the totals of `key`.

        Raises:
            UnknownName: the key was not recorded.
        """
        if key not in self.entries:
            raise UnknownName.of("quantization", key, self.entries)
        return self.entries[key]

    def sqnr_db(self, key: str) -> float:
        """Return 10 log10(signal / noise) in dB; inf without noise, NaN without signal."""
        return sqnr_db(self[key].signal, self[key].noise)

    def to_row(self) -> dict[str, object]:
        """Return parallel lists, one column a field, sorted by key."""
        keys = sorted(self.entries)
        table = [self.entries[key] for key in keys]
        kinds = (np.int64, np.float64, np.float64, np.int64, np.int64)
        columns = zip(_COLUMNS, kinds, strict=True)
        lists = {c: np.array([getattr(n, c) for n in table], kind) for c, kind in columns}
        return {"key": keys, **lists}

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "QuantNoise":
        """Return the sketch that `to_row` came from; other columns are ignored."""
        lists = [np.asarray(row[name]).tolist() for name in _COLUMNS]
        parts = zip(*lists, strict=True)
        keys: Iterable[str] = row["key"]  # type: ignore[assignment]
        return cls({str(key): Noise(*part) for key, part in zip(keys, parts, strict=True)})

    def equals(self, other: "QuantNoise") -> bool:
        """Return whether keys and totals are the same."""
        return dict(self.entries) == dict(other.entries)


def sqnr_db(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise) in dB; inf without noise, NaN without signal."""
    if not signal > 0 or math.isnan(noise):
        return math.nan
    return 10 * (math.log10(signal) - math.log10(noise)) if noise > 0 else math.inf


def _added(a: Noise, b: Noise) -> Noise:
    return Noise(
        a.count + b.count,
        a.signal + b.signal,
        a.noise + b.noise,
        a.clipped + b.clipped,
        a.zeroed + b.zeroed,
    )
