"""Who did it: shares of a block's own error, of a norm's change, of the final error."""

import math
from dataclasses import dataclass

import numpy as np

from ffn_probe.attribution.attribution import PLAYERS, Cause, Interval
from ffn_probe.attribution.bootstrap import ratio
from ffn_probe.attribution.factorial import NOT_SEPARABLE
from ffn_probe.attribution.floors import DRIFT
from ffn_probe.attribution.output_drift import output_drift
from ffn_probe.attribution.pair_tables import Effect, PairTables

NORM_PARTS: tuple[str, ...] = ("scale", "mean_leakage", "bias_loss", "gain_change")
_METRIC = "error"
_ALONE = "alone:"


@dataclass(frozen=True, slots=True)
class Causes:
    """The Shapley shares of a block's parts, the largest first.

    `interaction` is the share of the total that the parts leave when each is changed alone;
    over 20 % either way the parts are not separable.
    """

    causes: tuple[Cause, ...] = ()
    interaction: float = math.nan
    separable: bool = True


def causes(tables: PairTables, block: str) -> Causes:
    """Return the shares of a block's parts, none where they were not evaluated."""
    effects = {p: m[_METRIC] for p, m in tables.effects("shapley", block).items()
               if _METRIC in m}  # fmt: skip
    return causes_of(effects)


def causes_of(effects: dict[str, Effect]) -> Causes:
    """Return the shares of the effects of players, "total" and "alone:<player>"."""
    total = effects.get("total")
    players = [name for name in PLAYERS if name in effects]
    if total is None or not players or not total.total > 0:
        return Causes()
    found = [Cause(name, _share(effects[name], total), effects[name].total) for name in players]
    alone = [effects[_ALONE + name].total for name in players if _ALONE + name in effects]
    # A player without a value of its own does nothing; without any there is nothing to say.
    interaction = 1 - sum(alone) / total.total if alone else math.nan
    return Causes(
        tuple(sorted(found, key=lambda cause: -cause.share.value)),
        interaction,
        not abs(interaction) > NOT_SEPARABLE,
    )


def model_causes(tables: PairTables) -> Causes:
    """Return the shares of the parts in the own errors of all blocks together."""
    summed: dict[str, Effect] = {}
    for _, block in tables.places:
        for part, metrics in tables.effects("shapley", block).items():
            if _METRIC in metrics:
                summed[part] = _plus(summed.get(part), metrics[_METRIC])
    return causes_of(summed)


def norm_split(tables: PairTables, block: str) -> tuple[Cause, ...]:
    """Return the causes of a norm's change over its energy, without the terms between them."""
    effects = tables.effects("norm", block)
    observed = effects.get("observed", {}).get(_METRIC)
    if observed is None or not observed.total > 0:
        return ()
    parts = [(name, effects[name].get(_METRIC)) for name in NORM_PARTS if name in effects]
    return tuple(
        Cause(name, _share(effect, observed), effect.total)
        for name, effect in parts
        if effect is not None
    )


def patched(tables: PairTables, block: str) -> tuple[Interval | None, Interval | None]:
    """Return the shares of the model's final error that a block's patch removes and makes.

    The error at the output is the energy of the candidate's less the reference's, on the
    batches that were patched; where the output has no such error, the KL. None when the output
    does not drift.
    """
    effects = tables.effects("patch", block)
    whole = tables.effects("patch").get("none") or tables.effects("output").get("candidate", {})
    metric = next((m for m in (_METRIC, "kl") if m in whole), "")
    if not metric or not whole[metric].total > 0 or not _output_differs(tables):
        return None, None
    back = effects.get("back", {}).get(metric)
    into = effects.get("in", {}).get(metric)
    removed = None if back is None else _removed(back, whole[metric])
    return removed, None if into is None else _made(into, whole[metric])


def _output_differs(tables: PairTables) -> bool:
    """Return whether the final error is above its floor: a share of noise says nothing."""
    output = output_drift(tables)
    return output is None or output.status == DRIFT


def _removed(patch: Effect, whole: Effect) -> Interval:
    same = _alike(whole, patch)
    return ratio(same - patch.values, same)


def _made(patch: Effect, whole: Effect) -> Interval:
    return ratio(patch.values, _alike(whole, patch))


def _alike(whole: Effect, patch: Effect) -> np.ndarray:
    """Return the whole's sums of the patch's folds, for as many terms as the patch saw."""
    on = whole.on(patch.folds)
    seen = np.divide(patch.counts, on.counts, out=np.zeros_like(on.counts), where=on.counts > 0)
    scaled: np.ndarray = on.values * seen
    return scaled


def _share(effect: Effect, total: Effect) -> Interval:
    return ratio(effect.on(total.folds).values, total.values)


def _plus(sum_: Effect | None, more: Effect) -> Effect:
    if sum_ is None:
        return more
    folds = tuple(sorted({*sum_.folds, *more.folds}))
    a, b = sum_.on(folds), more.on(folds)
    return Effect(folds, a.values + b.values, a.counts + b.counts)
