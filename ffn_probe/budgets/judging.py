"""judge: a budget and the measures of a pair make a judgement."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pandas as pd

from ffn_probe.attribution.pair_measures import pair_measures
from ffn_probe.budgets.budget import Budget
from ffn_probe.budgets.judgement import Check, Judgement
from ffn_probe.budgets.limit import LOGITS, Limit
from ffn_probe.errors import BudgetError, FfnProbeError
from ffn_probe.runs import Run

_Site = tuple[int, str, str, str]  # layer, block, role, view
_UNKNOWN = "it cannot be told"
_LACKING: Mapping[str, str] = {
    "kl": "the models' outputs are no logits",
    "top1": "the models' outputs are no logits",
    "loss_difference": "the batches hold no tokens or labels to score",
}
_OF_OUTPUT = "the model's output (role logits), not of blocks"


@dataclass(frozen=True, slots=True)
class Measured:
    """The measures of a pair by site, and why values of a site could not be paired."""

    values: Mapping[_Site, Mapping[str, tuple[float, str, float]]]  # value, unit, floor
    reasons: Mapping[_Site, str]

    @classmethod
    def of(cls, run: Run) -> "Measured":
        """Return the measures of a paired run.

        Raises:
            FfnProbeError: the run is of another kind.
        """
        if run.manifest.kind != "paired":
            raise FfnProbeError(
                f"{run.path} is a {run.manifest.kind} run; a budget judges a paired run, which "
                "`ffn-probe replay` or `ffn-probe check REF CAND` makes"
            )
        why = run.table("paired")
        why = why[why["reason"] != ""]
        keys = zip(why["layer"], why["block"], why["role"], why["view"], strict=True)
        reasons = dict(
            zip(((int(a), b, c, d) for a, b, c, d in keys), why["reason"], strict=True)
        )
        return cls.from_table(pair_measures(run), reasons)

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, reasons: Mapping[_Site, str] | None = None
    ) -> "Measured":
        """Return the measures of a table as `pair_measures` makes it."""
        found: dict[_Site, dict[str, tuple[float, str, float]]] = {}
        columns = ("layer", "block", "role", "view", "measure", "value", "unit", "floor")
        for layer, block, role, view, measure, value, unit, floor in zip(
            *(table[name] for name in columns), strict=True
        ):
            site = (int(layer), str(block), str(role), str(view))
            found.setdefault(site, {})[str(measure)] = (float(value), str(unit), float(floor))
        found.setdefault((-1, "", LOGITS, "end"), {})
        return cls(found, reasons or {})


def judge(budget: Budget, pair: Run | Measured) -> Judgement:
    """Return whether a pair is within a budget.

    A value that cannot be told (values that are not paired, NaN, a measure that was not
    taken) fails, and so does one that stands beside values that are not finite in the
    candidate alone.

    Raises:
        BudgetError: a limit is about no site of the pair.
        FfnProbeError: the run is not a paired one.
    """
    measured = pair if isinstance(pair, Measured) else Measured.of(pair)
    checks = [check for limit in budget.limits for check in _checks(limit, measured)]
    return Judgement(budget.name, tuple(checks))


def _checks(limit: Limit, measured: Measured) -> list[Check]:
    blocks = _blocks(limit, measured)
    sites = [
        site
        for site in measured.values
        if site[3] == limit.view and limit.meets(site[2]) and site[:2] in blocks
    ]
    if not sites:
        raise BudgetError(_nothing(limit, measured))
    return [_check(limit, site, measured) for site in sites]


def _blocks(limit: Limit, measured: Measured) -> set[tuple[int, str]]:
    """Return the blocks that a limit is about; the model's output is no layer's."""
    known = {site[:2] for site in measured.values}
    if isinstance(limit.block, int):
        layers = sorted({layer for layer, _ in known if layer >= 0})
        last = -len(layers) <= limit.block < 0
        layer = layers[limit.block] if last else limit.block
        return {place for place in known if place[0] == layer >= 0}
    return {place for place in known if fnmatchcase(place[1], limit.block)}


def _check(limit: Limit, site: _Site, measured: Measured) -> Check:
    layer, block, role, _ = site
    found = measured.values[site]
    value, unit, floor = found.get(limit.measure, (math.nan, "", math.nan))
    check = Check(limit, layer, block, role, value, unit, floor)
    reason = _reason(check, found, measured.reasons.get(site, ""))
    return check if not reason else Check(limit, layer, block, role, value, unit, floor, reason)


def _reason(check: Check, found: Mapping[str, tuple[float, str, float]], unpaired: str) -> str:
    """Return why a check fails; empty when it does not."""
    limit, value = check.limit, check.value
    if math.isnan(value):
        if check.role == LOGITS and not found:
            return f"{_UNKNOWN}: the models' outputs were not compared"
        return f"{_UNKNOWN}: {unpaired or _missing(limit, found)}"
    lost = found.get("nonfinite_b", (0.0,))[0] - found.get("nonfinite_a", (0.0,))[0]
    if lost > 0 and not limit.measure.startswith("nonfinite"):
        return f"{lost:,.0f} more values are not finite in the candidate than in the reference"
    if limit.holds(value):
        return ""
    shown = f"{value:.4g} {check.unit}".strip()
    bound = f"< {limit.minimum:g}" if value < limit.minimum else f"> {limit.maximum:g}"
    beyond = math.isfinite(check.floor) and not limit.holds(check.floor)
    tail = f"; the noise floor itself is {check.floor:.4g}" if beyond else ""
    return f"{shown} {bound}{tail}"


def _missing(limit: Limit, found: Mapping[str, tuple[float, str, float]]) -> str:
    if limit.measure not in found:
        return _LACKING.get(limit.measure, "the measure was not taken here")
    return "the value is not a number"


def _nothing(limit: Limit, measured: Measured) -> str:
    """Return what a limit that is about nothing could have been about."""
    at = f"{limit.where}: " if limit.where else ""
    views = {site for site in measured.values if site[3] == limit.view}
    roles = sorted({site[2] for site in views})
    named = [role for role in roles if fnmatchcase(role, limit.role)]
    if named and not any(limit.measures(role) for role in named):
        kind = "blocks, not of the model's output" if named == [LOGITS] else _OF_OUTPUT
        return f"{at}{limit.name} is about nothing: {limit.measure} is a measure of {kind}"
    if not _blocks(limit, measured):
        blocks = sorted({site[1] for site in measured.values if site[1]})
        listed = ", ".join(blocks[:6]) + (", ..." if len(blocks) > 6 else "")
        return f"{at}{limit.name} is about nothing: no block {limit.block!r}. Blocks: {listed}"
    return (
        f"{at}{limit.name} is about nothing: the pair has no such site in the view "
        f"{limit.view!r}. Its roles there: {', '.join(roles)}"
    )
