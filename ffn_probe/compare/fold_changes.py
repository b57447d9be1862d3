"""What single folds say: the change in each, the spread without one, and an interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

from ffn_probe.compare.fold_table import FoldTable
from ffn_probe.compare.panel import Parts, differences, distances, levels
from ffn_probe.compare.statistic import BY_NAME

LEAST = 4
"""With fewer folds there is no interval."""

DRAWS = 400
LEVEL = 0.95
_SEED = 20250117
_NORMAL = 1.959964  # two-sided 95 % of a normal

Numbers = Float64[np.ndarray, " folds"]


@dataclass(frozen=True, slots=True, eq=False)
class FoldChange:
    """One statistic, fold by fold, in its own unit.

    `across` is the change from the reference to the candidate in each of `folds`: of the
    same inputs when paired, else from all of the reference to each fold of the candidate.
    `within` is the change from the other folds of the reference to each of `own`, its folds:
    what the choice of inputs alone does to one fold.
    """

    statistic: str
    folds: tuple[int, ...]
    own: tuple[int, ...]
    across: Numbers
    within: Float64[np.ndarray, " folds_of_a"]


def fold_changes(table: FoldTable) -> dict[str, FoldChange]:
    """Return statistic -> its change in every fold; empty with a single fold."""
    size = table.a.size
    if size < 2:
        return {}
    one, rest = np.eye(size), 1.0 - np.eye(size)
    others = table.a.parts(rest)
    within = _changes(table, others, table.a.parts(one))
    begin = one if table.paired else np.ones((table.b.size, size))
    across = _changes(table, table.a.parts(begin), table.b.parts(np.eye(table.b.size)))
    return {
        name: FoldChange(name, table.b.ids, table.a.ids, across[name], within[name])
        for name in across
        if name in BY_NAME
    }


def intervals(table: FoldTable, values: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return statistic -> the 95 % interval of its change; `values` are the changes.

    Folds are drawn with replacement, the same ones of both runs when paired, 400 times,
    always the same draws. The interval is the basic (reflected) bootstrap's, which takes the
    upward bias out of distances, widened by Student's t for the few folds (Hesterberg 2015,
    "What teachers should know about the bootstrap"); it always holds the value itself. Empty
    with fewer than 4 folds. The largest of all values has no such interval (its bootstrap
    is not consistent): what is made of it is left out. Measured on pairs of 16 folds, also
    correlated ones, it holds the true change in 89 to 97 of 100 (KS of paired runs in 76 to
    87: the largest gap of two empirical distributions is biased upward).
    """
    size = min(table.a.size, table.b.size)
    if size < LEAST:
        return {}
    drawn_a = _draws(table.a.size, 0)
    drawn_b = drawn_a if table.paired else _draws(table.b.size, 1)
    all_a, all_b = (np.ones((1, folds.size)) for folds in (table.a, table.b))
    whole = _changes(table, table.a.parts(all_a), table.b.parts(all_b))
    drawn = _changes(table, table.a.parts(drawn_a), table.b.parts(drawn_b))
    wide = float(stdtrit(size - 1, (1 + LEVEL) / 2)) / _NORMAL
    found = {}
    for name, value in values.items():
        extreme = name in BY_NAME and BY_NAME[name].extreme
        if name not in drawn or extreme or not math.isfinite(value):
            continue
        off = wide * (drawn[name] - whole[name][0])
        if np.isfinite(off).all():
            found[name] = _around(value, off, distance=name in _DISTANCES)
    return found


_DISTANCES = frozenset({"ks", "w1_asinh"})


def _around(value: float, off: Numbers, *, distance: bool) -> tuple[float, float]:
    """Return the interval of a value whose draws are `off` it."""
    ranked = np.sort(off)
    tail = math.floor(ranked.size * (1 - LEVEL) / 2)
    bottom, top = float(ranked[tail]), float(ranked[-1 - tail])
    if not distance:
        return value - max(top, 0.0), value - min(bottom, 0.0)
    most = max(abs(bottom), abs(top))
    return max(value - most, 0.0), value + most


def _draws(size: int, which: int) -> Float64[np.ndarray, "draws folds"]:
    """Return how often each draw with replacement takes each fold; always the same ones."""
    generator = np.random.default_rng((_SEED, size, which))
    return generator.multinomial(size, np.full(size, 1 / size), size=DRAWS).astype(np.float64)


def _changes(table: FoldTable, left: Parts, right: Parts) -> dict[str, Numbers]:
    """Return statistic -> the changes from the rows of `left` to those of `right`."""
    gate = table.reference.gate
    before, after = (levels(table.support, side, gate=gate) for side in (left, right))
    found = differences(before, after, table.reference)
    apart = distances(table.support, left, right, table.reference)
    # PSI is over bins of the reference's quantiles, which coarse histograms cannot tell.
    return found | {name: values for name, values in apart.items() if name in _DISTANCES}
