"""Intervals by resampling whole folds or blocks: the values inside one depend on each other.

Tokens of one sequence are alike, so resampling single tokens makes intervals far too narrow:
for an AR(1) series with coefficient 0.9 the 95 % interval of a mean holds it 35 times in 100
(tests/attribution/test_bootstrap.py). Folds are groups of whole sequences.
"""

from functools import cache

import numpy as np
import scipy  # its special functions load when they are first used
from jaxtyping import Float64, Int64, Num

from ffn_probe.attribution.attribution import Interval
from ffn_probe.errors import FfnProbeError

LEVEL = 0.95
LEAST_FOLDS = 4
"""With fewer folds an interval would be a guess: it is NaN."""

RESAMPLES = 4000
_SEED = 20240229
_AT_ONCE = 128  # blocks drawn at a time


class BootstrapError(FfnProbeError, ValueError):
    """What was to be resampled cannot be."""


def ratio(
    numerator: Num[np.ndarray, " folds"], denominator: Num[np.ndarray, " folds"]
) -> Interval:
    """Return sum(numerator) / sum(denominator) and its 95 % interval.

    All is NaN when the denominators add to zero or something is not finite: a fold that is not
    is no fold to pass over. Low and high are NaN below 4 folds. The quantiles of the resampled
    ratios are taken further out than 2.5 and 97.5 %, as few folds need (Hesterberg 2015,
    eq. 9: Student's t instead of the normal, times sqrt(n / (n - 1))).

    >>> ratio(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    Interval(value=0.5, low=nan, high=nan)
    """
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    with np.errstate(invalid="ignore"):
        value = _quotient(float(top.sum()), float(bottom.sum()))
    if top.size < LEAST_FOLDS or not np.isfinite(value):
        return Interval(value)
    drawn = _draws(top.size)
    found = _quotients(drawn @ top, drawn @ bottom)
    low, high = np.quantile(found[np.isfinite(found)], _tails(top.size))
    return Interval(value, min(float(low), value), max(float(high), value))


def mean(values: Num[np.ndarray, " folds"]) -> Interval:
    """Return the mean of one number a fold and its 95 % interval; NaN below 4 folds."""
    numbers = np.asarray(values, np.float64)
    return ratio(numbers, np.ones_like(numbers))


def block_bootstrap(
    values: Num[np.ndarray, " n"], block: int, *, resamples: int = RESAMPLES
) -> Interval:
    """Return the mean of a series and its 95 % interval from resampled circular blocks.

    Args:
        values: in the order in which they depend on each other; not finite ones are an error.
        block: the length of a block; 1 resamples single values, as if they were independent.
            It should be several times the distance over which values are alike.
        resamples: how many series are drawn.

    Circular blocks (Politis & Romano 1992) give every value the same weight.

    Raises:
        BootstrapError: no values, values that are not finite, or a block outside 1..n.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.size == 0 or not np.isfinite(numbers).all():
        wrong = int((~np.isfinite(numbers)).sum())
        raise BootstrapError(f"{numbers.size} values with {wrong} not finite have no interval")
    if not 1 <= block <= numbers.size:
        raise BootstrapError(f"a block of {block} is not within 1..{numbers.size} values")
    if numbers.size // block < LEAST_FOLDS:
        return Interval(float(numbers.mean()))
    around = np.concatenate([numbers, numbers[: block - 1]])
    sums = np.convolve(around, np.ones(block), mode="valid")  # of the block from each value on
    rng = np.random.default_rng(_SEED)
    count = -(-numbers.size // block)
    found = np.zeros(resamples)
    for first in range(0, count, _AT_ONCE):
        size = (resamples, min(_AT_ONCE, count - first))
        found += sums[rng.integers(0, numbers.size, size)].sum(1)
    low, high = np.quantile(found / (count * block), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(numbers.mean()), float(low), float(high))


@cache
def _draws(folds: int) -> Int64[np.ndarray, "resamples folds"]:
    """Return how often each fold is in each resample."""
    rng = np.random.default_rng(_SEED)
    drawn: np.ndarray = rng.multinomial(folds, np.full(folds, 1 / folds), RESAMPLES)
    drawn.flags.writeable = False
    return drawn.astype(np.int64)


@cache
def _tails(folds: int) -> tuple[float, float]:
    """Return the two quantiles to take, further out the fewer folds there are."""
    student = scipy.special.stdtrit(folds - 1, (1 + LEVEL) / 2)
    tail = float(scipy.special.ndtr(-student * np.sqrt(folds / (folds - 1))))
    return tail, 1 - tail


def _quotient(top: float, bottom: float) -> float:
    finite = bool(np.isfinite([top, bottom]).all())
    return top / bottom if bottom and finite else float("nan")


def _quotients(
    top: Float64[np.ndarray, " resamples"], bottom: Float64[np.ndarray, " resamples"]
) -> Float64[np.ndarray, " resamples"]:
    found: np.ndarray = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)
    return found
