"""Which bug explains a stage: one at a time, then two together; in the noise by templates."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from torch import Tensor

from ffn_probe.replay.autopsy.bugs import Bug, both
from ffn_probe.replay.autopsy.stage import MARGIN_DB, Stage, floor_of, predicted, sqnr_db

TIE_DB = 1.0
"""Bugs that leave errors within this of each other explain equally well."""
BETTER_DB = 6.0
"""How much nearer than the healthy block a bug below the floor must come."""
SURE = 8.0
"""Standard errors that a template's coefficient must be from zero, and ..."""
NEAR = 0.2
"""... how near to one."""

_PAIRED = 14
_ROWS = 96


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
    """Return how well each bug that applies explains a stage, the best first."""
    found: list[Fit] = []
    for bug in bugs:
        made = {kind: predicted(stage, bug, kind) for kind in stage.dtypes}
        rows = [m for m in made.values() if m is not None and m.shape == stage.base.shape]
        if rows:
            after = max(sqnr_db(m, stage.seen) for m in rows)
            floor = floor_of(stage, bug) if bug.rounds else stage.floor_db
            found.append(Fit(bug, sqnr_db(stage.base, rows[-1]), after, floor))
    return ranked(found)


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

    Two of the bugs that help most are tried, first on few rows.
    """
    few = _thinned(stage)
    chosen = _helping(stage, singles)
    made = [both(a.bug, b.bug) for a, b in combinations(chosen, 2) if a.bug.slot != b.bug.slot]
    made += [both(b.bug, a.bug) for a, b in combinations(chosen, 2) if a.bug.slot != b.bug.slot]
    likely = fits(few, made)[:4]
    return [f for f in fits(stage, [fit.bug for fit in likely]) if f.reached]


def _helping(stage: Stage, singles: Sequence[Fit]) -> list[Fit]:
    """Return bugs that change something, those that leave least first, few of each slot."""
    counts: dict[str, int] = {}
    kept: list[Fit] = []
    for fit in sorted(singles, key=lambda f: -f.after_db):
        slot = counts[fit.bug.slot] = counts.get(fit.bug.slot, 0) + 1
        if slot <= 4 and fit.predicted_db < stage.floor_db - MARGIN_DB:
            kept.append(fit)
    return kept[:_PAIRED]


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
        made = predicted(stage, bug, wide)
        if made is None or made.shape != base.shape:
            continue
        near = predicted(stage, bug, stage.dtypes[0])
        after = sqnr_db(made if near is None else near, stage.seen)
        slope, z = _template(error, made.double() - base.double())
        fit = Fit(bug, sqnr_db(base, made), max(after, sqnr_db(made, stage.seen)),
                  stage.floor_db, slope, z)  # fmt: skip
        if _exact(fit, stage) or (abs(slope - 1) < NEAR and z > SURE):
            found.append(fit)
    return sorted(found, key=lambda f: (not _exact(f, stage), -_gain(f), f.bug.rank))


def _exact(fit: Fit, stage: Stage) -> bool:
    return fit.after_db > stage.best_db + BETTER_DB


def _gain(fit: Fit) -> float:
    """Return how far the template lowers the error, in units that compare templates."""
    return fit.z * fit.z if math.isfinite(fit.z) else math.inf


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
