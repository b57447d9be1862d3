"""The 2 x 2 of two swaps of a whole model: two main effects, an interaction, and no more.

v00 is the reference, v10 has the first factor swapped, v01 the second, v11 both. The main
effects are the averages (v10 - v00 + v11 - v01) / 2 and (v01 - v00 + v11 - v10) / 2: Shapley
values of two players that add to v11 - v00 exactly. The interaction v11 - v10 - v01 + v00
is how much the order of the swaps matters. The metric must add (energies, nats; never dB).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # its special functions load when they are first used
from jaxtyping import Float64, Num

from ffn_probe.attribution.attribution import Factorial, Interval
from ffn_probe.attribution.bootstrap import LEAST_FOLDS, LEVEL, ratio
from ffn_probe.errors import FfnProbeError

CELLS: tuple[str, ...] = ("v00", "v10", "v01", "v11")
NOT_SEPARABLE = 0.2
"""An interaction above this share of the total: the parts have no effect of their own."""

_CONTRASTS: Mapping[str, tuple[float, float, float, float]] = {
    "first": (-0.5, 0.5, -0.5, 0.5),
    "second": (-0.5, -0.5, 0.5, 0.5),
    "interaction": (1.0, -1.0, -1.0, 1.0),
    "total": (-1.0, 0.0, 0.0, 1.0),
}


class FactorialError(FfnProbeError, ValueError):
    """A 2 x 2 lacks a cell, or its cells do not fit."""


def factorial(
    cells: Mapping[str, Num[np.ndarray, " _"]],
    *,
    factors: tuple[str, str] = ("norm", "activation"),
    count: Num[np.ndarray, " counts"] | None = None,
    metric: str = "error",
    unit: str = "",
    spread: float = math.nan,
) -> Factorial:
    """Return the effects of two factors and their interaction, with intervals.

    Args:
        cells: "v00", "v10", "v01", "v11" -> the metric of each fold, summed over its terms.
            A fold is a group of sequences, or one seed of a training.
        factors: what was swapped.
        count: the terms of each fold (None: 1 each); results are per term.
        metric: what was measured.
        unit: its unit.
        spread: the standard deviation of one cell between folds, where it is known from
            elsewhere (seeds of other trainings): it gives intervals below 4 folds.

    Raises:
        FactorialError: a cell is missing, or cells have unlike numbers of folds.
    """
    table = _table(cells)
    terms = np.ones(table.shape[1]) if count is None else np.asarray(count, np.float64)
    if terms.size != table.shape[1]:
        raise FactorialError(f"{table.shape[1]} folds have {terms.size} counts; one each")
    found = {
        name: _effect(np.array(weights), table, terms, spread)
        for name, weights in _CONTRASTS.items()
    }
    total, interaction = found["total"], found["interaction"]
    separable = _separable(interaction, total)
    main = (found["first"], found["second"])
    v00, v10, v01, v11 = (ratio(row, terms).value for row in table)
    return Factorial(
        metric, unit, factors, (v00, v10, v01, v11), main, interaction, total, separable,
        _sentence(factors, main, interaction, total, unit),
    )  # fmt: skip


def _table(cells: Mapping[str, Num[np.ndarray, " folds"]]) -> Float64[np.ndarray, "4 folds"]:
    missing = [name for name in CELLS if name not in cells]
    if missing:
        raise FactorialError(f"the 2 x 2 lacks {', '.join(missing)}; it needs {CELLS}")
    rows = [np.asarray(cells[name], np.float64).ravel() for name in CELLS]
    if len({row.size for row in rows}) > 1:
        sizes = ", ".join(f"{n} has {r.size}" for n, r in zip(CELLS, rows, strict=True))
        raise FactorialError(f"the cells have unlike numbers of folds: {sizes}")
    table: np.ndarray = np.stack(rows)
    return table


def _effect(
    weights: Float64[np.ndarray, " cells"],
    table: Float64[np.ndarray, "cells folds"],
    terms: Float64[np.ndarray, " folds"],
    spread: float,
) -> Interval:
    """Return one contrast of the cells, per term."""
    found = ratio(weights @ table, terms)
    if terms.size >= LEAST_FOLDS or math.isnan(spread):
        return found
    half = float(scipy.special.ndtri((1 + LEVEL) / 2)) * spread
    half *= float(np.sqrt((weights**2).sum() / terms.size))
    return Interval(found.value, found.value - half, found.value + half)


# Words


def _sentence(
    factors: tuple[str, str],
    main: tuple[Interval, Interval],
    interaction: Interval,
    total: Interval,
    unit: str,
) -> str:
    if not math.isfinite(total.value):
        return "The 2 x 2 has a cell that is not finite: nothing can be said."
    if math.isnan(total.low):
        return (
            f"{factors[0]} {_amount(main[0], unit)}, {factors[1]} {_amount(main[1], unit)}, "
            f"interaction {_amount(interaction, unit)}: too few folds to tell them from noise."
        )
    whole = math.nan
    if total.excludes_zero and _separable(interaction, total):
        whole = total.value
    told = [
        _told(name, effect, whole, unit) for name, effect in zip(factors, main, strict=True)
    ]
    return f"{'; '.join(told)}; {_joint(factors, interaction, total, unit)}."


def _separable(interaction: Interval, total: Interval) -> bool:
    return not abs(interaction.value) > NOT_SEPARABLE * abs(total.value)


def _told(name: str, effect: Interval, total: float, unit: str) -> str:
    said = f"{name} {_amount(effect, unit)}"
    if not effect.excludes_zero:
        return f"{said} cannot be told from zero by these folds"
    return said if math.isnan(total) else f"{said} ({100 * effect.value / total:.3g} % of both)"


def _joint(factors: Sequence[str], interaction: Interval, total: Interval, unit: str) -> str:
    said = f"interaction {_amount(interaction, unit)}"
    large = not _separable(interaction, total)
    if not interaction.excludes_zero and interaction.low < interaction.high:
        tail = ", and could be over 20 %" if large else ""
        return f"{said} cannot be told from zero{tail}"
    share = abs(interaction.value / total.value) if total.value else math.inf
    if large:
        return (
            f"{said} is {100 * share:.0f} % of the total: not separable, report "
            f"{factors[0]} and {factors[1]} as a pair"
        )
    if not interaction.value:
        return f"{said}: the two add"
    return f"{said} is {100 * share:.2g} % of the total: the two nearly add"


def _amount(effect: Interval, unit: str) -> str:
    tail = f" {unit}" if unit else ""
    if math.isnan(effect.low):
        return f"{effect.value:+.3g}{tail}"
    return f"{effect.value:+.3g} [{effect.low:+.3g}, {effect.high:+.3g}]{tail}"
