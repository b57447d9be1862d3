"""Two runs compared: the verdict, where it is, the worst sites, what is on one side only."""

from dash import dcc, html

from dashboard.components.graph import graph
from dashboard.components.page import Content, Page, Query, href, page, problem, prose
from dashboard.components.table import status, table
from dashboard.data import Library
from ffn_probe.compare import Drift, SiteDrift
from ffn_probe.figures.heatmap import drift_heatmap
from ffn_probe.figures.theme import SIGN
from ffn_probe.report.words import counts, drifted, number, place, times

_ROWS = 40
_HEAD = ("status", "site", "aspect", "statistic", "value", "unit", "threshold", "floor",
         "times floor", "block")  # fmt: skip


def compared(library: Library, query: Query) -> Page:
    """Return the comparison of the runs `a` and `b` of the query."""
    a, b = query.get("a", ""), query.get("b", "")
    if not a or not b:
        return problem("Choose two runs", "A comparison takes a reference and a candidate.")
    drift = library.drift(a, b)
    return page(
        f"{a} against {b}",
        [("Runs", href("/", a=a, b=b))],
        html.H1([html.Span(a, className="a"), " \u2192 ", html.Span(b, className="b")]),
        *banner(drift),
        _aspects(drift),
        html.H2("Layers and roles"),
        graph(drift_heatmap(drift), _label(drift), to="/compare/site"),
        html.P(_signs(drift), className="dim"),
        html.H2("Worst sites"),
        _worst(drift, a, b),
        *_one_sided(drift),
        html.H2("Settings that differ"),
        table(("setting", a, b), drift.config_diff, wrap=True)
        if drift.config_diff
        else html.P("The two runs were made with the same settings."),
        _exports(a, b),
    )


def banner(drift: Drift) -> list[Content]:
    """Return the verdict in a sentence, and what limits it."""
    verdict = drift.verdict
    how = "same inputs, paired fold by fold" if drift.paired else "not paired"
    return [
        html.Div(
            [status(verdict.status), verdict.sentence], className=f"banner {verdict.status}"
        ),
        *(
            html.Div([html.B(f"{note.level} "), *prose(note.text)], className="note")
            for note in drift.validity
        ),
        html.P(f"{len(drift.sites)} sites, {how}.", className="dim"),
    ]


def _aspects(drift: Drift) -> Content:
    cards = []
    for aspect, failed, warned in counts(drift):
        said = f"{failed} failed, {warned} suspicious" if failed or warned else "none"
        kind = "FAIL" if failed else "WARN" if warned else "PASS"
        cards.append(html.Div([aspect, html.B(SIGN[kind], className=kind), html.Span(said)]))
    return html.Div(cards, className="counts")


def _label(drift: Drift) -> str:
    bad = sum(site.status != "PASS" for site in drift.sites)
    return (
        f"Heatmap of drift by layer and role: {bad} of {len(drift.sites)} sites drifted. The "
        "table of the worst sites below says the same in words."
    )


def _signs(drift: Drift) -> str:
    parts = ["Colour: times the threshold, where above the noise floor",
             f"{SIGN['WARN']} suspicious", f"{SIGN['FAIL']} failed"]  # fmt: skip
    parts += ["A: only in the reference"] * bool(drift.only_a)
    parts += ["B: only in the candidate"] * bool(drift.only_b)
    alone = {site.block for site in drift.only_b} - {site.block_b for site in drift.sites}
    parts += ["(n): layer n of the candidate"] * bool(alone)
    return "; ".join(parts) + ". A cell leads to its distributions."


def _worst(drift: Drift, a: str, b: str) -> Content:
    sites = drifted(drift, _ROWS)
    if not sites:
        return html.P("Every site passed.")
    total = sum(site.status != "PASS" for site in drift.sites)
    caption = f"{len(sites)} of the {total} sites that did not pass, worst first."
    rows = [_row(site, a, b) for site in sites]
    return table(_HEAD, rows, caption=caption, right=(4, 6, 7, 8))


def _row(site: SiteDrift, a: str, b: str) -> list[Content]:
    change = site.worst
    where = href("/compare/site", a=a, b=b, site=site.name)
    return [
        status(site.status),
        dcc.Link(f"layer {site.layer} {place(site)}", href=where),
        change.aspect,
        change.statistic,
        number(change.value, signed=True),
        change.unit,
        number(change.threshold),
        number(change.floor),
        times(change),
        site.block_b,
    ]


def _one_sided(drift: Drift) -> list[Content]:
    parts: list[Content] = []
    for side, sites in ((drift.a.name, drift.only_a), (drift.b.name, drift.only_b)):
        if sites:
            names = ", ".join(site.name for site in sites)
            said = html.Summary(f"{len(sites)} sites only in {side}")
            parts.append(html.Details([said, html.P(html.Code(names))]))
    return [html.H2("On one side only"), *parts] if parts else []


def _exports(a: str, b: str) -> Content:
    links = [
        html.A(kind, href=href(f"/report/drift.{kind}", a=a, b=b), className="button")
        for kind in ("html", "md", "json")
    ]
    return html.P(["The report as a file: ", *links])
