"""Layers times roles as a grid of numbers: what a heatmap shows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from ffn_probe.anatomy import GRAD, ROLES
from ffn_probe.compare import Change, Drift, SiteDrift
from ffn_probe.compare.change import RANK
from ffn_probe.compare.tolerance import (
    Tolerance,
    changes_of,
    times_noise,
    times_threshold,
    tolerance,
    worst_of,
)
from ffn_probe.compare.words import in_words
from ffn_probe.figures.numbers import number
from ffn_probe.figures.theme import THRESHOLD_AT

CAP = 100.0
"""Scores beyond are drawn as this; the text holds the true number."""

FLOOR_CAP = 1000.0
"""Multiples of the floor beyond are drawn as this."""

PASSED_AT = 0.14
"""Where on the drift's scale the greys of what passes end."""

By = Literal["threshold", "floor"]


@dataclass(frozen=True, slots=True)
class View:
    """How a drift is looked at: by which multiple, which aspect ("" all), and how strictly.

    `multiplier` is on every practical threshold; verdicts are at 1.
    """

    by: By = "threshold"
    aspect: str = ""
    multiplier: float = 1.0


AS_JUDGED = View()


@dataclass(frozen=True, slots=True)
class Column:
    """One block on the axis of layers; `label` is its layer, "(5)" for one only in b."""

    label: str
    block_a: str
    block_b: str

    @property
    def block(self) -> str:
        """The reference's name of the block, the candidate's where only that has it."""
        return self.block_a or self.block_b


@dataclass(frozen=True, slots=True)
class Cell:
    """One role of one block: its value, a status or what it lacks, words, the site's name.

    `mark` is "PASS", "WARN", "FAIL", "only_a", "only_b", "absent", or "" for a measure.
    `tolerance` is that of all the cell stands for, `raw` its multiple at 1 times the
    thresholds, whatever its status.
    """

    value: float
    mark: str
    text: str
    name: str = ""
    tolerance: Tolerance = field(default_factory=Tolerance)
    raw: float = math.nan


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells over roles (rows) and blocks (columns), with what the values are."""

    roles: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    label: str
    unit: str

    @property
    def values(self) -> Float[np.ndarray, "roles columns"]:
        """The values; NaN where there is no site."""
        found = [[cell.value for cell in row] for row in self.cells]
        return np.array(found, dtype=np.float64).reshape(len(self.roles), len(self.columns))


# ---- a drift ----------------------------------------------------------------------------


def drift_grid(drift: Drift, view: View = AS_JUDGED) -> Grid:
    """Return how far each site is over its threshold, or its floor; of a mixture the worst.

    Times the threshold: 1 is the practical threshold, 2 a failure; what is under the noise
    floor scores 0, whatever its threshold. Times the floor: of the site's worst change, NaN
    without a floor. What is on one side only is marked, not left out.
    """
    columns = _columns(drift)
    roles = ordered_roles(
        [*(s.role for s in drift.sites), *(s.role for s in (*drift.only_a, *drift.only_b))]
    )
    found: dict[tuple[str, str], list[SiteDrift]] = {}
    for site in drift.sites:
        found.setdefault((site.role, site.block_a), []).append(site)
    sides = {"only_a": drift.a.name, "only_b": drift.b.name}
    single = {("only_a", s.role, s.block) for s in drift.only_a}
    single |= {("only_b", s.role, s.block) for s in drift.only_b}

    def cell(role: str, column: Column) -> Cell:
        sites = found.get((role, column.block_a), ())
        where = f"layer {column.label} {role}"
        if sites:
            return _compared(sites, view, where)
        for side, block in (("only_a", column.block_a), ("only_b", column.block_b)):
            if (side, role, block) in single:
                return Cell(math.nan, side, f"{where}: only in {sides[side]}")
        return Cell(math.nan, "absent", f"{where}: in neither run")

    cells = tuple(tuple(cell(role, column) for column in columns) for role in roles)
    return Grid(roles, columns, cells, _LABELS[view.by], "x")


_LABELS: Mapping[By, str] = {
    "threshold": "times the threshold, where above the noise floor",
    "floor": "times the noise floor",
}


def _compared(sites: Sequence[SiteDrift], view: View, where: str) -> Cell:
    """Return the cell of a site, or of the experts of a mixture: the worst, by name."""
    ranked = [(worst, site) for site in sites if (worst := worst_of(site, view.aspect))]
    if not ranked:
        return Cell(math.nan, "absent", f"{where}: {view.aspect} was not recorded")
    worst, site = max(ranked, key=lambda pair: pair[0].severity)
    held = Tolerance()
    for _, other in ranked:
        held = held.with_(tolerance(changes_of(other, view.aspect)))
    status = held.status(view.multiplier)
    text = f"{status} {site_place(site, len(sites))}: {in_words(worst)}"
    ratio = times_threshold(worst)
    text += f", {number(ratio)} times its threshold" if ratio > 0 else ""
    raw = times_noise(worst) if view.by == "floor" else _most(changes_of(site, view.aspect))
    value = raw if view.by == "floor" else min(raw / view.multiplier, _MOST[status])
    return Cell(value, status, text, site.name, held, raw)


def _most(changes: Sequence[Change]) -> float:
    """Return the largest multiple of a threshold."""
    found = (times_threshold(change) for change in changes)
    return max((x for x in found if not math.isnan(x)), default=0.0)


_MOST: Mapping[str, float] = {"PASS": 1.0, "WARN": 2.0, "FAIL": math.inf}


def _columns(drift: Drift) -> tuple[Column, ...]:
    """Return the reference's blocks by depth, those of the candidate alone in between."""
    layers = {block.name: block.layer for block in drift.b.manifest.blocks}
    layers |= {site.block: site.layer for site in drift.only_b}
    partners = {(s.layer, s.block_a): s.block_b for s in drift.sites}
    for site in drift.only_a:
        partners.setdefault((site.layer, site.block), "")
    depths: list[tuple[int, Column]] = []
    depth = -1
    for (layer, block), other in sorted(partners.items()):
        depth = layers.get(other, layer) if other else depth
        depths.append((depth, Column(str(layer), block, other)))
    alone = {(s.layer, s.block) for s in drift.only_b} - {
        (layers[other], other) for other in partners.values() if other in layers
    }
    for layer, block in sorted(alone):
        place = sum(other <= layer for other, _ in depths)
        depths.insert(place, (layer, Column(f"({layer})", "", block)))
    return tuple(column for _, column in depths)


def score(site: SiteDrift) -> float:
    """Return |value| over the threshold of the worst change that is above the floor."""
    return min(_most(site.changes), _MOST[site.status])


def shade(value: float, cap: float = CAP) -> float:
    """Return where a multiple falls on the drift's colour scale, 0..1; NaN is 0.

    Linear up to 1, where colour begins, logarithmic from there to the cap.
    """
    if math.isnan(value):
        return 0.0
    if value <= 1:
        return THRESHOLD_AT * value
    return THRESHOLD_AT + (1 - THRESHOLD_AT) * math.log(min(value, cap)) / math.log(cap)


def heat(cell: Cell, by: By) -> float:
    """Return where a cell falls on the drift's colour scale, 0..1; NaN where nothing is.

    What passes is grey, the darker the further it is above its floor or towards its
    threshold; what does not is in colour.
    """
    if cell.mark not in RANK:
        return math.nan
    place = shade(cell.value, FLOOR_CAP if by == "floor" else CAP)
    if cell.mark != "PASS":
        return max(place, THRESHOLD_AT)
    return PASSED_AT * (place if by == "floor" else min(place / THRESHOLD_AT, 1.0))


def site_place(site: SiteDrift, of: int = 1) -> str:
    """Return "layer 3 hidden", with the expert, and of how many it is the worst."""
    expert = f" expert {site.expert}" if site.expert >= 0 else ""
    return f"layer {site.layer} {site.role}{expert}" + (f" (worst of {of})" if of > 1 else "")


# ---- axes -------------------------------------------------------------------------------


def ordered_roles(present: Iterable[str]) -> tuple[str, ...]:
    """Return the roles in the order of the data flow, gradients behind."""
    known = [*ROLES, *(GRAD + role for role in ROLES)]
    rank: Mapping[str, int] = {role: i for i, role in enumerate(known)}
    return tuple(sorted(set(present), key=lambda role: (rank.get(role, len(rank)), role)))


def ticks(columns: Sequence[Column], most: int = 24) -> list[int]:
    """Return the places of the columns whose layer is written out."""
    return list(range(0, len(columns), max(1, math.ceil(len(columns) / most))))
