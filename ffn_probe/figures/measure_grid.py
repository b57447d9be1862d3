"""One measure of a run as a grid of layers and roles."""

import math

import pandas as pd

from ffn_probe.anatomy import Site
from ffn_probe.figures.grid import Cell, Column, Grid, ordered_roles
from ffn_probe.measures import measure
from ffn_probe.runs import Run


def measure_grid(run: Run, name: str, frame: pd.DataFrame | None = None) -> Grid:
    """Return a measure of every site; a mixture shows its most unusual expert.

    `frame` are measures of the run, this one among them, where they are known already.

    Raises:
        UnknownName: no measure has that name.
    """
    entry = measure(name)
    unit = "" if entry.unit == "1" else f" {entry.unit}"
    found: dict[tuple[str, str], tuple[float, Site]] = {}
    lines = run.measures([name]) if frame is None else frame[frame["measure"] == name]
    for line in lines.to_dict("records"):
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
