"""One site of a comparison: both distributions over each other, and every statistic."""

from dash import dcc, html

from dashboard.components.graph import graph
from dashboard.components.page import Content, Page, Query, href, page, problem
from dashboard.components.table import status, table
from dashboard.data import Library
from ffn_probe.anatomy import ROLE_TEXT
from ffn_probe.compare import Drift, SiteDrift
from ffn_probe.figures.overlay import overlay
from ffn_probe.report.words import number, place, times

_HEAD = ("status", "aspect", "statistic", "value", "unit", "threshold", "floor", "times floor",
         "smallest visible", "folds", "detail")  # fmt: skip


def site(library: Library, query: Query) -> Page:
    """Return what changed at the site `site` between the runs `a` and `b`."""
    a, b, name = (query.get(key, "") for key in ("a", "b", "site"))
    drift = library.drift(a, b)
    found = {item.name: item for item in drift.sites}.get(name)
    if found is None:
        return problem("No such site", f"The comparison of {a} and {b} has no site {name!r}.")
    where = f"layer {found.layer} {place(found)}"
    return page(
        where,
        [("Runs", href("/", a=a, b=b)), (f"{a} against {b}", href("/compare", a=a, b=b))],
        html.H1(where),
        html.P(ROLE_TEXT.get(found.role, ""), className="dim"),
        html.Div([status(found.status), found.headline], className=f"banner {found.status}"),
        _neighbours(drift, found, a, b),
        *_distributions(drift, found, (a, b)),
        html.H2("Statistics"),
        _statistics(found),
        html.P(["Block ", html.Code(found.block_a), _other(found)], className="dim"),
    )


def _neighbours(drift: Drift, here: SiteDrift, a: str, b: str) -> Content:
    """Return links to the same role one layer up and down, other roles, other experts."""

    def link(item: SiteDrift, text: str) -> Content:
        kind = "chip " + item.status + (" here" if item is here else "")
        return dcc.Link(
            text, href=href("/compare/site", a=a, b=b, site=item.name), className=kind
        )

    same = [s for s in drift.sites if s.role == here.role and s.expert == here.expert]
    at = same.index(here)
    steps = [
        link(same[i], text.format(same[i].layer))
        for i, text in ((at - 1, "\u2190 {}"), (at, "{}"), (at + 1, "{} \u2192"))
        if 0 <= i < len(same)
    ]
    block = [s for s in drift.sites if s.block_a == here.block_a]
    near = sorted(block, key=lambda s: (s.expert == here.expert, s.worst.severity))
    nearest = {s.role: s for s in near}  # the same expert, else the worst
    roles = [link(nearest[role], role) for role in dict.fromkeys(s.role for s in block)]
    experts = [link(s, f"#{s.expert}") for s in block if s.role == here.role and s.expert >= 0]
    lines = [("Layer", steps), ("Role", roles), ("Expert", experts)]
    return html.Nav(
        [
            html.Div([html.Span(text, className="dim"), *links])
            for text, links in lines
            if links
        ],
        className="chips",
    )


def _distributions(drift: Drift, found: SiteDrift, names: tuple[str, str]) -> list[Content]:
    a, b = drift.histograms(found)
    lost = [sum((h.nan, h.pos_inf, h.neg_inf)) for h in (a, b)]
    label = f"Distributions of {names[0]} and {names[1]} at {found.name}: {found.headline}"
    charts = [
        html.Div(
            [html.H2(title), graph(overlay(a, b, names=names, cumulative=cumulative), label)]
        )
        for title, cumulative in (("Density", False), ("Share at or below a value", True))
    ]
    said = f"{a.count:,} finite values in the reference, {b.count:,} in the candidate"
    if any(lost):
        said += f"; not finite, so not drawn: {lost[0]:,} and {lost[1]:,}"
    return [html.Div(charts, className="pictures"), html.P(said + ".", className="dim")]


def _statistics(found: SiteDrift) -> Content:
    ranked = sorted(found.changes, key=lambda change: change.severity, reverse=True)
    rows: list[list[Content]] = [
        [
            status(c.status), c.aspect, c.statistic, number(c.value, signed=True), c.unit,
            number(c.threshold), number(c.floor), times(c), number(c.mde), str(c.folds),
            html.Span(c.detail, className="detail"),
        ]
        for c in ranked
    ]  # fmt: skip
    return table(_HEAD, rows, right=(3, 5, 6, 7, 8, 9))


def _other(found: SiteDrift) -> Content:
    if found.block_a == found.block_b:
        return "."
    return [" against ", html.Code(found.block_b), "."]
