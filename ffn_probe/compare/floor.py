"""Noise floors from the folds of the runs themselves.

Tokens of a sequence are correlated, so the unit of resampling is the fold, never the token.
Unpaired runs: each run is split into two halves of its folds, many times; a half has half
the data, so the difference between two whole runs is smaller by sqrt(2). Paired runs (the
folds saw the same inputs): in a random half of the folds the two runs swap places. What the
candidate does to every fold alike then cancels, and what is left is how unlike the folds
are; runs with equal values have a floor of 0.

The floor is the 95 % quantile over the splits, widened for the number of sites compared, each
with six aspects (Bonferroni, Student's t with folds - 1 degrees of freedom), so that
healthy runs of any size stay under it at every site together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.panel import Parts, Reference, differences, distances, levels
from ffn_probe.compare.support import laid_out

Mask = Float64[np.ndarray, "splits _"]

LEAST_FOLDS = 8
"""With fewer folds the quantile of the splits is no floor."""

SPLITS = 64
_ASPECTS = 6  # of a site with a floor; statistics of one aspect move together
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
    tail = 1.0 - (1.0 - LEVEL) / (2 * _ASPECTS * max(sites, 1))
    return max(1.0, float(stdtrit(max(folds - 1, 1), tail)) / _NORMAL)


@cache
def splits(folds: int) -> tuple[Mask, Mask]:
    """Return random halves: 1 for the folds of the one half, and of the other.

    Balanced (of an odd number one fold is left out), so that a change common to all folds
    cancels in a swap. Always the same ones.
    """
    generator = np.random.default_rng(_SEED + folds)
    half = folds // 2
    sides = np.repeat([1, 2, 0], [half, half, folds - 2 * half])
    drawn = np.stack([generator.permutation(sides) for _ in range(SPLITS)])
    return (drawn == 1).astype(np.float64), (drawn == 2).astype(np.float64)


def site_noise(
    a: Evidence, b: Evidence, reference: Reference, *, paired: bool
) -> dict[str, float] | None:
    """Return statistic -> 95 % quantile of chance, None with fewer than 8 folds in either."""
    folds_a, folds_b = a.folds, b.folds
    if paired:
        folds_a = folds_b = tuple(k for k in folds_a if k in folds_b)
    if min(len(folds_a), len(folds_b)) < LEAST_FOLDS:
        return None
    histograms = [a.histograms[k] for k in folds_a] + [b.histograms[k] for k in folds_b]
    support, counts = laid_out(histograms)
    rows = partial(_parts, np.cumsum(counts, axis=1), _sums(a, folds_a), _sums(b, folds_b))
    plus_a, minus_a = splits(len(folds_a))
    plus_b, minus_b = splits(len(folds_b))
    if paired:
        left, right = rows([(plus_a, minus_b)]), rows([(minus_a, plus_b)])
    else:
        left, right = (
            rows([(plus_a, None), (None, plus_b)]),
            rows([(minus_a, None), (None, minus_b)]),
        )
    found = distances(support, left, right, reference)
    found |= differences(
        levels(support, left, gate=reference.gate),
        levels(support, right, gate=reference.gate),
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


def _sums(evidence: Evidence, folds: tuple[int, ...]) -> Float64[np.ndarray, "4 folds"]:
    """Return count, sum, sum of squares and absmax of each fold."""
    index = list(folds)
    count, mean = evidence.count[index], evidence.mean[index]
    squares = evidence.m2[index] + count * mean * mean
    return np.stack([count, count * mean, squares, evidence.absmax[index]])


def _parts(
    ends: Float64[np.ndarray, "_ points"],
    a: Float64[np.ndarray, "4 folds_a"],
    b: Float64[np.ndarray, "4 folds_b"],
    masks: Sequence[tuple[Mask | None, Mask | None]],
) -> Parts:
    """Return the parts that the masks select: for each pair, of a's folds and of b's."""
    middle = a.shape[1]
    cdf = np.zeros((len(masks) * SPLITS, ends.shape[1]))
    sums = np.zeros((3, len(masks) * SPLITS))
    absmax = np.zeros(len(masks) * SPLITS)
    for i, pair in enumerate(masks):
        rows = slice(i * SPLITS, (i + 1) * SPLITS)
        for mask, own, fold_ends in zip(
            pair, (a, b), (ends[:middle], ends[middle:]), strict=True
        ):
            if mask is not None:
                cdf[rows] += mask @ fold_ends
                sums[:, rows] += (mask @ own[:3].T).T
                absmax[rows] = np.maximum(absmax[rows], (mask * own[3]).max(axis=1))
    # Counts are whole numbers, so that equal parts are equal whatever the order of the sum.
    cdf /= cdf[:, -1:]
    return Parts(cdf, sums[1] / sums[0], np.sqrt(sums[2] / sums[0]), absmax)


def _quantile(values: Float64[np.ndarray, " rows"]) -> float:
    """Return the 95 % quantile of |x| over the splits, the larger of both runs'."""
    size = np.sort(np.abs(values.reshape(-1, SPLITS)), axis=1)
    return float(size[:, int(np.ceil(LEVEL * SPLITS)) - 1].max())
