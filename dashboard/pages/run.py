"""One run: how it was made, a measure over its layers and roles, a site of it."""

import math

from dash import dcc, html

from dashboard.components.graph import graph
from dashboard.components.page import Content, Page, Query, href, page
from dashboard.components.table import table
from dashboard.data import Library, is_paired
from ffn_probe.anatomy import ROLE_TEXT
from ffn_probe.figures.overlay import overlay
from ffn_probe.measures import MEASURES, measure
from ffn_probe.report.words import facts, number
from ffn_probe.runs import Run

_FIRST = "rms"


def run(library: Library, query: Query) -> Page:
    """Return the run `run`, its `measure` as a heatmap and, when given, its `site`."""
    name, chosen = query.get("run", ""), query.get("measure", _FIRST)
    found, entry = library.run(name), measure(chosen)
    if is_paired(found):
        return _paired(library, name, found)
    heatmap = library.measured(name, chosen)
    return page(
        name,
        [("Runs", href("/"))],
        html.H1(name),
        *(html.Div(text, className="note") for text in found.problems),
        table(("", ""), _facts(found), wrap=True),
        html.H2("Measures"),
        _picker(name, chosen, query.get("site", "")),
        html.P([html.B(entry.label), f": {entry.formula}", _unit(entry.unit)]),
        graph(heatmap, f"Heatmap of {entry.label} by layer and role", to="/run"),
        html.P("A cell leads to the distribution of its site, below.", className="dim"),
        *(_site(library, name, query["site"]) if query.get("site") else ()),
    )


def _paired(library: Library, name: str, found: Run) -> Page:
    """Return the story of a paired run in short, and the way to its report."""
    told = library.attribution(name)
    links: list[Content] = [
        html.A(kind, href=href(f"/report/attribution.{kind}", run=name), className="button")
        for kind in ("html", "md", "json")
    ]
    rows: list[list[Content]] = [
        [str(b.layer), b.block, b.status, *(_db(v) for v in (b.local_db, b.end_db, b.floor_db))]
        for b in told.blocks
    ]
    return page(
        name,
        [("Runs", href("/"))],
        html.H1(name),
        html.Div([html.B(told.status), told.verdict], className="banner"),
        html.Div(["Report: ", *links], className="choice"),
        *(html.Div(text, className="note") for text in (*found.problems, *told.notes)),
        html.H2("Blocks"),
        table(("layer", "block", "status", "own error", "end to end", "floor"), rows,
              caption="SQNR at out, dB; more is closer.", right=(0, 3, 4, 5)),
        html.H2("Settings"),
        table(("", ""), _facts(found), wrap=True),
    )  # fmt: skip


def _db(value: float) -> str:
    return "-" if math.isnan(value) else "equal" if math.isinf(value) else f"{value:.1f}"


def _facts(found: Run) -> list[list[Content]]:
    made = facts(found.manifest, found.path)
    kinds = dict.fromkeys(f"{b.activation} {b.kind}, {b.norm.kind}" for b in found.blocks)
    tags = ", ".join(f"{key}={value}" for key, value in found.manifest.tags.items())
    rows = made | {"blocks": f"{len(found.blocks)}: {'; '.join(kinds)}", "tags": tags}
    return [[key, text] for key, text in rows.items() if text]


def _picker(name: str, chosen: str, site: str) -> Content:
    links = [
        dcc.Link(
            entry.name,
            href=href("/run", run=name, measure=entry.name, site=site),
            className="chip" + " here" * (entry.name == chosen),
            title=entry.label,
        )
        for entry in MEASURES
    ]
    return html.Nav(html.Div(links), className="chips")


def _site(library: Library, run_id: str, name: str) -> list[Content]:
    found = library.run(run_id)
    site = found.site(name)
    rows: list[list[Content]] = [
        [entry.label, number(value), "" if entry.unit == "1" else entry.unit]
        for entry, value in library.measures(run_id, name)
    ]
    expert = f" expert {site.expert}" if site.expert >= 0 else ""
    histogram = found.histogram(site)
    label = f"Distribution at {site.name}: {histogram.count:,} finite values"
    return [
        html.H2(f"Layer {site.layer} {site.role}{expert}"),
        html.P([ROLE_TEXT.get(site.role, ""), " of ", html.Code(site.block)], className="dim"),
        graph(overlay(histogram, names=(found.name, "")), label),
        html.P(f"{histogram.count:,} finite values.", className="dim"),
        table(("measure", "value", "unit"), rows, right=(1,)),
    ]


def _unit(unit: str) -> str:
    return "" if unit in {"", "1"} else f" [{unit}]"
