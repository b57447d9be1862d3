"""Alarms: what the history of a training says that someone has to look at.

Each is a pure function of stored numbers that returns what it found, nothing for a training
that is well. They say when something was seen and by which rule, not why it happened.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ffn_probe.formats import FORMATS

KINDS: Mapping[str, str] = {
    "non-finite": "the first window in which a site, or the first step at which a metric, is "
    "NaN or infinite",
    "spike": "a metric is 7 standard deviations or more above the mean of its last 1,000 steps "
    "(or as many as there are, from 20 on)",
    "limit": "the first window in which the largest magnitude is beyond the largest number of "
    "a format, unscaled",
    "growth": "the largest magnitude grows exponentially (log-linear fit of the last half of "
    "the windows, 8 or more, r2 of 0.8 or more, at least doubled) and reaches a format's "
    "largest number before the training is twice as long",
}
"""Kind -> the rule, in the order of display."""

SPIKE_SDS = 7.0
"""Of OLMo 2's spike score (2025): the share of steps this far from the rolling mean."""
SPIKE_STEPS = 1000
SPIKE_LEAST = 20
GROWTH_LEAST = 8  # windows; a line through fewer fits anything
GROWTH_R2 = 0.8
LIMITS: Mapping[str, float] = {"e4m3": FORMATS["e4m3fn"].max, "fp16": FORMATS["fp16"].max}
"""Name -> largest number of the formats that values are stored in as they are."""

Steps = Int64[np.ndarray, " n"]
Values = Float64[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something seen at a step: its kind, the site or metric, how much of it, and words."""

    kind: str
    where: str
    step: int
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Fit:
    """An exponential through a history: steps until twice as much, r2 of its log2, its end."""

    doubling: float
    r2: float
    last: float

    def reaches(self, limit: float, now: int) -> float:
        """Return the step at which the fit is at `limit`; inf when it does not grow."""
        if not 0 < self.doubling < math.inf:
            return math.inf
        return now + self.doubling * math.log2(limit / self.last)


def nonfinite(where: str, steps: Steps, counts: Values) -> tuple[Alarm, ...]:
    """Return the first window with NaN or Inf, from the counts a window; nothing for none."""
    bad = np.flatnonzero(counts > 0)
    if not bad.size:
        return ()
    step, count = int(steps[bad[0]]), float(counts[bad[0]])
    text = f"{count:,.0f} NaN or Inf in the window up to step {step}, none before"
    return (Alarm("non-finite", where, step, count, text),)


def metric_alarms(where: str, steps: Steps, values: Values) -> tuple[Alarm, ...]:
    """Return where a metric is no number, and its spikes.

    A spike is one alarm from its first step until `SPIKE_LEAST` steps without one; its value
    is the largest score in it.
    """
    found: list[Alarm] = []
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        step, value = int(steps[bad[0]]), float(values[bad[0]])
        text = f"{where} is {value} at step {step}; {bad.size} of {values.size} steps are"
        found.append(Alarm("non-finite", where, step, value, text))
    scores = spike_scores(steps, values)
    high = np.flatnonzero(scores >= SPIKE_SDS)
    breaks = np.flatnonzero(np.diff(steps[high]) > SPIKE_LEAST) + 1
    for group in np.split(high, breaks) if high.size else ():
        worst = int(group[np.argmax(scores[group])])
        many = f" ({group.size} steps)" if group.size > 1 else ""
        text = (
            f"{where} {values[worst]:.4g} at step {steps[worst]}{many}: {scores[worst]:.1f} sd"
        )
        found.append(Alarm("spike", where, int(steps[group[0]]), float(scores[worst]), text))
    return tuple(found)


def spike_scores(steps: Steps, values: Values) -> Values:
    """Return how many standard deviations each value is above the mean of those before it.

    Those before are the finite ones of the last `SPIKE_STEPS` steps; with fewer than
    `SPIKE_LEAST` of them, or without any spread, the score is NaN.
    """
    finite = np.isfinite(values)
    centre = float(np.median(values[finite])) if finite.any() else 0.0
    kept = np.where(finite, values - centre, 0.0)
    sums = [np.r_[0.0, np.cumsum(x)] for x in (finite.astype(np.float64), kept, kept * kept)]
    first = np.searchsorted(steps, steps - SPIKE_STEPS, side="left")
    here = np.arange(values.size)
    count, total, square = (s[here] - s[first] for s in sums)
    with np.errstate(all="ignore"):
        mean = total / count
        spread = np.sqrt(np.maximum(square / count - mean * mean, 0.0))
        scores: np.ndarray = (values - centre - mean) / spread
    known = finite & (count >= SPIKE_LEAST) & (spread > 1e-12 * np.abs(mean + centre))
    return np.where(known, scores, np.nan)


def exponential(steps: Steps, values: Values) -> Fit | None:
    """Return the least-squares fit of log2(values), None for too few or for any below zero."""
    good = np.isfinite(values) & (values > 0)
    if good.sum() < GROWTH_LEAST or not good.all():
        return None
    x, y = steps.astype(np.float64), np.log2(values)
    x, y = x - x.mean(), y - (middle := float(y.mean()))
    spread, total = float(x @ x), float(y @ y)
    if spread == 0 or total == 0:
        return None
    slope = float(x @ y) / spread
    doubling = 1 / slope if slope else math.inf
    return Fit(doubling, slope * slope * spread / total, 2 ** (middle + slope * float(x[-1])))


def growth(
    where: str, steps: Steps, absmax: Values, *, limits: Sequence[str] = ("fp16",)
) -> tuple[Alarm, ...]:
    """Return the formats' limits that a site's largest magnitude passed, or is about to.

    What comes after a window without any finite value is left out.

    Args:
        where: the site's name.
        steps: the last step of each window.
        absmax: the largest finite magnitude of each window; NaN where there was none.
        limits: which of LIMITS.
    """
    found: list[Alarm] = []
    known = int(np.argmin(np.r_[np.isfinite(absmax), False]))  # windows before there was none
    steps, absmax = steps[:known], absmax[:known]
    fit = exponential(steps[known // 2 :], absmax[known // 2 :])
    for name in limits:
        limit = LIMITS[name]
        beyond = np.flatnonzero(absmax > limit)
        if beyond.size:
            step, value = int(steps[beyond[0]]), float(absmax[beyond[0]])
            text = f"|x| of {value:.4g} at step {step} is beyond {name}'s largest, {limit:g}"
            found.append(Alarm("limit", where, step, value, text))
        elif fit is not None and fit.r2 >= GROWTH_R2:
            found += _forecast(where, steps, fit, name)
    return tuple(found)


def _forecast(where: str, steps: Steps, fit: Fit, name: str) -> list[Alarm]:
    now, half = int(steps[-1]), int(steps[-1] - steps[steps.size // 2])
    at = max(fit.reaches(LIMITS[name], now), float(now))
    if not 0 < fit.doubling <= half or at > now + int(steps[-1] - steps[0]):
        return []
    when = f"around step {at:,.0f}" if at > now else "about now"
    text = (
        f"|x| of about {fit.last:.3g} doubles every {fit.doubling:.0f} steps "
        f"(r2 {fit.r2:.2f}): beyond {name} ({LIMITS[name]:g}) {when}"
    )
    return [Alarm("growth", where, now, at, text)]
