"""Which bug explains a stage: one at a time, then two together; in the noise by templates."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ffn_probe.replay.autopsy.bugs import Bug, both
from ffn_probe.replay.autopsy.stage import MARGIN_DB, Stage, floor_of, predictions, sqnr_db

TIE_DB = 1.0
"""Bugs that leave errors within this of each other explain equally well."""
BETTER_DB = 6.0
"""How much nearer than the healthy block a bug below the floor must come."""
SURE = 8.0
"""Standard errors that a template's coefficient must be from zero, and ..."""
NEAR = 0.2
"""... how near to one."""

CASTS = "cast"
"""Slot of the bugs that are rounding alone: without rounding they change nothing."""

FAR_DB = 30.0
"""A bug that leaves this much more than the floor on few rows explains nothing."""

_BEAM = 5
_LIKELY = 4
_ROWS = 128


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How well a bug explains what the candidate made, in dB of SQNR.

    `coefficient` and `z` (standard errors from zero) are those of the bug's template in the
    difference; NaN where they were not fitted.
    """

    bug: Bug
    predicted_db: float
    after_db: float
    floor_db: float
    coefficient: float = math.nan
    z: float = math.nan

    @property
    def reached(self) -> bool:
        """Whether what is left is no more than the floor."""
        return self.after_db >= self.floor_db - MARGIN_DB


def fits(stage: Stage, bugs: Iterable[Bug]) -> list[Fit]:
    """Return how well each bug that applies explains a stage, the best first.

    All are tried on few rows; those that leave far more than the floor there, on no more.
    """
    few = _thinned(stage)
    found: list[Fit] = []
    for bug in bugs:
        first = _fit(few, bug)
        if first is not None and first.after_db >= first.floor_db - FAR_DB:
            found.append(_fit(stage, bug) or first)
        elif first is not None:
            found.append(first)
    return ranked(found)


def _fit(stage: Stage, bug: Bug) -> Fit | None:
    rows = predictions(stage, bug)
    if not rows:
        return None
    after = max(sqnr_db(m, stage.seen) for m in rows)
    floor = stage.floor_db
    if bug.rounds and after < floor - MARGIN_DB:
        floor = floor_of(stage, bug)
    return Fit(bug, sqnr_db(stage.base, rows[-1]), after, floor)


def ranked(found: Sequence[Fit]) -> list[Fit]:
    """Return fits, the best first; of those that tie, the likelier bug."""
    rest = sorted(found, key=lambda f: (-f.after_db, f.bug.rank))
    best = next((f.after_db for f in rest), math.inf)

    def key(fit: Fit) -> tuple[bool, bool, int, float]:
        tied = fit.after_db == best or fit.after_db >= best - TIE_DB
        return (not fit.reached, not tied, fit.bug.rank if tied else 0, -fit.after_db)

    return sorted(rest, key=key)


def pairs(stage: Stage, singles: Sequence[Fit]) -> list[Fit]:
    """Return the pairs of bugs that explain a stage, when no single one does.

    The bugs that help most are each tried with all others, on few rows first.
    """
    few = _thinned(stage)
    able = [f for f in singles if f.predicted_db < stage.floor_db - MARGIN_DB]
    best = _helping(able)
    made: list[Bug] = []
    for first in best:
        for second in able:
            if second.bug.rounds and second not in best:
                continue
            if second is not first and second.bug.slot != first.bug.slot:
                made.append(both(first.bug, second.bug))
                if second not in best:
                    made.append(both(second.bug, first.bug))
    likely = [f for f in (_fit(few, bug) for bug in made) if f is not None]
    chosen = ranked(likely)[:_LIKELY]
    return [f for f in fits(stage, [fit.bug for fit in chosen]) if f.reached]


def _helping(singles: Sequence[Fit]) -> list[Fit]:
    """Return the bugs that leave least, few of each slot."""
    counts: dict[str, int] = {}
    kept: list[Fit] = []
    for fit in sorted(singles, key=lambda f: (-f.after_db, f.bug.rank)):
        slot = counts[fit.bug.slot] = counts.get(fit.bug.slot, 0) + 1
        if slot <= 2:
            kept.append(fit)
    return kept[:_BEAM]


def _thinned(stage: Stage) -> Stage:
    stride = max(1, len(stage.given) // _ROWS)
    healthy = {
        kind: {role: rows[::stride] for role, rows in roles.items()}
        for kind, roles in stage.healthy.items()
    }
    return replace(
        stage, given=stage.given[::stride], seen=stage.seen[::stride],
        base=stage.base[::stride], healthy=healthy,
    )  # fmt: skip


# ---- below the floor --------------------------------------------------------------------


def hidden_fits(stage: Stage, bugs: Iterable[Bug]) -> list[Fit]:
    """Return the bugs that show in a difference that is no larger than the floor.

    Either a bug gives the candidate's numbers (nearly) bit for bit where the healthy block does
    not, or its template (bug less healthy, in float32) stands in the difference with a
    coefficient of one.
    """
    wide = stage.dtypes[-1]
    base = stage.healthy[wide][stage.end]
    error = stage.seen.double() - base.double()
    found: list[Fit] = []
    for bug in bugs:
        rows = predictions(stage, bug)
        if not rows:
            continue
        made = rows[-1]
        after = max(sqnr_db(m, stage.seen) for m in rows)
        slope, z = _template(error, made.double() - base.double())
        fit = Fit(bug, sqnr_db(base, made), after, stage.floor_db, slope, z)
        shows = fit.predicted_db < math.inf or bug.slot == CASTS
        if shows and (_exact(fit, stage) or (abs(slope - 1) < NEAR and z > SURE)):
            found.append(fit)
    return sorted(found, key=lambda f: _nearness(f, stage))


def _exact(fit: Fit, stage: Stage) -> bool:
    return fit.after_db > stage.best_db + BETTER_DB


def _nearness(fit: Fit, stage: Stage) -> tuple[bool, float, int]:
    """Return what sorts bugs in the noise: by what they leave, or by their template."""
    exact = _exact(fit, stage)
    return (not exact, -fit.after_db if exact else -fit.z, fit.bug.rank)


def _template(error: Tensor, template: Tensor) -> tuple[float, float]:
    """Return the least-squares coefficient of a template in an error, and its z value."""
    keep = error.isfinite() & template.isfinite()
    e, t = error[keep], template[keep]
    size = float((t * t).sum())
    if size == 0 or len(e) < 3:
        return math.nan, math.nan
    slope = float((e * t).sum()) / size
    rest = float((e - slope * t).square().sum()) / (len(e) - 1)
    if rest == 0:
        return slope, math.inf
    return slope, slope * math.sqrt(size / rest)
