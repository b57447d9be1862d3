"""Tolerance: the status of a site if the practical thresholds were larger or smaller."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ffn_probe.compare.change import RANK, Change, Status
from ffn_probe.compare.site_drift import SiteDrift
from ffn_probe.compare.statistic import BY_NAME

MULTIPLIERS: tuple[float, ...] = (
    0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0,
    5.0, 6.0, 8.0, 10.0,
)  # fmt: skip
"""Factors on every practical threshold that a reader may try; verdicts are at 1."""

_FIXED = frozenset({"nonfinite", "headroom_fp16", "headroom_e4m3fn"})
"""What has a limit, not a threshold: a format's largest number, no new NaN."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Below which factors on the thresholds a site fails, and below which it is suspicious.

    inf where no threshold lets it pass, 0 where none makes it fail.
    """

    fails_below: float = 0.0
    warns_below: float = 0.0

    def status(self, multiplier: float = 1.0) -> Status:
        """Return the status with every practical threshold times the multiplier."""
        if multiplier < self.fails_below:
            return "FAIL"
        return "WARN" if multiplier < self.warns_below else "PASS"

    def steps(self) -> tuple[int, int]:
        """Return at how many of MULTIPLIERS, from the first, it fails and does not pass."""
        fails = bisect_left(MULTIPLIERS, self.fails_below)
        return fails, max(fails, bisect_left(MULTIPLIERS, self.warns_below))

    def with_(self, other: "Tolerance") -> "Tolerance":
        """Return the tolerance of both together: the worse status at every multiplier."""
        return Tolerance(
            max(self.fails_below, other.fails_below), max(self.warns_below, other.warns_below)
        )


def tolerance(changes: Sequence[Change]) -> Tolerance:
    """Return the tolerance of changes together; none of them is never a failure.

    What is under its noise floor passes at every multiplier; without a floor a change is
    suspicious at most. New non-finite values and the limits of number formats do not
    scale: they are as they were judged.
    """
    fails = warns = 0.0
    for change in changes:
        one = _of_one(change)
        fails, warns = max(fails, one.fails_below), max(warns, one.warns_below)
    return Tolerance(fails, warns)


def _of_one(change: Change) -> Tolerance:
    if change.statistic in _FIXED:
        rank = RANK[change.status]
        return Tolerance(math.inf if rank == 2 else 0.0, math.inf if rank else 0.0)
    entry = BY_NAME[change.statistic]
    size = entry.size(change.value)
    if math.isnan(size):
        rank = RANK[change.status]
        return Tolerance(0.0, math.inf if rank else 0.0)
    if size <= 0 or under_noise(change):
        return Tolerance()
    ratio = size / change.threshold if change.threshold > 0 else math.inf
    return Tolerance(0.0 if change.floor is None else ratio / 2, ratio)


def under_noise(change: Change) -> bool:
    """Return whether a change is at or under the larger of both floors."""
    noise = max(change.floor or 0.0, change.repeat_floor or 0.0)
    return change.floor is not None and abs(change.value) <= noise


def changes_of(site: SiteDrift, aspect: str = "") -> tuple[Change, ...]:
    """Return the changes of one aspect of a site, all for ""."""
    return tuple(c for c in site.changes if aspect in {"", c.aspect})


def worst_of(site: SiteDrift, aspect: str = "") -> Change | None:
    """Return the worst change of an aspect, None where the site has none.

    By the status, then by the multiple of the threshold: of changes that pass, one above
    its floor comes before one within it, and a level within its limit last.
    """

    def key(change: Change) -> tuple[int, bool, float, float]:
        rank, ratio = change.severity
        above = times_threshold(change)
        moved = rank > 0 or change.statistic not in _FIXED
        return rank, moved, -1.0 if math.isnan(above) else above, ratio

    return max(changes_of(site, aspect), key=key, default=None)


def times_noise(change: Change) -> float:
    """Return |value| over the larger of both floors; NaN without a floor, 0 for no change.

    How far a level is towards a format's limit is no change: NaN, unless it was judged one.
    """
    if change.floor is None or math.isnan(change.value):
        return math.nan
    if change.statistic in _FIXED and change.status == "PASS":
        return math.nan
    noise = max(change.floor, change.repeat_floor or 0.0)
    size = abs(change.value)
    if noise == 0:
        return math.inf if size else 0.0
    return size / noise


def multiple(change: Change) -> float:
    """Return |value| over the threshold, whatever the noise; NaN where there is none."""
    return abs(change.value) / change.threshold if change.threshold > 0 else math.nan


def times_threshold(change: Change) -> float:
    """Return how many thresholds a change is, NaN when it cannot be told; inf over one of 0.

    0 where it is under its floor, where only a rise counts, and for a level that is within
    its limit.
    """
    if math.isnan(change.value):
        return math.nan
    size = BY_NAME[change.statistic].size(change.value)
    within = change.statistic in _FIXED and change.status == "PASS"
    if within or size <= 0 or (change.status == "PASS" and under_noise(change)):
        return 0.0
    return size / change.threshold if change.threshold > 0 else math.inf
