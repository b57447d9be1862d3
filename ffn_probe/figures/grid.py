"""Layers times roles as a grid of numbers: what a heatmap shows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ffn_probe.anatomy import GRAD, ROLES, Site
from ffn_probe.compare import Drift, SiteDrift
from ffn_probe.measures import measure
from ffn_probe.runs import Run

CAP = 100.0
"""Scores beyond are drawn as this; the text holds the true number."""


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
    """

    value: float
    mark: str
    text: str
    name: str = ""


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


def drift_grid(drift: Drift) -> Grid:
    """Return how far each site is over its threshold; a mixture shows its worst expert.

    A score of 1 is the practical threshold, 2 a failure. What is under the noise floor
    scores 0, whatever its threshold. What is on one side only is marked, not left out.
    """
    columns = _columns(drift)
    roles = ordered_roles(
        [*(s.role for s in drift.sites), *(s.role for s in (*drift.only_a, *drift.only_b))]
    )
    worst: dict[tuple[str, str], SiteDrift] = {}
    for site in drift.sites:
        old = worst.get((site.role, site.block_a))
        if old is None or site.worst.severity > old.worst.severity:
            worst[site.role, site.block_a] = site
    sides = {"only_a": drift.a.name, "only_b": drift.b.name}
    single = {("only_a", s.role, s.block) for s in drift.only_a}
    single |= {("only_b", s.role, s.block) for s in drift.only_b}

    def cell(role: str, column: Column) -> Cell:
        site = worst.get((role, column.block_a))
        if site is not None:
            return Cell(score(site), site.status, site_text(site), site.name)
        where = f"layer {column.label} {role}"
        for side, block in (("only_a", column.block_a), ("only_b", column.block_b)):
            if (side, role, block) in single:
                return Cell(math.nan, side, f"{where}: only in {sides[side]}")
        return Cell(math.nan, "absent", f"{where}: in neither run")

    cells = tuple(tuple(cell(role, column) for column in columns) for role in roles)
    return Grid(roles, columns, cells, "times the threshold, where above the noise floor", "x")


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
    best = 0.0
    for change in site.changes:
        noise = max(change.floor or 0.0, change.repeat_floor or 0.0)
        hidden = change.status == "PASS" and abs(change.value) <= noise
        if hidden or math.isnan(change.value):
            continue
        if change.threshold > 0:
            best = max(best, abs(change.value) / change.threshold)
        elif change.status != "PASS":
            best = math.inf
    return min(best, {"PASS": 1.0, "WARN": 2.0, "FAIL": math.inf}[site.status])


def shade(value: float) -> float:
    """Return where a score falls on the drift's colour scale, 0..1; NaN is 0."""
    return 0.0 if math.isnan(value) else math.log1p(min(value, CAP)) / math.log1p(CAP)


def site_text(site: SiteDrift) -> str:
    """Return what a cell says in words."""
    expert = f" expert {site.expert}" if site.expert >= 0 else ""
    return f"{site.status} layer {site.layer} {site.role}{expert}: {site.headline}"


# ---- a run ------------------------------------------------------------------------------


def measure_grid(run: Run, name: str) -> Grid:
    """Return a measure of every site; a mixture shows its most unusual expert.

    Raises:
        UnknownName: no measure has that name.
    """
    entry = measure(name)
    unit = "" if entry.unit == "1" else f" {entry.unit}"
    found: dict[tuple[str, str], tuple[float, Site]] = {}
    for line in run.measures([name]).to_dict("records"):
        site = Site(line["layer"], line["block"], line["role"], line["expert"])
        value, old = float(line["value"]), found.get((site.role, site.block))
        if old is None or _more_unusual(value, old[0], entry.direction):
            found[site.role, site.block] = value, site
    blocks = sorted({(site.layer, site.block) for site in run.sites})
    columns = tuple(Column(str(layer), block, "") for layer, block in blocks)
    roles = ordered_roles({site.role for site in run.sites})

    def cell(role: str, column: Column) -> Cell:
        where = f"layer {column.label} {role}"
        if (role, column.block_a) not in found:
            return Cell(math.nan, "absent", f"{where}: does not apply")
        value, site = found[role, column.block_a]
        expert = f" (expert {site.expert})" if site.expert >= 0 else ""
        return Cell(value, "", f"{where}: {value:.4g}{unit}{expert}", site.name)

    cells = tuple(tuple(cell(role, column) for column in columns) for role in roles)
    return Grid(roles, columns, cells, entry.label, entry.unit)


def _more_unusual(value: float, old: float, direction: str) -> bool:
    if math.isnan(old) or math.isnan(value):
        return math.isnan(old)
    if direction == "both":
        return abs(value) > abs(old)
    return value < old if direction == "low" else value > old


# ---- axes -------------------------------------------------------------------------------


def ordered_roles(present: Iterable[str]) -> tuple[str, ...]:
    """Return the roles in the order of the data flow, gradients behind."""
    known = [*ROLES, *(GRAD + role for role in ROLES)]
    rank: Mapping[str, int] = {role: i for i, role in enumerate(known)}
    return tuple(sorted(set(present), key=lambda role: (rank.get(role, len(rank)), role)))


def ticks(columns: Sequence[Column], most: int = 24) -> list[int]:
    """Return the places of the columns whose layer is written out."""
    return list(range(0, len(columns), max(1, math.ceil(len(columns) / most))))
