"""Formats over sites: what to take, the heatmap, the table of formats."""

from collections.abc import Mapping, Sequence

from dash import dcc, html

from dashboard.components.graph import graph
from dashboard.components.page import Content, href
from dashboard.components.table import table
from dashboard.data import Library
from dashboard.pages.quantized import (
    Side,
)
from ffn_probe.figures.numbers import decibels
from ffn_probe.figures.places import places
from ffn_probe.figures.site_formats import (
    EIGHT_BITS,
    FOUR_BITS,
    SiteFormats,
    Survival,
    View,
    best,
    keys_of,
    rescue,
    survival,
)
from ffn_probe.figures.sqnr import changed_grid, format_columns, format_grid, sqnr_heatmap

# ---- the verdict ------------------------------------------------------------------------


def recommended(side: Side, target: float, view: View) -> Content:
    """Return which format to take, and where it does not do."""
    return html.Div(
        [html.B(side.name), html.P(recommendation(side.sites, target, view))],
        className="banner",
    )


def recommendation(sites: Sequence[SiteFormats], target: float, view: View) -> str:
    """Return the sentence that the rule gives."""
    by: View = "measured" if view == "difference" else view
    found = best(sites, EIGHT_BITS, target, by)
    if found is None:
        return "No format of 8 bits is known at any of these sites."
    said = f"{found.key} holds \u2265 {target:g} dB at {found.held} of {found.known} sites"
    by_format: dict[str, list[SiteFormats]] = {}
    for site in found.lost:
        by_format.setdefault(rescue(site, target, by), []).append(site)
    needs = [
        f"{places(s.site for s in lost)} need{'s' if len(lost) == 1 else ''} {key}"
        for key, lost in by_format.items()
    ]
    tail = f"; {'; '.join(needs)}" if needs else ", so all of them may take it"
    small_bits = [s for key in FOUR_BITS if (s := survival(sites, key, target, by)) is not None]
    four = max(small_bits, key=lambda s: (s.held, s.worst_db), default=None)
    small = (
        f" Of 4 bits the best is {four.key}: {four.held} of {four.known} sites, the worst "
        f"{decibels(four.worst_db)} dB."
        if four is not None
        else ""
    )
    return f"{said}{tail}.{small}"


# ---- formats over sites -----------------------------------------------------------------


def levels_part(
    library: Library, sides: Sequence[Side], target: float, view: View,
    picks: Mapping[str, str],
) -> list[Content]:  # fmt: skip
    """Return the heatmaps of formats over sites, or of their change."""
    every = [site for side in sides for site in side.sites]
    keys = keys_of(every, view)
    if not keys:
        text = "No format is known in this view at these sites; choose other levels above."
        return [html.H2("Formats over sites"), html.P(text)]
    columns = format_columns(*(side.sites for side in sides))
    what = f"grids {view} {picks['role']} {picks['layer']}"
    grids = library.once(
        what, [side.name for side in sides],
        lambda: [format_grid(side.sites, keys, columns, view) for side in sides],
    )  # fmt: skip
    difference = view == "difference"
    if picks["against"] == "change" and len(grids) == 2:
        grid = changed_grid(*grids)
        label = f"Change of the SQNR of {len(keys)} formats at {len(columns)} sites, B less A."
        shown = [("B less A", sqnr_heatmap(grid, target=target, change=True), label)]
    else:
        shown = [
            (side.name, sqnr_heatmap(grid, target=target, change=difference),
             _label(side, keys, target, view))
            for side, grid in zip(sides, grids, strict=True)
        ]  # fmt: skip
    return [
        html.H2("Formats over sites"),
        html.P(
            "A cell is the SQNR in dB that a format keeps at a site: orange is below the "
            "target, blue above. Columns are layers within a role.", className="dim",
        ),
        *(
            html.Div([
                html.H3(title),
                graph(figure, label, name=f"formats-{i}", to="/quantization"),
            ])
            for i, (title, figure, label) in enumerate(shown)
        ),
    ]  # fmt: skip


def _label(side: Side, keys: Sequence[str], target: float, view: View) -> str:
    found = [s for key in keys if (s := survival(side.sites, key, target, view)) is not None]
    told = ", ".join(f"{s.key} {s.held} of {s.known}" for s in found[:6])
    return f"Sites of {side.name} at which a format keeps {target:g} dB: {told}."


def survivors_part(sides: Sequence[Side], target: float, view: View) -> list[Content]:
    """Return the table of formats: how many sites hold, and the worst one, run by run."""
    by: View = "measured" if view == "difference" else view
    every = [site for side in sides for site in side.sites]
    rows: list[list[Content]] = []
    for key in keys_of(every, by):
        row: list[Content] = [key]
        for side in sides:
            row += _fares(side, survival(side.sites, key, target, by))
        rows.append(row)
    many = len(sides) > 1
    head = ["format"]
    for side in sides:
        name = f"{side.name}: " if many else ""
        head += [f"{name}sites that hold {target:g} dB", f"{name}worst, dB", f"{name}which"]
    right = [i for i in range(1, len(head)) if i % 3]
    caption = f"Every format at the chosen sites, {by} levels"
    return [table(head, rows, right=right, caption=caption)]


def _fares(side: Side, found: Survival | None) -> list[Content]:
    if found is None:
        return ["-", "-", "-"]
    worst = found.worst.site
    link = dcc.Link(
        f"layer {worst.layer} {worst.role}", href=href("/run", run=side.name, site=worst.name)
    )
    return [f"{found.held} of {found.known}", decibels(found.worst_db), link]
