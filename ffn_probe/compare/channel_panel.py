"""What changes in single channels, with a floor from the even and the odd folds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

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


def channel_changes(a: Channels, b: Channels) -> dict[str, ChannelChange]:
    """Return the change of every channel statistic; both have equally many channels."""
    return {
        "channel_rms": _largest_ratio(a, b),
        "dead_channels": _dead(a, b),
        "outlier_channels": _outliers(a, b),
    }


def channel_noise(a: Evidence, b: Evidence, *, paired: bool) -> dict[str, float] | None:
    """Return statistic -> what even against odd folds show; None when a half is missing.

    Paired runs swap places in the odd folds, unpaired ones are split, the larger taken.
    """
    (even_a, odd_a), (even_b, odd_b) = a.halves, b.halves
    if even_a is None or odd_a is None or even_b is None or odd_b is None:
        return None
    if paired:
        pairs = [(even_a.merge(odd_b), even_b.merge(odd_a))]
    else:
        pairs = [(even_a, odd_a), (even_b, odd_b)]
    found = [channel_changes(left, right) for left, right in pairs]
    return {name: max(abs(f[name].value) for f in found) for name in NAMES}


def _largest_ratio(a: Channels, b: Channels) -> ChannelChange:
    """Return log2 of the RMS ratio of the channel where it is farthest from 1.

    Over the channels that are alive in both; the others are counted as dead.
    """
    alive = ~a.dead(DEAD) & ~b.dead(DEAD) & (a.count > 0) & (b.count > 0)
    where = np.flatnonzero(alive)
    if where.size == 0:
        return ChannelChange(float("nan"), "no channel is alive in both")
    rms_a, rms_b = a.rms[where], b.rms[where]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(np.log2(rms_b / rms_a))
    top = int(np.abs(ratio).argmax())
    detail = f"channel {where[top]}: {rms_a[top]:.4g} -> {rms_b[top]:.4g}"
    return ChannelChange(float(ratio[top]), detail)


def _dead(a: Channels, b: Channels) -> ChannelChange:
    died = b.dead(DEAD) & ~a.dead(DEAD * _MARGIN)
    revived = a.dead(DEAD) & ~b.dead(DEAD * _MARGIN)
    changed = int(died.sum() + revived.sum())
    detail = f"{_listed(died, 'died')}, {_listed(revived, 'revived')} of {a.count.size}"
    return ChannelChange(changed / max(a.count.size, 1), detail)


def _outliers(a: Channels, b: Channels) -> ChannelChange:
    new = b.outliers(OUTLIER) & ~a.outliers(OUTLIER / _MARGIN)
    gone = a.outliers(OUTLIER) & ~b.outliers(OUTLIER / _MARGIN)
    detail = f"{_listed(new, 'new')}, {_listed(gone, 'gone')} of {a.count.size}"
    return ChannelChange(float(new.sum() + gone.sum()), detail)


def _listed(which: Bool[np.ndarray, " channels"], word: str) -> str:
    """Return "2 died (channels 3, 17)"."""
    index = np.flatnonzero(which)
    if index.size == 0:
        return f"0 {word}"
    shown = ", ".join(str(i) for i in index[:3]) + (", ..." if index.size > 3 else "")
    return f"{index.size} {word} (channel{'s' if index.size > 1 else ''} {shown})"
