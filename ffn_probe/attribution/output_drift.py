"""The drift at the model's output, from the effects of a paired run."""

import math
from collections.abc import Mapping

from ffn_probe.attribution.attribution import INDISTINGUISHABLE, Interval, Output
from ffn_probe.attribution.bootstrap import ratio
from ffn_probe.attribution.floors import DRIFT, MARGIN_DB, sqnr_db
from ffn_probe.attribution.pair_tables import Effect, PairTables

_LEAST_KL = 1e-9  # nats a token; rounding of float32 logits makes less
_NOTHING = Interval(math.nan)


def output_drift(tables: PairTables) -> Output | None:
    """Return the drift at the output, None when no output was compared."""
    effects = tables.effects("output")
    seen, noise = effects.get("candidate", {}), effects.get("noise", {})
    if not seen:
        return None
    sqnr = math.nan
    if {"error", "energy"} <= seen.keys():
        sqnr = sqnr_db(seen["energy"].total, seen["error"].total)
    kl = _mean(seen, "kl")
    kl_floor = _mean(noise, "kl").value
    tokens = next((seen[m].counts.sum() for m in ("kl", "top1") if m in seen), 0)
    return Output(
        int(tokens), sqnr, tables.output_floor_db, kl, kl_floor, _mean(seen, "top1"),
        _loss_difference(seen), _status(sqnr, tables.output_floor_db, kl, kl_floor),
    )  # fmt: skip


def _status(sqnr: float, floor: float, kl: Interval, kl_floor: float) -> str:
    """Return the status by SQNR, by KL where there is none; what is not finite drifts."""
    if not math.isnan(sqnr):
        return INDISTINGUISHABLE if sqnr >= floor - MARGIN_DB else DRIFT
    least = max(_LEAST_KL, 0.0 if math.isnan(kl_floor) else 2 * kl_floor)
    return INDISTINGUISHABLE if kl.value <= least else DRIFT


def _mean(metrics: Mapping[str, Effect], name: str) -> Interval:
    effect = metrics.get(name)
    return _NOTHING if effect is None else ratio(effect.values, effect.counts)


def _loss_difference(metrics: Mapping[str, Effect]) -> Interval:
    if not {"loss_a", "loss_b"} <= metrics.keys():
        return _NOTHING
    a = metrics["loss_a"]
    b = metrics["loss_b"].on(a.folds)
    return ratio(b.values - a.values, a.counts)
