"""Change: one statistic of one site, with what it takes to judge it."""

import math
from dataclasses import dataclass
from typing import Literal

Status = Literal["PASS", "WARN", "FAIL"]

RANK: dict[Status, int] = {"PASS": 0, "WARN": 1, "FAIL": 2}
"""The order of the statuses, worst last."""

ASPECTS: tuple[str, ...] = (
    "nonfinite",
    "bulk",
    "scale",
    "tail",
    "sparsity",
    "channels",
    "representability",
)
"""What can change about a tensor, each judged on its own."""


@dataclass(frozen=True, slots=True)
class Change:
    """How much a statistic of a site differs between the reference and the candidate.

    `value` is in `unit`, positive when the candidate has more, NaN when it cannot be told.
    `threshold` is what matters in practice and `provenance` where it comes from. `floor` is
    what two healthy runs of this size reach by the choice of inputs alone, None with fewer
    than 8 non-empty folds; `repeat_floor` what a repeat of the reference showed; `mde` the
    smallest change that such a comparison would report 4 times in 5. `times_floor` is |value|
    over the floor: None without a floor, or when both are 0; inf above a floor of 0.
    """

    aspect: str
    statistic: str
    value: float
    unit: str
    threshold: float
    provenance: str
    floor: float | None
    times_floor: float | None
    repeat_floor: float | None
    mde: float | None
    folds: int
    status: Status
    detail: str

    @property
    def severity(self) -> tuple[int, float]:
        """A key that sorts changes: the status first, then |value| over the threshold."""
        ratio = abs(self.value) / self.threshold if self.threshold > 0 else abs(self.value)
        return RANK[self.status], -1.0 if math.isnan(ratio) else ratio


def times(value: float, floor: float | None) -> float | None:
    """Return |value| over the floor; None when there is no floor or no change at all."""
    if floor is None or math.isnan(value):
        return None
    if floor > 0:
        return abs(value) / floor
    return math.inf if value else None


def judged(
    size: float,
    threshold: float,
    *,
    floor: float | None,
    repeat_floor: float | None = None,
    hard: bool = False,
) -> Status:
    """Return the status of a change of this size.

    PASS at or under the threshold, or at or under either floor. Above both: WARN up to twice
    the threshold, FAIL beyond, and beyond a `hard` threshold at once. Without a floor never
    worse than WARN.
    """
    if math.isnan(size) or size <= threshold:
        return "PASS"
    if floor is None:
        return "WARN"
    if size <= max(floor, repeat_floor or 0.0):
        return "PASS"
    return "FAIL" if hard or size > 2 * threshold else "WARN"
