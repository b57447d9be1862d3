"""The rules of the alarms that need more than the history of one number's magnitude."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64

from ffn_probe.alarms import Alarm

KINDS: Mapping[str, str] = {
    "dead": "the share of dead neurons is 10 points above the least of before, in two windows "
    "in a row of at least 256 tokens each",
    "branch": "rms(out) / rms(resid) is above 10 and four times the median of the windows "
    "before, of which there are eight",
    "alignment": "the gate and up weights of a neuron have a |cosine| of 0.98 or more",
    "gain": "the largest gain of a norm is ten times the median one",
}
"""Kind -> the rule."""

DEAD_RISE = 0.10
DEAD_TOKENS = 256  # of fewer, many a neuron rests by chance
BRANCH_FACTOR, BRANCH_LOW = 4.0, 10.0  # small models that are well have come to 4
BRANCH_LEAST = 8
ALIGNED = 0.98  # small models that are well have come to 0.95
GAIN_SPREAD = 10.0

Steps = Int64[np.ndarray, " n"]
Values = Float64[np.ndarray, " n"]


def dead(where: str, steps: Steps, shares: Values) -> tuple[Alarm, ...]:
    """Return the window in which a tenth of the neurons more than at best is dead."""
    known = np.isfinite(shares)
    steps, shares = steps[known], shares[known]
    if shares.size < 3:
        return ()
    least = np.minimum.accumulate(shares)
    high = shares[1:] >= least[:-1] + DEAD_RISE
    both = np.flatnonzero(high[1:] & high[:-1])
    if not both.size:
        return ()
    at = int(both[0]) + 2
    text = f"{shares[at]:.0%} of the neurons are dead, {least[at]:.0%} were at best"
    return (Alarm("dead", where, int(steps[at]), float(shares[at]), text),)


def branch(where: str, steps: Steps, ratios: Values) -> tuple[Alarm, ...]:
    """Return the window in which the block writes more than the stream it writes to holds."""
    known = np.isfinite(ratios)
    steps, ratios = steps[known], ratios[known]
    for at in range(BRANCH_LEAST, ratios.size):
        usual = float(np.median(ratios[:at]))
        if ratios[at] > max(BRANCH_LOW, BRANCH_FACTOR * usual):
            text = f"rms(out) is {ratios[at]:.3g} rms(resid); it was {usual:.3g}"
            return (Alarm("branch", where, int(steps[at]), float(ratios[at]), text),)
    return ()


def alignment(where: str, step: int, cosine: float) -> tuple[Alarm, ...]:
    """Return the alarm of the largest |cosine| between the gate and up weights of a neuron."""
    if not cosine >= ALIGNED:
        return ()
    text = f"a neuron's gate and up weights have a |cosine| of {cosine:.3f}: hidden ~ gate^2"
    return (Alarm("alignment", where, step, cosine, text),)


def gain(where: str, step: int, spread: float) -> tuple[Alarm, ...]:
    """Return the alarm of the largest gain of a norm in multiples of the median one."""
    if not spread >= GAIN_SPREAD:
        return ()
    text = f"the largest gain is {spread:.3g} times the median one"
    return (Alarm("gain", where, step, spread, text),)
