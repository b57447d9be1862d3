"""The sections of a run's report: what stands out, maps of measures, largest values, blocks."""

import pandas as pd

from ffn_probe.anatomy import ROLES, Block, Site
from ffn_probe.figures.grid import Grid
from ffn_probe.figures.heatmap import measure_heatmap
from ffn_probe.figures.measure_grid import measure_grid
from ffn_probe.figures.overlay import overlay
from ffn_probe.measures import measure
from ffn_probe.report.distributions import overlay_svg
from ffn_probe.report.drift_tables import grid_numbers
from ffn_probe.report.heatmaps import measure_svg
from ffn_probe.report.section import Chart, Numbers, Section
from ffn_probe.report.telemetry import Telemetry
from ffn_probe.report.unusual import Standout, most_unusual, standouts
from ffn_probe.report.words import number
from ffn_probe.runs import Run

MAPS: tuple[str, ...] = (
    "rms", "crest", "near_zero_share", "dead_share", "spike_ratio", "sqnr_int8_tensor",
    "sqnr_e4m3fn_tensor",
)  # fmt: skip
"""The measures that have a map."""

_PREDICTED = {
    "sqnr_int8_tensor": "sqnr_int8_predicted",
    "sqnr_e4m3fn_tensor": "sqnr_e4m3fn_predicted",
}
_SMALL = 34  # layers of a map that stands beside another
_TIMES = 3  # sites a measure in the table of what stands out
_LARGEST = 2  # values a role
_STANDOUT_HEAD = "measure, value, unit, layer, role, block"
_LARGEST_HEAD = "role, value, layer, channel, step, sequence, position, token, block"
_BLOCK_HEAD = (
    "layer, block, kind, layout, taps, activation, norm, d_model, d_ff, experts, "
    "recompute error, flags"
)


# ---- what stands out --------------------------------------------------------------------


def standing_out(told: Telemetry) -> Section | None:
    """Return the most unusual sites of every measure."""
    first, more = (most_unusual(told.measures, n) for n in (1, _TIMES))
    if first.empty:
        return None
    right = ("value", "layer")
    tables = (
        Numbers.of(_STANDOUT_HEAD, _rows(first), right=right,
                   caption="The most unusual site of every measure."),
        Numbers.of(_STANDOUT_HEAD, _rows(more), right=right,
                   folded=f"The {_TIMES} most unusual of every measure"),
    )  # fmt: skip
    return Section("What stands out", numbers=tables)


def _rows(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (
            measure(name).label,
            number(value),
            _unit(unit),
            str(layer),
            _place(role, expert),
            block,
        )
        for name, value, unit, layer, role, expert, block in frame.itertuples(index=False)
    ]


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit


def _place(role: str, expert: int) -> str:
    return role + (f"#{expert}" if expert >= 0 else "")


def pictures(told: Telemetry, most: int) -> Section | None:
    """Return the distributions of the sites that stand out."""
    found = standouts(told.measures, most)
    if not found:
        return None
    charts = tuple(_picture(told.run, entry, i) for i, entry in enumerate(found, 1))
    return Section("Distributions of what stands out", charts=charts, small=True)


def _picture(run: Run, found: Standout, rank: int) -> Chart:
    site = found.site
    where = f"layer {site.layer} {_place(site.role, site.expert)}"
    histogram = run.histogram(site)
    why = "; ".join(
        f"{_extreme(name)}{measure(name).label} {number(v)}" for name, v in found.measures
    )
    bad = sum((histogram.nan, histogram.pos_inf, histogram.neg_inf))
    lost = f"; not finite, so not drawn: {bad:,} values" if bad else ""
    return Chart(
        overlay_svg(histogram, title=f"{where}: {why}"),
        why + lost,
        title=where,
        names=(site.block,),
        file=f"site-{rank}",
        draw=lambda: overlay(histogram),
    )


def _extreme(name: str) -> str:
    if measure(name).label.startswith("largest"):
        return ""
    return "lowest " if measure(name).direction == "low" else "highest "


# ---- maps -------------------------------------------------------------------------------


def maps(told: Telemetry) -> Section | None:
    """Return the important measures as layers times roles."""
    frame = told.measures
    known = set(frame["measure"])
    chosen = [name if name in known else _PREDICTED.get(name, "") for name in MAPS]
    grids = [(name, measure_grid(told.run, name, frame)) for name in chosen if name in known]
    if not grids:
        return None
    small = len(grids[0][1].columns) <= _SMALL
    charts = tuple(_map(told.run, name, grid, small=small) for name, grid in grids)
    legend = "Paler is less, darker more; each map has a scale of its own."
    return Section("Layers and roles", charts=charts, small=small, legend=legend)


def _map(run: Run, name: str, grid: Grid, *, small: bool) -> Chart:
    entry = measure(name)
    unit = "" if entry.unit == "1" else f" [{entry.unit}]"
    return Chart(
        measure_svg(grid, width=500.0 if small else 1040.0),
        f"{entry.formula}{unit}. {_ends(grid)}",
        (grid_numbers(grid),),
        title=entry.label,
        file=f"map-{name}",
        draw=lambda: measure_heatmap(run, name),
    )


def _ends(grid: Grid) -> str:
    """Return where a measure is lowest and highest."""
    cells = [
        (cell.value, f"layer {column.label} {role}")
        for role, row in zip(grid.roles, grid.cells, strict=True)
        for cell, column in zip(row, grid.columns, strict=True)
        if cell.value == cell.value
    ]
    (low, where), (high, there) = min(cells), max(cells)
    if low == high:
        return f"{number(low)} everywhere."
    return f"From {number(low)} at {where} to {number(high)} at {there}."


# ---- values and blocks ------------------------------------------------------------------


def largest(told: Telemetry) -> Section | None:
    """Return the largest magnitudes of every role, with where they were seen."""
    found: dict[str, list[tuple[float, tuple[str, ...]]]] = {}
    for site in told.run.sites:
        for entry in told.run.summary(site).extremes.top[:_LARGEST]:
            size = abs(float(entry["value"]))
            found.setdefault(site.role, []).append((size, _value(site, entry)))
    order = {role: i for i, role in enumerate(ROLES)}
    rows = [
        row
        for role in sorted(found, key=lambda role: (order.get(role, len(order)), role))
        for _, row in sorted(found[role], key=lambda pair: -pair[0])[:_LARGEST]
    ]
    if not rows:
        return None
    right = ("value", "layer", "channel", "step", "sequence", "position", "token")
    caption = f"The {_LARGEST} largest magnitudes of every role; token is the token's id."
    return Section("Largest values", numbers=(
        Numbers.of(_LARGEST_HEAD, rows, right=right, folded=caption),
    ))  # fmt: skip


def _value(site: Site, entry: object) -> tuple[str, ...]:
    names = ("channel", "step", "sequence", "position", "token")
    places = (int(entry[name]) for name in names)  # type: ignore[index]
    shown = ("-" if place < 0 else str(place) for place in places)
    value = number(float(entry["value"]))  # type: ignore[index]
    return (_place(site.role, site.expert), value, str(site.layer), *shown, site.block)


def blocks(run: Run) -> Section:
    """Return every block as it was discovered."""
    right = ("layer", "taps", "d_model", "d_ff", "experts", "recompute error")
    table = Numbers.of(_BLOCK_HEAD, map(_block, run.blocks), right=right)
    return Section("Blocks", numbers=(table,))


def _block(block: Block) -> tuple[str, ...]:
    return (
        str(block.layer), block.name, block.kind, block.layout, str(len(block.taps)),
        block.activation, block.norm.kind, str(block.d_model), str(block.d_ff),
        str(block.experts or "-"), number(block.recompute_error),
        "; ".join(block.flags) or "-",
    )  # fmt: skip
