"""Channels that carry too much or nothing, and in which layers and runs they do."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

OUTLIER = 6.0
"""Times the typical RMS from which on a channel is an outlier (as `outlier_channels`)."""

LARGE, LARGE_LAYERS = 6.0, 0.25
"""|x| >= 6 in a quarter of the layers: Dettmers et al. 2022 (LLM.int8), without their third
condition, 6 % of the tokens, which a run does not hold."""

LARGE_SHARE = 0.1
"""Of the channels; where more are large, the scale of the stream is, and nothing stands out."""

QUIET = 1e-3
"""A channel whose largest magnitude is at most this share of the typical RMS is as good as
dead (as `dead_channels`)."""

SHARED = frozenset({"resid", "normed", "out"})
"""Roles whose channels are the same in every layer: those of the residual stream."""

KINDS = ("outlier", "large", "never active", "quiet")


@dataclass(frozen=True, slots=True, eq=False)
class Widths:
    """Every channel of one role of a run: RMS, largest magnitude, active share, a row a block.

    NaN where a block has no such channel, or none of its values is finite.
    """

    role: str
    layers: tuple[int, ...]
    rms: Float64[np.ndarray, "blocks channels"]
    absmax: Float64[np.ndarray, "blocks channels"]
    active: Float64[np.ndarray, "blocks channels"]

    @property
    def typical(self) -> Float64[np.ndarray, " blocks"]:
        """Median RMS of the channels of each block that are not all zero; NaN without any."""
        alive = np.where((self.active > 0) & (self.rms > 0), self.rms, np.nan)
        return _median(alive)

    @property
    def times(self) -> Float64[np.ndarray, "blocks channels"]:
        """RMS over the typical one."""
        with np.errstate(all="ignore"):
            return np.asarray(self.rms / self.typical[:, None])

    @property
    def z(self) -> Float64[np.ndarray, "blocks channels"]:
        """Robust z of the RMS: its distance from the median in 1.4826 MAD of the block."""
        middle = _median(self.rms)[:, None]
        with np.errstate(all="ignore"):
            spread = 1.4826 * _median(np.abs(self.rms - middle))[:, None]
            return np.asarray((self.rms - middle) / spread)

    @property
    def large(self) -> Bool[np.ndarray, " channels"]:
        """Which channels of the residual stream reach LARGE in enough layers; else none."""
        if self.role not in SHARED:
            return np.zeros(self.absmax.shape[1], bool)
        with np.errstate(invalid="ignore"):
            return np.asarray((self.absmax >= LARGE).mean(axis=0) >= LARGE_LAYERS)

    @property
    def kurtosis(self) -> Float64[np.ndarray, " blocks"]:
        """mean(s^4) / mean(s^2)^2 over the channels of each block, s their RMS (He 2024)."""
        with np.errstate(all="ignore"):
            unit = self.rms / np.nanmax(self.rms, axis=1, initial=0.0)[:, None]
            known = np.maximum(np.isfinite(unit).sum(1), 1)
            square = np.nan_to_num(unit, nan=0.0) ** 2
            return np.asarray((square**2).sum(1) / known / (square.sum(1) / known) ** 2)


@dataclass(frozen=True, slots=True)
class Found:
    """A channel of one run that is unusual: of which kind, where, and by how much.

    `layers` are those in which it is; `largest` is its largest magnitude, `times` its largest
    RMS over the typical one and `z` its largest robust z, in these layers.
    """

    kind: str
    channel: int
    layers: tuple[int, ...]
    largest: float
    times: float
    z: float


@dataclass(frozen=True, slots=True)
class Match:
    """An unusual channel in the reference, the candidate or both."""

    kind: str
    channel: int
    a: Found | None
    b: Found | None

    @property
    def times(self) -> float:
        """The larger of both RMS over the typical one; 0 where neither is known."""
        known = [f.times for f in (self.a, self.b) if f is not None and f.times > 0]
        return max(known, default=0.0)

    @property
    def where(self) -> str:
        """Which runs it is in: A only, B only or both."""
        if self.a is None:
            return "B only"
        return "A only" if self.b is None else "both"


def unusual(of: Widths) -> list[Found]:
    """Return the channels that are outliers, large in many layers, never active, or quiet.

    Channels of the residual stream are listed once, with their layers; neurons, which have
    nothing in common from layer to layer, once a layer. By kind, then the largest first.
    """
    sizes = (of.absmax, of.times, of.z)
    found = [one for kind, mask in _masks(of) for one in _listed(of, kind, mask, sizes)]
    order = {kind: i for i, kind in enumerate(KINDS)}
    return sorted(found, key=lambda f: (order[f.kind], -np.nan_to_num(f.times), f.channel))


def matched(a: Sequence[Found], b: Sequence[Found], *, shared: bool) -> list[Match]:
    """Return the unusual channels of two runs, each once.

    Args:
        a: of the reference.
        b: of the candidate.
        shared: whether channels are the same in every layer: then the layers may differ.
    """
    key: Callable[[Found], tuple[object, ...]] = (
        (lambda f: (f.kind, f.channel)) if shared else (lambda f: (f.kind, f.channel, f.layers))
    )
    one, other = {key(f): f for f in a}, {key(f): f for f in b}
    found = [
        Match(f.kind, f.channel, one.get(k), other.get(k)) for k, f in {**other, **one}.items()
    ]
    order = {kind: i for i, kind in enumerate(KINDS)}
    return sorted(found, key=lambda m: (order[m.kind], -m.times, m.channel))


def _masks(of: Widths) -> Iterator[tuple[str, Bool[np.ndarray, "blocks channels"]]]:
    typical = of.typical[:, None]
    with np.errstate(invalid="ignore"):
        yield "outlier", of.rms > OUTLIER * typical
        if of.large.mean() <= LARGE_SHARE:
            yield "large", (of.absmax >= LARGE) & of.large
        never = of.active == 0
        yield "never active", never
        yield "quiet", ~never & (of.absmax <= QUIET * np.nan_to_num(typical))


def _listed(
    of: Widths,
    kind: str,
    mask: Bool[np.ndarray, "blocks channels"],
    sizes: tuple[Float64[np.ndarray, "blocks channels"], ...],
) -> Iterator[Found]:
    layers = np.array(of.layers)
    for channel in np.flatnonzero(mask.any(axis=0)).tolist():
        rows = np.flatnonzero(mask[:, channel])
        groups = [rows] if of.role in SHARED else [rows[i : i + 1] for i in range(rows.size)]
        for at in groups:
            yield Found(
                kind, channel, tuple(layers[at].tolist()),
                *(_most(x[at, channel]) for x in sizes),
            )  # fmt: skip


def _most(values: Float64[np.ndarray, " n"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else float("nan")


def _median(values: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, " rows"]:
    known = [row[~np.isnan(row)] for row in values]
    return np.array([np.median(row) if row.size else np.nan for row in known], np.float64)
