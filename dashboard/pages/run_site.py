"""One site of a run: its distribution, its measures, the way to its neighbours."""

from dash import dcc, html

from dashboard.components.graph import graph
from dashboard.components.page import Content, Query, href
from dashboard.components.table import table
from dashboard.data import Library
from ffn_probe.anatomy import ROLE_TEXT, Site
from ffn_probe.figures.overlay import overlay
from ffn_probe.report.words import number
from ffn_probe.runs import Run


def one_site(library: Library, run_id: str, query: Query) -> list[Content]:
    """Return the distribution and every measure of the site `site` of the query."""
    found, name = library.run(run_id), query["site"]
    site = found.site(name)
    rows: list[list[Content]] = [
        [entry.label, number(value), "" if entry.unit == "1" else entry.unit]
        for entry, value in library.measures(run_id, name)
    ]
    expert = f" expert {site.expert}" if site.expert >= 0 else ""
    histogram = found.histogram(site)
    label = f"Distribution at {site.name}: {histogram.count:,} finite values"
    numbers = table(("measure", "value", "unit"), rows, right=(1,), caption=f"Of {site.name}")
    return [
        html.H2(f"Layer {site.layer} {site.role}{expert}"),
        html.P([ROLE_TEXT.get(site.role, ""), " of ", html.Code(site.block)], className="dim"),
        _neighbours(found, site, query),
        html.Div([
            html.Div([
                graph(overlay(histogram, names=(found.name, "")), label, name="distribution"),
                html.P(f"{histogram.count:,} finite values.", className="dim"),
            ]),
            html.Div(numbers, className="tall"),
        ], className="pictures"),
    ]  # fmt: skip


def _neighbours(found: Run, here: Site, query: Query) -> Content:
    """Return links to the same role one layer up and down, and to the block's other roles."""

    def link(site: Site, text: str, kind: str = "") -> Content:
        where = href("/run", **{**query, "site": site.name})
        return dcc.Link(text, href=where, className=f"chip {kind}" + " here" * (site == here))

    same = [s for s in found.sites if s.role == here.role and s.expert == here.expert]
    at = same.index(here)
    steps = []
    if at > 0:
        steps.append(link(same[at - 1], f"\u2190 layer {same[at - 1].layer}", "prev-layer"))
    if at + 1 < len(same):
        steps.append(link(same[at + 1], f"layer {same[at + 1].layer} \u2192", "next-layer"))
    block = [s for s in found.sites if s.block == here.block]
    roles = [link(s, s.role) for s in block if s.expert == here.expert]
    experts = [link(s, f"#{s.expert}") for s in block if s.role == here.role and s.expert >= 0]
    lines = [("Layer", steps), ("Role", roles), ("Expert", experts[:64])]
    return html.Nav(
        [
            html.Div([html.Span(text, className="dim"), *found])
            for text, found in lines
            if found
        ],
        className="chips",
    )
