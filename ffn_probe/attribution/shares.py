"""Who did it: shares of a block's own error, of a norm's change, of the final error."""

import math
from dataclasses import dataclass

import numpy as np

from ffn_probe.attribution.attribution import PLAYERS, Cause, Interval
from ffn_probe.attribution.bootstrap import ratio
from ffn_probe.attribution.factorial import NOT_SEPARABLE
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


@dataclass(frozen=True, slots=True)
class Patches:
    """Shares of the model's final error; None where a patch was not made.

    `back` goes away when the reference's block is put back, `into` appears when the candidate's
    is put into the reference, `parts` go when one part of the block is put back.
    """

    back: Interval | None = None
    into: Interval | None = None
    parts: tuple[Cause, ...] = ()


def patches(tables: PairTables, block: str) -> Patches:
    """Return what the patches of one block did to the final error.

    The error at the output is the energy of the candidate's less the reference's; where the
    output has no such error, the KL.
    """
    metric, whole = _final(tables)
    if whole is None:
        return Patches()
    effects = {p: m[metric] for p, m in tables.effects("patch", block).items() if metric in m}
    parts = [
        Cause(name, _removed(effect, whole), effect.total)
        for part, effect in effects.items()
        if (name := part.removeprefix("back:")) in PLAYERS
    ]
    return Patches(
        _removed(effects["back"], whole) if "back" in effects else None,
        _made(effects["in"], whole) if "in" in effects else None,
        tuple(sorted(parts, key=lambda cause: -cause.share.value)),
    )


def patched_all(tables: PairTables) -> Interval | None:
    """Return the share of the final error that goes when all blocks are the reference's."""
    metric, whole = _final(tables)
    effect = tables.effects("patch").get("back_all", {}).get(metric)
    return None if whole is None or effect is None else _removed(effect, whole)


def _final(tables: PairTables) -> tuple[str, Effect | None]:
    """Return the metric of the final error, and the error; None when there is none.

    It is the error on the batches that were patched, where the run has it.
    """
    whole = tables.effects("patch").get("none") or tables.effects("output").get("candidate", {})
    metric = next((m for m in (_METRIC, "kl") if m in whole), "")
    return metric, whole[metric] if metric and whole[metric].total > 0 else None


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
