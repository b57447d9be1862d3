"""What changes in single channels, with a floor from the even and the odd folds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from ffn_probe.compare.evidence import Evidence
from ffn_probe.sketches import Channels

DEAD = 1e-3  # of the typical RMS
OUTLIER = 6.0  # times the typical RMS
_MARGIN = 1.5  # a channel changes state only when it passes the limit by this factor

NAMES = ("channel_rms", "dead_channels", "outlier_channels")


@dataclass(frozen=True, slots=True)
class ChannelChange:
    """A number, and which channels it is about, in words."""

    value: float
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Energies:
    """What the comparison needs of each channel: rows, sum of squares, absmax.

    Sums, so that halves add up; 30,000 channels of 600 sites are passed over once.
    """

    count: Float64[np.ndarray, " channels"]
    squares: Float64[np.ndarray, " channels"]
    absmax: Float64[np.ndarray, " channels"]

    @classmethod
    def of(cls, channels: Channels) -> "Energies":
        """Return the energies of the channels."""
        count = channels.count.astype(np.float64)
        squares = channels.mean * channels.mean
        squares *= count
        squares += channels.m2
        return cls(count, squares, channels.absmax)

    def plus(self, other: "Energies") -> "Energies":
        """Return the energies of both together."""
        return Energies(
            self.count + other.count,
            self.squares + other.squares,
            np.maximum(self.absmax, other.absmax),
        )

    def view(self, typical: float | None = None) -> "ChannelView":
        """Return mean squares and the typical RMS; for halves, that of the whole is given."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_square = self.squares / self.count
        seen = None if self.count.min() > 0 else self.count > 0
        if typical is None:
            alive = mean_square if mean_square.min() > 0 else mean_square[mean_square > 0]
            typical = math.sqrt(_median(alive))
        return ChannelView(mean_square, self.absmax, seen, typical)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelView:
    """The mean square and absmax of each channel and the typical RMS.

    Typical is the median over channels that are not all zero; `seen` is None when every
    channel has rows.
    """

    mean_square: Float64[np.ndarray, " channels"]
    absmax: Float64[np.ndarray, " channels"]
    seen: Bool[np.ndarray, " channels"] | None
    typical: float

    def dead(self, margin: float = 1.0) -> Bool[np.ndarray, " channels"]:
        """Return the channels that have rows and never more than 1e-3 of the typical RMS."""
        quiet: np.ndarray = self.absmax <= DEAD * margin * self.typical
        return quiet if self.seen is None else quiet & self.seen

    def outliers(self, margin: float = 1.0) -> Bool[np.ndarray, " channels"]:
        """Return the channels with at least 6 times the typical RMS."""
        above: np.ndarray = self.mean_square > (OUTLIER / margin * self.typical) ** 2
        return above


@dataclass(frozen=True, slots=True, eq=False)
class ChannelPanel:
    """The channels of two sites, whole and by halves, ready to be compared."""

    whole: tuple[ChannelView, ChannelView]
    chance: tuple[tuple[ChannelView, ChannelView], ...]

    @classmethod
    def of(cls, a: Evidence, b: Evidence, *, paired: bool) -> "ChannelPanel | None":
        """Return the panel, None where the sites have unlike or no channels.

        For the floor, paired runs swap places in the odd folds; unpaired ones are split into
        even and odd folds. Without both halves of both runs there is no floor.
        """
        sides = [[Energies.of(h) for h in x.halves if h is not None] for x in (a, b)]
        sizes = {half.count.size for side in sides for half in side}
        if not all(sides) or len(sizes) != 1 or 0 in sizes:
            return None
        if len(sides[0]) < 2 or len(sides[1]) < 2:
            one, other = (_total(side).view() for side in sides)
            return cls((one, other), ())
        (even_a, odd_a), (even_b, odd_b) = sides
        whole = even_a.plus(odd_a).view(), even_b.plus(odd_b).view()
        size_a, size_b = whole[0].typical, whole[1].typical
        if paired:
            left = even_a.plus(odd_b).view(math.sqrt(size_a * size_b))
            right = even_b.plus(odd_a).view(math.sqrt(size_a * size_b))
            return cls(whole, ((left, right),))
        split_a = even_a.view(size_a), odd_a.view(size_a)
        return cls(whole, (split_a, (even_b.view(size_b), odd_b.view(size_b))))

    def changes(self) -> dict[str, ChannelChange]:
        """Return the change of every channel statistic."""
        return {name: _OF[name](*self.whole) for name in NAMES}

    def noise(self) -> dict[str, float]:
        """Return statistic -> what even against odd folds show, the larger of both runs."""
        return {
            name: max(abs(_OF[name](*pair).value) for pair in self.chance)
            for name in NAMES
            if self.chance
        }


def _total(halves: list[Energies]) -> Energies:
    return halves[0] if len(halves) == 1 else halves[0].plus(halves[1])


def _median(values: Float64[np.ndarray, " n"]) -> float:
    if values.size == 0:
        return 0.0
    half = values.size // 2
    if values.size % 2:
        return float(np.partition(values, half)[half])
    return float(np.partition(values, (half - 1, half))[half - 1 : half + 1].mean())


def _largest_ratio(a: ChannelView, b: ChannelView) -> ChannelChange:
    """Return log2 of the RMS ratio of the channel where it is farthest from 1.

    Over the channels that are alive in both; the others are counted as dead.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = b.mean_square / a.mean_square
    gone = a.dead() | b.dead()
    if a.seen is not None or b.seen is not None or gone.any():
        ratio[gone | ~np.isfinite(ratio)] = 1.0
        if gone.all():
            return ChannelChange(0.0, "no channel is alive in both")
    top, low = int(ratio.argmax()), int(ratio.argmin())
    at = top if float(ratio[top]) * float(ratio[low]) >= 1 else low
    before, after = math.sqrt(a.mean_square[at]), math.sqrt(b.mean_square[at])
    value = math.log2(ratio[at]) / 2 if ratio[at] > 0 else -math.inf
    return ChannelChange(value, f"channel {at}: {before:.4g} -> {after:.4g}")


def _dead(a: ChannelView, b: ChannelView) -> ChannelChange:
    died = b.dead() & ~a.dead(_MARGIN)
    revived = a.dead() & ~b.dead(_MARGIN)
    size = a.absmax.size
    return _counted({"died": died, "revived": revived}, size, unit=size)


def _outliers(a: ChannelView, b: ChannelView) -> ChannelChange:
    new = b.outliers() & ~a.outliers(_MARGIN)
    gone = a.outliers() & ~b.outliers(_MARGIN)
    return _counted({"new": new, "gone": gone}, a.absmax.size, unit=1)


_OF: dict[str, Callable[[ChannelView, ChannelView], ChannelChange]] = {
    "channel_rms": _largest_ratio,
    "dead_channels": _dead,
    "outlier_channels": _outliers,
}


def _counted(
    found: dict[str, Bool[np.ndarray, " channels"]], size: int, *, unit: int
) -> ChannelChange:
    """Return the number of channels per `unit`, and "2 died (channels 3, 17), ... of 512"."""
    parts, total = [], 0
    for word, which in found.items():
        index = np.flatnonzero(which)
        total += index.size
        shown = ", ".join(str(i) for i in index[:3]) + (", ..." if index.size > 3 else "")
        plural = "s" if index.size > 1 else ""
        parts.append(f"{index.size} {word}" + (f" (channel{plural} {shown})" if shown else ""))
    return ChannelChange(total / unit, f"{', '.join(parts)} of {size}")
