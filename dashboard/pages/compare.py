"""Two runs compared: the verdict, where it is, every site, what is on one side only."""

import shlex
from collections.abc import Mapping, Sequence

import pandas as pd
from dash import dcc, html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, chips, controls
from dashboard.components.graph import graph
from dashboard.components.page import Content, Page, Query, attrs, href, page, problem, prose
from dashboard.components.table import status, table
from dashboard.components.threshold import AS_JUDGED, Counts, followed, multiplier_of, slider
from dashboard.data import Library
from dashboard.pages.compare_sites import (
    ONLY,
    ROWS,
    SORT,
    Row,
    listed,
    sites_frame,
    sites_table,
)
from ffn_probe.anatomy import Site
from ffn_probe.compare import ASPECTS, Drift
from ffn_probe.compare.tolerance import MULTIPLIERS
from ffn_probe.figures.grid import Grid, View, drift_grid
from ffn_probe.figures.heatmap import drift_heatmap
from ffn_probe.figures.places import places
from ffn_probe.figures.theme import SIGN
from ffn_probe.figures.trial import trial, tried

BY: Sequence[Option] = (("floor", "times the floor"), ("threshold", "times the threshold"))
_ASPECTS: Sequence[Option] = (("", "all aspects"), *((name, name) for name in ASPECTS))
_NONE: Counts = ((0, 0),) * len(MULTIPLIERS)  # of an aspect that was not recorded
_NAMED = 400  # sites named in one list


def compared(library: Library, query: Query) -> Page:
    """Return the comparison of the runs `a` and `b` of the query.

    Raises:
        UnknownName: the query chooses what there is not.
    """
    a, b = query.get("a", ""), query.get("b", "")
    if not a or not b:
        return problem("Choose two runs", "A comparison takes a reference and a candidate.")
    drift = library.drift(a, b)
    view = _view(drift, query)
    rows, table_of_sites = _sites(library, drift, view, query)
    counts = _tried(library, drift, query)
    return page(
        f"{a} against {b}",
        [("Runs", href("/", a=a, b=b))],
        html.Div(notes(drift), className="notes"),
        html.H1([html.Span(a, className="a"), " \u2192 ", html.Span(b, className="b")]),
        *banner(drift),
        _aspects(counts, view, query),
        *_map(library, drift, view, query, counts.get(view.aspect, _NONE)),
        html.H2("Sites" + f": {view.aspect}" * bool(view.aspect)),
        _choices(query),
        table_of_sites,
        *_settings(drift, a, b),
        *_one_sided(drift),
        data={
            "sites": lambda: sites_frame(rows, view),
            "changes": drift.table,
            "settings": lambda: _settings_frame(drift),
            "one_sided": lambda: _one_sided_frame(drift),
        },
        command=shlex.join(["ffn-probe", "compare", drift.a.path, drift.b.path]),
        report=href("/report/drift", a=a, b=b),
    )


def _view(drift: Drift, query: Query) -> View:
    """Return how the address wants to see the drift; by the threshold without any floor."""
    aspect = chosen(query, "aspect", _ASPECTS)
    by = chosen(query, "by", BY, "floor" if _floors(drift) else "threshold")
    return View("floor" if by == "floor" else "threshold", aspect, multiplier_of(query))


def _floors(drift: Drift) -> int:
    """Return how many sites have a noise floor."""
    return sum(any(c.floor is not None for c in site.changes) for site in drift.sites)


# ---- what happened ----------------------------------------------------------------------


def notes(drift: Drift) -> list[Content]:
    """Return what limits the comparison, what refuses it first."""
    ranked = sorted(drift.validity, key=lambda note: note.level != "refuse")
    return [
        html.Div([html.B(f"{note.level} "), *prose(note.text)], className=f"note {note.level}")
        for note in ranked
    ]


def banner(drift: Drift) -> list[Content]:
    """Return the verdict in a sentence, and what was compared."""
    verdict = drift.verdict
    how = "same inputs, paired fold by fold" if drift.paired else "not paired"
    return [
        html.Div(
            [status(verdict.status), verdict.sentence], className=f"banner {verdict.status}"
        ),
        html.P(f"{len(drift.sites):,} sites, {how}.", className="dim"),
    ]


def _tried(library: Library, drift: Drift, query: Query) -> Mapping[str, Counts]:
    """Return aspect ("" all) -> failed and suspicious sites at each step of the slider."""
    aspects = dict.fromkeys(c.aspect for site in drift.sites for c in site.changes)
    return library.once(
        "tried", (query["a"], query["b"]), lambda: {a: tried(drift, a) for a in ("", *aspects)}
    )


def _aspects(counts: Mapping[str, Counts], view: View, query: Query) -> Content:
    """Return how many sites moved in each aspect: links that leave the others out."""
    cards = []
    for aspect in (name for name in counts if name):
        failed, warned = counts[aspect][AS_JUDGED]
        kind = "FAIL" if failed else "WARN" if warned else "PASS"
        said = [f"{failed} failed"] * bool(failed) + [f"{warned} suspicious"] * bool(warned)
        here = view.aspect == aspect
        target = {**query, "aspect": "" if here else aspect}
        cards.append(
            dcc.Link(
                [
                    aspect,
                    html.B(SIGN[kind], className=kind),
                    html.Span(", ".join(said) or "none"),
                ],
                href=href("/compare", **target),
                className="count" + " here" * here,
                title="Show all aspects" if here else f"Show {aspect} only",
            )
        )
    return html.Div(cards, className="counts", role="group", **attrs(aria_label="Aspects"))


# ---- the heatmap ------------------------------------------------------------------------


def _map(
    library: Library, drift: Drift, view: View, query: Query, counts: Counts
) -> list[Content]:
    ids = (query["a"], query["b"])
    grid = library.once(f"grid {view}", ids, lambda: drift_grid(drift, view))
    figure = library.once(f"heatmap {view}", ids, lambda: drift_heatmap(drift, view))
    colours = library.once(f"trial {view}", ids, lambda: trial(grid, view))
    return [
        html.H2("Layers and roles" + f": {view.aspect}" * bool(view.aspect)),
        controls(
            chips("Colour", "by", BY, view.by, "/compare", query),
            slider(view.multiplier, counts),
        ),
        html.Div(
            [
                graph(
                    figure,
                    _label(drift, view, counts[AS_JUDGED]),
                    to="/compare/site",
                    name="drift-heatmap",
                ),
                followed(colours),
            ],
            className="followed",
            style={"--least": f"{190 + 10 * len(grid.columns)}px"},
        ),
        html.P(
            [_legend(drift, view, grid), " ", dcc.Link("What the numbers mean", "/methods")],
            className="dim legend",
        ),
        *_missing(drift),
    ]


def _label(drift: Drift, view: View, counts: tuple[int, int]) -> str:
    fails, warns = counts
    return (
        f"Heatmap of drift by layer and role, {'times the ' + view.by}: {fails} sites failed "
        f"and {warns} are suspicious of {len(drift.sites)}. The table of sites below says the "
        "same in words."
    )


def _legend(drift: Drift, view: View, grid: Grid) -> str:
    """Return what a cell means."""
    said = (
        "Colour: how many times its noise floor the worst change of a site is, where it is "
        "over its practical threshold, too. Grey: it passes; the stronger, the further above "
        "its floor."
        if view.by == "floor"
        else "Colour: how many times its practical threshold the worst change of a site is, "
        "where it is above its noise floor. Grey: it passes; what is within its floor is "
        "palest."
    )
    parts = [said, f"{SIGN['WARN']} suspicious, {SIGN['FAIL']} failed."]
    without = len(drift.sites) - _floors(drift)
    if without:
        parts.append(
            f"{without} of {len(drift.sites)} sites have no floor (fewer than 8 folds with "
            "values): they are suspicious at most."
        )
    if any(not column.block_a for column in grid.columns):
        parts.append("(n): layer n of the candidate.")
    if any(site.expert >= 0 for site in drift.sites):
        parts.append("A mixture shows its worst expert.")
    return " ".join([*parts, "A cell leads to its distributions."])


def _missing(drift: Drift) -> list[Content]:
    """Return which sites are hatched."""
    sides = ((drift.a.name, "A", drift.only_a), (drift.b.name, "B", drift.only_b))
    return [
        html.P([f"Hatched {sign}: only in ", html.B(name), f": {places(sites)}."],
               className="dim")
        for name, sign, sites in sides
        if sites
    ]  # fmt: skip


# ---- the table, the settings, what is on one side ---------------------------------------


def _sites(
    library: Library, drift: Drift, view: View, query: Query
) -> tuple[list[Row], Content]:
    """Return the sites in the order that is asked for, and their table."""
    a, b = query["a"], query["b"]
    sort, everything = chosen(query, "sort", SORT), chosen(query, "rows", ROWS) == "all"
    failing = chosen(query, "only", ONLY) == "fail"
    rows = library.once(
        f"rows {view.aspect} {sort}", (a, b), lambda: listed(drift, view.aspect, sort)
    )
    shown = library.once(
        f"table {view.aspect} {sort} {everything} {failing}",
        (a, b),
        lambda: sites_table(rows, a, b, everything=everything, failing=failing),
    )
    return rows, html.Div(shown, className="only-fail" * failing)


def _choices(query: Query) -> Content:
    groups = (("Order", "sort", SORT), ("Show", "only", ONLY), ("Rows", "rows", ROWS))
    return controls(
        *(
            chips(text, key, options, chosen(query, key, options), "/compare", query)
            for text, key, options in groups
        )
    )


def _settings(drift: Drift, a: str, b: str) -> list[Content]:
    title = html.H2("Settings that differ")
    if not drift.config_diff:
        return [title, html.P("The two runs were made with the same settings.")]
    caption = f"{len(drift.config_diff)} settings; all others are equal."
    return [title, table(("setting", a, b), drift.config_diff, caption=caption, wrap=True)]


def _settings_frame(drift: Drift) -> pd.DataFrame:
    return pd.DataFrame(drift.config_diff, columns=["setting", "a", "b"])


def _one_sided(drift: Drift) -> list[Content]:
    parts: list[Content] = []
    for side, sites in ((drift.a.name, drift.only_a), (drift.b.name, drift.only_b)):
        if sites:
            names = ", ".join(site.name for site in sites[:_NAMED])
            more = f" and {len(sites) - _NAMED:,} more" if len(sites) > _NAMED else ""
            said = html.Summary(f"{len(sites):,} sites only in {side}")
            parts.append(html.Details([said, html.P([html.Code(names), more])]))
    return [html.H2("On one side only"), *parts] if parts else []


def _one_sided_frame(drift: Drift) -> pd.DataFrame:
    def record(side: str, site: Site) -> Mapping[str, object]:
        return {"side": side, "layer": site.layer, "block": site.block, "role": site.role,
                "expert": site.expert}  # fmt: skip

    found = [record("a", site) for site in drift.only_a]
    found += [record("b", site) for site in drift.only_b]
    return pd.DataFrame(found, columns=["side", "layer", "block", "role", "expert"])
