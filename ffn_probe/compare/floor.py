"""Noise floors from the folds of the runs themselves.

Tokens of a sequence are correlated, so the unit of resampling is the fold, never the token.
Unpaired runs: each run is split into two halves of its folds, many times; a half has half
the data, so the difference between two whole runs is smaller by sqrt(2). Paired runs (the
folds saw the same inputs): in a random half of the folds the two runs swap places. What the
candidate does to every fold alike then cancels, and what is left is how unlike the folds
are; runs with equal values have a floor of 0.

The floor is the 95 % quantile over the splits, widened for the number of sites compared
(Bonferroni, Student's t with folds - 1 degrees of freedom), so that healthy runs of any
size stay under it at every site together.
"""

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.panel import Parts, Reference, differences, distances, levels
from ffn_probe.compare.support import laid_out

LEAST_FOLDS = 8
"""With fewer folds the quantile of the splits is no floor."""

SPLITS = 64
LEVEL = 0.95
_SEED = 20240229
_NORMAL = 1.959964  # two-sided 95 % of a normal
_POWER = 0.841621  # 80 % of a normal, one-sided


@dataclass(frozen=True, slots=True)
class Noise:
    """What chance does to one statistic: its 95 % quantile, and the floor over all sites."""

    quantile: float
    floor: float

    def mde(self, threshold: float) -> float:
        """Return the smallest change that is over threshold and floor 4 times in 5."""
        return max(threshold, self.floor + self.quantile * _POWER / _NORMAL)


@cache
def widening(folds: int, sites: int) -> float:
    """Return the factor on the 95 % quantile for that many sites and folds, at least 1."""
    tail = 1.0 - (1.0 - LEVEL) / (2 * max(sites, 1))
    return max(1.0, float(stdtrit(max(folds - 1, 1), tail)) / _NORMAL)


@cache
def splits(folds: int) -> Float64[np.ndarray, "splits folds"]:
    """Return random halves: +1, -1, and 0 for one fold left out of an odd number.

    Balanced, so that a change common to all folds cancels exactly. Always the same ones.
    """
    generator = np.random.default_rng(_SEED + folds)
    signs = np.zeros(folds)
    signs[: folds // 2], signs[folds // 2 : 2 * (folds // 2)] = 1.0, -1.0
    drawn = np.stack([generator.permutation(signs) for _ in range(SPLITS)])
    drawn.flags.writeable = False
    return drawn


def site_noise(
    a: Evidence, b: Evidence, reference: Reference, *, paired: bool
) -> dict[str, float] | None:
    """Return statistic -> 95 % quantile of chance, None with fewer than 8 folds in either."""
    folds_a, folds_b = a.folds, b.folds
    if paired and folds_a != folds_b:
        folds_a = folds_b = tuple(k for k in folds_a if k in folds_b)
    if min(len(folds_a), len(folds_b)) < LEAST_FOLDS:
        return None
    histograms = [a.histograms[k] for k in folds_a] + [b.histograms[k] for k in folds_b]
    support, counts = laid_out(histograms)
    left, right = _masks(len(folds_a), len(folds_b), paired=paired)
    rows = partial(_parts, counts, _stacked(a, folds_a), _stacked(b, folds_b))
    one, other = rows(left), rows(right)
    found = distances(support, one, other, reference)
    found |= differences(
        levels(support, one, gate=reference.gate),
        levels(support, other, gate=reference.gate),
        reference,
    )
    return {name: _quantile(values) for name, values in found.items()}


def noise_of(
    quantile: float, *, folds: int, sites: int, paired: bool, extreme: bool
) -> Noise | None:
    """Return the noise of a difference of whole runs, None when it cannot be told.

    The noise of a largest value does not shrink with the data, so it is not scaled.
    """
    if not np.isfinite(quantile):
        return None
    whole = quantile if paired or extreme else quantile / np.sqrt(2.0)
    return Noise(float(whole), float(whole * widening(folds, sites)))


def _masks(
    folds_a: int, folds_b: int, *, paired: bool
) -> tuple[Float64[np.ndarray, "rows folds"], Float64[np.ndarray, "rows folds"]]:
    """Return which folds (a's, then b's) make the two sides of every comparison."""
    plus_a, minus_a = np.maximum(splits(folds_a), 0.0), np.maximum(-splits(folds_a), 0.0)
    if paired:
        return np.hstack([plus_a, minus_a]), np.hstack([minus_a, plus_a])
    plus_b, minus_b = np.maximum(splits(folds_b), 0.0), np.maximum(-splits(folds_b), 0.0)
    none_a, none_b = np.zeros((SPLITS, folds_a)), np.zeros((SPLITS, folds_b))
    left = np.vstack([np.hstack([plus_a, none_b]), np.hstack([none_a, plus_b])])
    right = np.vstack([np.hstack([minus_a, none_b]), np.hstack([none_a, minus_b])])
    return left, right


def _stacked(evidence: Evidence, folds: tuple[int, ...]) -> Float64[np.ndarray, "4 folds"]:
    index = list(folds)
    fields = (evidence.count, evidence.mean, evidence.m2, evidence.absmax)
    return np.stack([field[index] for field in fields])


def _parts(
    counts: Float64[np.ndarray, "folds points"],
    a: Float64[np.ndarray, "4 folds_a"],
    b: Float64[np.ndarray, "4 folds_b"],
    mask: Float64[np.ndarray, "rows folds"],
) -> Parts:
    """Return the parts that the rows of the mask select."""
    count, mean, m2, absmax = np.hstack([a, b])
    total = mask @ count
    first = mask @ (count * mean) / total
    second = mask @ (m2 + count * mean * mean) / total
    largest = (mask * absmax).max(axis=1)
    return Parts(mask @ counts, first, np.sqrt(second), largest)


def _quantile(values: Float64[np.ndarray, " rows"]) -> float:
    """Return the 95 % quantile of |x| over the splits, the larger of both runs'."""
    size = np.sort(np.abs(values.reshape(-1, SPLITS)), axis=1)
    return float(size[:, int(np.ceil(LEVEL * SPLITS)) - 1].max())
