"""The sections of a drift's report that are numbers: heatmap, sites, settings."""

import math

from ffn_probe.compare import Change, Drift, SiteDrift
from ffn_probe.figures.grid import Grid, drift_grid
from ffn_probe.figures.heatmap import drift_heatmap
from ffn_probe.figures.theme import SIGN
from ffn_probe.report.document import SIGNED
from ffn_probe.report.heatmaps import heatmap_svg
from ffn_probe.report.section import Chart, Numbers, Section
from ffn_probe.report.words import drifted, number, place, times

_ROWS = 30  # sites that are shown without a click
_MOST = 600  # sites in all: an 80-layer model's
_SITE_HEAD = (
    "status, layer, role, aspect, statistic, value, unit, threshold, floor, times floor, "
    "smallest visible, folds"
)
_RIGHT = (
    "layer", "value", "threshold", "floor", "times floor", "smallest visible", "folds",
)  # fmt: skip
_CHANGE_HEAD = (
    "status, statistic, value, unit, threshold, floor, times floor, smallest visible, folds"
)


def heatmap(drift: Drift) -> Section:
    """Return the map of all sites, with its numbers."""
    grid = drift_grid(drift)
    chart = Chart(
        heatmap_svg(grid),
        f"Every site: {grid.label}",
        (grid_numbers(grid),),
        file="heatmap",
        draw=lambda: drift_heatmap(drift),
    )
    return Section("Layers and roles", charts=(chart,))


def grid_numbers(grid: Grid) -> Numbers:
    """Return the numbers of a heatmap, one row a layer; a dash where there is no site."""
    rows = tuple(
        (column.label, *(_cell(row[j].value, row[j].mark) for row in grid.cells), column.block)
        for j, column in enumerate(grid.columns)
    )
    unit = "" if grid.unit in {"1", "", "x"} else f" [{grid.unit}]"
    head = ("layer", *grid.roles, "block")
    right = frozenset(range(len(head) - 1))
    folded = f"The numbers of the map: {grid.label}{unit}"
    return Numbers(head, rows, right, folded=folded, map=True)


def _cell(value: float, mark: str) -> str:
    if math.isnan(value):
        return {"only_a": "only A", "only_b": "only B"}.get(mark, "-")
    sign = SIGN[mark] + " " if mark in {"WARN", "FAIL"} else ""
    return sign + number(value)


def sites(drift: Drift) -> Section:
    """Return the sites that did not pass, worst first, each with its worst statistic."""
    found = drifted(drift, len(drift.sites))
    if not found:
        return Section("Sites", ("Every site passed.",))
    shown, rest = found[:_ROWS], found[_ROWS:_MOST]
    caption = (
        f"The worst {len(shown)} of {len(found)} sites that did not pass, worst first, each "
        "with its worst statistic."
    )
    tables = [Numbers.of(_SITE_HEAD, map(_site, shown), right=_RIGHT, caption=caption,
                         folded="")]  # fmt: skip
    if rest:
        folded = f"The next {len(rest)} sites that did not pass"
        tables.append(Numbers.of(_SITE_HEAD, map(_site, rest), right=_RIGHT, folded=folded))
    lost = len(found) - len(shown) - len(rest)
    text = (f"{lost} more sites did not pass; JSON and the tables hold them.",) if lost else ()
    return Section("Sites", text, numbers=tuple(tables))


def _site(site: SiteDrift) -> tuple[str, ...]:
    worst = site.worst
    return (
        SIGNED[site.status], str(site.layer), place(site), worst.aspect, *_numbers(worst),
    )  # fmt: skip


def changes(site: SiteDrift) -> Numbers:
    """Return every statistic of a site, worst first."""
    ranked = sorted(site.changes, key=lambda change: change.severity, reverse=True)
    rows = [(SIGNED[change.status], *_numbers(change)) for change in ranked]
    right = ("value", "threshold", "floor", "times floor", "smallest visible", "folds")
    return Numbers.of(_CHANGE_HEAD, rows, right=right, folded=f"{len(rows)} statistics")


def _numbers(change: Change) -> tuple[str, ...]:
    return (
        change.statistic, number(change.value, signed=True), change.unit,
        number(change.threshold), number(change.floor), times(change), number(change.mde),
        str(change.folds),
    )  # fmt: skip


def settings(drift: Drift) -> tuple[Section, ...]:
    """Return what differs in how the two runs were made."""
    if not drift.config_diff:
        return (Section("Settings", ("The two runs were made with the same settings.",)),)
    head = ("setting", drift.a.name, drift.b.name)
    table = Numbers(head, drift.config_diff, frozenset(), wrap=True)
    return (Section("Settings that differ", numbers=(table,)),)
