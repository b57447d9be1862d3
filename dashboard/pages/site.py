"""One site of a comparison: both distributions over each other, and every statistic."""

import shlex
from collections.abc import Sequence

import pandas as pd
from dash import dcc, html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, chips, controls
from dashboard.components.graph import graph
from dashboard.components.page import Content, Numbers, Page, Query, attrs, href, page
from dashboard.components.table import status
from dashboard.data import Library
from dashboard.pages.site_extremes import (
    channels_frame,
    channels_table,
    extremes_frame,
    extremes_tables,
)
from dashboard.pages.site_numbers import (
    SiteNumbers,
    counts_table,
    density_frame,
    density_table,
    folds_frame,
    folds_table,
    quantile_table,
    quantiles_frame,
    site_numbers,
    statistics_frame,
    statistics_table,
)
from ffn_probe.anatomy import ROLE_TEXT
from ffn_probe.compare import Drift, SiteDrift
from ffn_probe.compare.quantile_shift import QuantileShift
from ffn_probe.errors import UnknownName
from ffn_probe.figures.density import Axis, shared_density
from ffn_probe.figures.folds import folds_chart
from ffn_probe.figures.numbers import number
from ffn_probe.figures.overlay import overlay
from ffn_probe.figures.quantile_shift import percent, quantile_shift_chart
from ffn_probe.report.words import place

AXES: Sequence[Option] = (("asinh", "linear near 0 (asinh)"), ("log", "log of |x|"))

Names = tuple[str, str]

_EXPERTS = 24


def site(library: Library, query: Query) -> Page:
    """Return what changed at the site `site` between the runs `a` and `b`.

    Raises:
        UnknownName: there is no such site, or the query chooses what there is not.
    """
    a, b, name = (query.get(key, "") for key in ("a", "b", "site"))
    drift = library.drift(a, b)
    known = {item.name: item for item in drift.sites}
    if name not in known:
        raise UnknownName.of("site", name, known, f"The comparison of {a} and {b} has these.")
    found, axis = known[name], _axis(query)
    ids, runs = (a, b), (library.run(a), library.run(b))
    shown = library.once(f"site {name}", ids, lambda: site_numbers(drift, found))
    top = library.once(f"top {name}", ids, lambda: extremes_frame(drift, found, runs))
    channels = library.once(f"channels {name}", ids, lambda: channels_frame(shown.a, shown.b))
    where = f"layer {found.layer} {place(found)}"
    return page(
        where,
        [("Runs", href("/", a=a, b=b)), (f"{a} against {b}", _back(query))],
        html.H1(where),
        html.P(ROLE_TEXT.get(found.role, ""), className="dim"),
        html.Div([status(found.status), found.headline], className=f"banner {found.status}"),
        _neighbours(drift, found, query),
        controls(chips("Axis of values", "axis", AXES, axis, "/compare/site", query)),
        *library.once(
            f"charts {name} {axis}",
            ids,
            lambda: _pictures(found, shown, axis, ids, paired=drift.paired),
        ),
        html.H2("Statistics"),
        html.Div(statistics_table(found, shown), className="statistics"),
        *(html.H2("Values"), counts_table(shown, ids)),
        *(html.H2("Largest values"), extremes_tables(top, ids)),
        *(html.H2("Channels"), channels_table(channels)),
        html.P(["Block ", html.Code(found.block_a), _other(found)], className="dim"),
        data=_data(found, shown, axis) | {"extremes": top} | _maybe("channels", channels),
        command=shlex.join(["ffn-probe", "compare", drift.a.path, drift.b.path]),
        report=href("/report/drift", a=a, b=b),
    )


def _data(found: SiteDrift, shown: SiteNumbers, axis: Axis) -> dict[str, Numbers]:
    """Return the numbers of the charts and of the table of statistics."""
    density = shared_density(shown.a.whole, shown.b.whole, axis=axis)
    moved = None if shown.moved is None else quantiles_frame(shown.moved)
    return {
        "statistics": statistics_frame(found, shown.intervals),
        **_maybe("quantiles", moved),
        "folds": folds_frame(shown.folds),
        "density": density_frame(density),
    }


def _maybe(name: str, frame: pd.DataFrame | None) -> dict[str, Numbers]:
    return {} if frame is None else {name: frame}


def _back(query: Query) -> str:
    """Return the comparison as it was looked at."""
    return href("/compare", **{k: v for k, v in query.items() if k not in {"site", "axis"}})


def _axis(query: Query) -> Axis:
    return "log" if chosen(query, "axis", AXES) == "log" else "asinh"


def _neighbours(drift: Drift, here: SiteDrift, query: Query) -> Content:
    """Return links to the same role one layer up and down, other roles, other experts."""
    same = [s for s in drift.sites if s.role == here.role and s.expert == here.expert]
    at = same.index(here)
    steps = [
        _link(same[i], text.format(same[i].layer), here, query, kind)
        for i, text, kind in (
            (at - 1, "\u2190 {}", "prev-layer"),
            (at, "{}", ""),
            (at + 1, "{} \u2192", "next-layer"),
        )
        if 0 <= i < len(same)
    ]
    block = [s for s in drift.sites if s.block_a == here.block_a]
    near = sorted(block, key=lambda s: (s.expert == here.expert, s.worst.severity))
    nearest = {s.role: s for s in near}  # the same expert, else the worst
    roles = list(dict.fromkeys(s.role for s in block))
    at = roles.index(here.role)
    kinds = {at - 1: "prev-role", at + 1: "next-role"}
    others = [
        _link(nearest[role], role, here, query, kinds.get(i, ""))
        for i, role in enumerate(roles)
    ]
    lines = [("Layer", steps), ("Role", others), ("Expert", _experts(block, here, query))]
    return html.Nav(
        [
            html.Div([html.Span(text, className="dim"), *links])
            for text, links in lines
            if links
        ],
        className="chips",
        **attrs(aria_label="Other sites"),
    )


def _experts(block: Sequence[SiteDrift], here: SiteDrift, query: Query) -> list[Content]:
    """Return links to the experts of a mixture: all, or of many the worst."""
    experts = [s for s in block if s.role == here.role and s.expert >= 0]
    worst = sorted(experts, key=lambda s: s.worst.severity, reverse=True)[:_EXPERTS]
    kept = [s for s in experts if s in worst or s is here]
    links = [_link(s, f"#{s.expert}", here, query, "") for s in kept]
    left = len(experts) - len(kept)
    return (
        [*links, html.Span(f"and {left} that changed less", className="dim")] if left else links
    )


def _link(item: SiteDrift, text: str, here: SiteDrift, query: Query, kind: str) -> Content:
    """Return a link to another site that keeps how this one is looked at."""
    names = ["chip", item.status, "here" * (item is here), kind]
    where = href("/compare/site", **{**query, "site": item.name})
    return dcc.Link(text, href=where, className=" ".join(name for name in names if name))


def _pictures(
    found: SiteDrift, shown: SiteNumbers, axis: Axis, names: Names, *, paired: bool
) -> list[Content]:
    """Return the charts, on one axis of values, each with its numbers."""
    a, b = shown.a.whole, shown.b.whole
    density = shared_density(a, b, axis=axis)
    label = f"of {names[0]} and {names[1]} at {found.name}: {found.headline}"
    moved = shown.moved
    numbers = quantile_table(moved) if moved is not None else html.P("No finite values.")
    charts = [
        (
            "Density",
            graph(overlay(a, b, names=names, axis=axis), f"Densities {label}",
                  name="density", numbers=density_table(density)),
        ),
        (
            "Share at or below a value",
            graph(overlay(a, b, names=names, cumulative=True, axis=axis),
                  f"Cumulative shares {label}", name="cumulative", numbers=numbers),
        ),
    ]  # fmt: skip
    if moved is not None:
        chart = quantile_shift_chart(moved, density, axis)
        charts.append((
            "How far each quantile moved",
            graph(chart, _moved_label(moved), name="quantile-shift", numbers=numbers),
        ))  # fmt: skip
    charts.append((
        "Folds beside the noise",
        graph(folds_chart(shown.rows, paired=paired), _folds_label(shown), name="folds",
              numbers=folds_table(shown.rows)),
    ))  # fmt: skip
    made = [html.Div([html.H2(title), chart]) for title, chart in charts]
    return [
        html.Div(made, className="pictures"),
        html.P(_read(shown, paired=paired), className="dim legend"),
    ]


def _moved_label(moved: QuantileShift) -> str:
    at = int(abs(moved.shift).argmax())
    return (
        f"Shift of the quantiles, B less A: most at {percent(float(moved.shares[at]))}, from "
        f"{number(float(moved.a[at]))} to {number(float(moved.b[at]))}."
    )


def _folds_label(shown: SiteNumbers) -> str:
    if not shown.rows:
        return "No single folds to show."
    change = shown.rows[0].change
    return (
        f"Changes of single folds: {change.statistic} of the whole "
        f"{number(change.value, signed=True)} {change.unit}, floor {number(change.floor)}, "
        f"in {len(shown.rows[0].folds.folds)} folds."
    )


def _read(shown: SiteNumbers, *, paired: bool) -> str:
    """Return how to read the chart of folds, and what the band of quantiles is."""
    said = (
        "A change is above the noise where the diamond stands clear of the grey band, which "
        "is the noise floor of the whole comparison; single folds scatter more. "
    )
    said += (
        "The inputs are the same: a change that is real moves every fold to one side, even "
        "where the blue dots, folds of other inputs, scatter further."
        if paired
        else "The inputs differ: a change that is real puts the orange dots clear of the blue "
        "ones."
    )
    if shown.moved is not None and shown.moved.band is not None:
        said += (
            " The grey band of the quantiles is what random halves of the folds differ by, "
            "95 %, at each quantile alone."
        )
    return said


def _other(found: SiteDrift) -> Content:
    if found.block_a == found.block_b:
        return "."
    return [" against ", html.Code(found.block_b), "."]
