"""explain: from the tables of a paired run to what made the candidate drift."""

import math
from collections.abc import Sequence

import numpy as np

from ffn_probe.attribution.attribution import (
    EXPECTED,
    INDISTINGUISHABLE,
    UNEXPLAINED,
    Attribution,
    BlockAttribution,
    Factorial,
    Hypothesis,
    Output,
    stage_of,
)
from ffn_probe.attribution.blocks import block_of
from ffn_probe.attribution.bootstrap import LEAST_FOLDS
from ffn_probe.attribution.expectations import theory_of, told_by_theory
from ffn_probe.attribution.factorial import CELLS, factorial
from ffn_probe.attribution.floors import DRIFT, above, rounding_floor
from ffn_probe.attribution.found import Found, NotFinite, first_stage, told
from ffn_probe.attribution.output_drift import output_drift
from ffn_probe.attribution.pair_tables import BY_ROLE, PairedRun, PairTables
from ffn_probe.attribution.shares import model_causes, patched_all
from ffn_probe.attribution.story import verdict

BUG = "bug"

RANDOM_DB = 25.0
"""A reference that is this much further from itself than rounding allows is random."""

_UNITS = {"kl": "nats a token", "loss": "nats a token", "error": "mean squared error"}


def explain(run: PairedRun) -> Attribution:
    """Return what made the candidate of a paired run drift, block by block and in words."""
    return attribution_of(PairTables.of(run))


def attribution_of(tables: PairTables) -> Attribution:
    """Return the attribution of tables that were read.

    Sums that are too large or not finite make what rests on them NaN, without a warning.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = _found(tables)
        notes = _notes(tables, found)
    status = _status(found)
    reference, candidate = tables.names
    return Attribution(
        reference, candidate, status, verdict(found, status), found.output, found.blocks,
        found.factorial, found.hypotheses, _first_bad(found, status), notes,
        found.patched_all, found.theory,
    )  # fmt: skip


def _found(tables: PairTables) -> Found:
    return Found(
        blocks=tuple(block_of(tables, layer, block) for layer, block in tables.places),
        output=output_drift(tables),
        hypotheses=_hypotheses(tables),
        factorial=tuple(_factorials(tables)),
        causes=model_causes(tables),
        not_finite=_not_finite(tables),
        swap=tables.about.get("swap") or {},
        patched_all=patched_all(tables),
        farthest=_farthest(tables),
        theory=theory_of(tables),
    )


# Status


def _status(found: Found) -> str:
    reached = any(told(h) for h in found.hypotheses)
    if found.not_finite is not None:
        return BUG if reached else DRIFT
    if _alike(found.blocks, found.output):
        return INDISTINGUISHABLE
    theory = told_by_theory(found.blocks)
    if theory == EXPECTED and found.swap:
        return EXPECTED
    if reached:
        return BUG
    if theory == EXPECTED:  # theory tells how large it is, nobody that it should be
        return DRIFT
    excluded = any(not h.reached for h in found.hypotheses)
    return UNEXPLAINED if excluded or theory == UNEXPLAINED else DRIFT


def _alike(blocks: Sequence[BlockAttribution], output: Output | None) -> bool:
    """Return whether nothing is told apart: at the output, or in the blocks without one."""
    if output is not None:
        return output.status == INDISTINGUISHABLE
    return all(block.status == INDISTINGUISHABLE for block in blocks)


# Where it starts


def _first_bad(found: Found, status: str) -> tuple[int, str, str] | None:
    """Return layer, block and stage of the first error of its own above the floor."""
    if found.not_finite is not None:
        site = found.not_finite
        return site.layer, site.block, site.stage
    if status == INDISTINGUISHABLE:
        return None
    bad = next((b for b in found.blocks if above(b.local_db, b.floor_db)), None)
    return None if bad is None else (bad.layer, bad.block, first_stage(bad))


def _not_finite(tables: PairTables) -> NotFinite | None:
    """Return the first site, in the order of the data flow, at which one model only has NaN."""
    for layer, block in tables.places:
        roles = tables.roles(block, "end")
        for role in roles:
            site = tables.site(block, role, "end")
            a, b = site.nonfinite if site else (0, 0)
            if (a > 0) != (b > 0):
                kind = tables.kinds.get(block, "glu")
                stage = stage_of(role, kind, split="gate_act" in roles)
                return NotFinite(layer, block, role, stage, a, b)
    return None


def _farthest(tables: PairTables) -> tuple[int, str, float] | None:
    """Return layer, role and KS distance where unpaired values are the least alike."""
    found = [
        (metrics["ks"].mean, layer, role)
        for layer, block in tables.places
        for role, metrics in tables.effects(BY_ROLE, block).items()
        if "ks" in metrics
    ]
    distance, layer, role = max(found, default=(math.nan, -1, ""))
    return (layer, role, distance) if role else None


# Tables


def _hypotheses(tables: PairTables) -> tuple[Hypothesis, ...]:
    """Return the hypotheses: those that reach the floor first, then by depth and rank."""
    rows = tables.frames["hypotheses"].to_dict("records")
    ranked = sorted(rows, key=lambda r: (not r["reached"], r["layer"], r["block"], r["rank"]))
    return tuple(
        Hypothesis(
            str(r["hypothesis"]), str(r["variant"]), int(r["layer"]), str(r["block"]),
            str(r["stage"]), float(r["predicted_db"]), float(r["measured_db"]),
            float(r["after_db"]), float(r["floor_db"]), bool(r["reached"]), str(r["sentence"]),
            str(r["fix"]),
        )
        for r in ranked
    )  # fmt: skip


def _factorials(tables: PairTables) -> list[Factorial]:
    cells = tables.effects("factorial")
    if not all(name in cells for name in CELLS):
        return []
    metrics = [m for m in cells["v11"] if all(m in cells[name] for name in CELLS)]
    named = [str(name) for name in tables.about.get("factors", ())][:2]
    factors = (named[0], named[1]) if len(named) == 2 else ("norm", "activation")
    found = []
    for metric in metrics:
        whole = cells["v11"][metric]
        values = {name: cells[name][metric].on(whole.folds).values for name in CELLS}
        unit = _UNITS.get(metric, "")
        found.append(
            factorial(values, factors=factors, count=whole.counts, metric=metric, unit=unit)
        )
    return found


def _random(tables: PairTables) -> str:
    """Return what to say of a reference that does not repeat itself, "" where it does."""
    for layer, block in tables.places:
        noise = tables.site(block, "out", "noise")
        apart = noise.sqnr_db if noise else math.nan
        if apart < rounding_floor(tables.dtypes, "out") - RANDOM_DB:
            return (
                f"The reference differs from itself by {apart:.1f} dB in layer {layer}: "
                "something in it is random (dropout in training mode?), and what is told is "
                "beyond that."
            )
    return ""


def _notes(tables: PairTables, found: Found) -> tuple[str, ...]:
    floors = tables.about.get("floors") or {}
    notes = [f"Noise floor: {floors['how']}"] if floors.get("how") else []
    if not tables.floor_measured:
        notes.append(
            "The reference was not compared with itself: the floor is the rounding of "
            f"{' and '.join(sorted(set(tables.dtypes)))} alone."
        )
    random = _random(tables)
    if random:
        notes.append(random)
    ends = [tables.site(block.block, "out", "end") for block in found.blocks]
    folds = max((len(site.folds) for site in ends if site), default=LEAST_FOLDS)
    if folds < LEAST_FOLDS:
        notes.append(
            f"{folds} folds of sequences are too few for intervals; {LEAST_FOLDS} are needed."
        )
    return (*notes, *(str(note) for note in tables.about.get("notes", ())))
