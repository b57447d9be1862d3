"""Trainings over their steps: what a site was like, what the loss did, what was unusual."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from dash import dcc, html

from dashboard.components.control import chips, controls, select
from dashboard.components.graph import graph
from dashboard.components.page import Content, Page, Query, href, nothing, page
from dashboard.data import Library, is_paired
from dashboard.pages.training_tables import (
    Grids,
    alarm_frame,
    alarm_table,
    joined,
    map_frame,
    map_table,
    site_table,
)
from ffn_probe.anatomy import ROLE_TEXT, Site
from ffn_probe.errors import UnknownName
from ffn_probe.figures.history import History, history, quantiles, site_lines
from ffn_probe.figures.numbers import number
from ffn_probe.figures.step_grid import step_grid
from ffn_probe.figures.steps_heatmap import steps_ends, steps_heatmap
from ffn_probe.figures.training import step_range, training_chart
from ffn_probe.measures import MEASURES, measure
from ffn_probe.runs import Run

SIDES = "abcdef"
"""The keys of the runs that are drawn over each other."""

_FIRST = "absmax"
_TOGETHER = 3  # sites that a line of the alarms names
_ROWS = 200  # of the tables; the page as a file holds all
_HOW = """with ffn_probe.attach(model, to="runs/mine", example=batch, every=10) as probe:
    for batch in loader:
        loss = train_step(batch)
        probe.step(loss=loss, grad_norm=norm, lr=rate)"""


@dataclass(frozen=True, slots=True)
class View:
    """What the address chooses: runs by side, the site, the measure, what rows of maps are."""

    runs: dict[str, str]
    site: Site
    measure: str
    by: str


def training(library: Library, query: Query) -> Page:
    """Return the page of the runs `a` to `f`, the `site`, the `measure` and the map's rows."""
    runs = {side: query[side] for side in SIDES if query.get(side)}
    crumbs = [("Runs", href("/"))]
    if not runs:
        return page("Training", crumbs, html.H1("Training"), _choose(library, {}), _record())
    entry = measure(query.get("measure", _FIRST))
    by = _one_of("by", query.get("by", "layer"), ("layer", "role"))
    found = [_history(library, id_, entry.name) for id_ in runs.values()]
    if not any(one.windows > 1 for one in found):
        return page(
            "Training", crumbs, html.H1("Training"), _choose(library, runs), _short(found)
        )
    site = _chosen_site(found, query.get("site", ""))
    view = View(runs, site, entry.name, by)
    lines = _lines(library, view, found)
    grids = _grids(library, view, found)
    return page(
        "Training", crumbs,
        html.H1("Training"),
        _choose(library, runs),
        _pickers(view, found[0], query),
        *_notes(found, site),
        html.H2(f"Layer {site.layer} {site.role}"),
        html.P([ROLE_TEXT.get(site.role, ""), " of ", html.Code(site.block)], className="dim"),
        graph(
            training_chart(found, lines, entry.name),
            _spoken(found, lines, site, entry.name),
            name="training",
            numbers=site_table(found, lines, entry.name),
        ),
        html.H2(f"{entry.label} over {'layers' if by == 'layer' else 'roles'} and steps"),
        *_maps(view, grids),
        html.H2("Alarms"),
        alarm_table(found, query),
        data={
            "trends": lambda: joined(found, lines),
            "alarms": lambda: alarm_frame(found),
            "metrics": lambda: joined(found, [one.metrics for one in found]),
            "map": lambda: map_frame(grids),
        },
        version=_version(library, runs),
    )  # fmt: skip


def _one_of(what: str, value: str, possible: Sequence[str]) -> str:
    if value not in possible:
        raise UnknownName.of(what, value, possible)
    return value


def _history(library: Library, id_: str, name: str) -> History:
    def make() -> History:
        return history(library.run(id_), [name], label=id_)

    return library.once(f"training history {name}", [id_], make)


def _lines(library: Library, view: View, found: Sequence[History]) -> list[pd.DataFrame]:
    listed = []
    for id_, one in zip(view.runs.values(), found, strict=True):
        bands = library.once("training bands", [id_], partial(_bands, library, id_))
        own = one.like(view.site)
        lines = site_lines(one, bands, own, view.measure)
        listed.append(lines.assign(site="" if own is None else own.name))
    return listed


def _bands(library: Library, id_: str) -> History:
    return quantiles(library.run(id_))


def _chosen_site(found: Sequence[History], wanted: str) -> Site:
    """Return the site of the address, else the hidden one with the largest magnitude."""
    first = next(one for one in found if one.windows > 1)
    if wanted:
        return first.site(wanted)
    peaks = first.values["absmax"].max(axis=1, initial=-np.inf, where=first.seen)
    hidden = [i for i, site in enumerate(first.sites) if site.role == "hidden"]
    return first.sites[max(hidden or range(len(first.sites)), key=lambda i: peaks[i])]


def _version(library: Library, runs: dict[str, str]) -> str:
    """Return what changes while one of the runs is recorded, "" when none is."""
    made = [library.run(id_).manifest for id_ in runs.values()]
    if all(one.state == "closed" for one in made):
        return ""
    return " ".join(f"{one.windows}{one.state}" for one in made)


# ---- choosing ---------------------------------------------------------------------------


def _choose(library: Library, runs: dict[str, str]) -> Content:
    """Return a drop-down for each run that is drawn, and one more."""
    known = [e for e in library.entries() if e.run is not None and not is_paired(e.run)]
    options = [(e.id, _option(e.id, e.run)) for e in known if e.run is not None]
    free = [side for side in SIDES if side not in runs][:1]
    listed = [
        select(f"run {side}", side, [("", "none"), *options], runs.get(side, ""))
        for side in sorted([*runs, *free])
    ]
    return controls(*listed)


def _option(id_: str, run: Run) -> str:
    windows = run.manifest.windows
    return f"{id_} ({windows} window{'s' * (windows != 1)})"


def _pickers(view: View, first: History, query: Query) -> Content:
    sites = first.sites if view.site in first.sites else (view.site,)
    layers = [s for s in sites if (s.role, s.expert) == (view.site.role, view.site.expert)]
    roles = [s for s in sites if (s.block, s.expert) == (view.site.block, view.site.expert)]
    experts = [s for s in sites if (s.block, s.role) == (view.site.block, view.site.role)]
    measures = [(entry.name, entry.label) for entry in MEASURES]
    rows = [("layer", "layers"), ("role", "roles")]
    chosen = view.site.name
    pickers = controls(
        select("layer", "site", [(s.name, f"{s.layer}: {s.block}") for s in layers], chosen),
        select("role", "site", [(s.name, s.role) for s in roles], chosen),
        select("expert", "site", [(s.name, str(s.expert)) for s in experts], chosen)
        if len(experts) > 1
        else None,
        select("measure", "measure", measures, view.measure),
        chips("map of", "by", rows, view.by, "/training", query),
    )
    return html.Div([pickers, _steps(layers, layers.index(view.site), query)])


def _steps(layers: Sequence[Site], at: int, query: Query) -> Content:
    """Return links to the layer before and after, which `[` and `]` follow."""
    sides = (
        (at - 1, "\u2190 layer {}", "prev-layer"),
        (at + 1, "layer {} \u2192", "next-layer"),
    )
    links = [
        dcc.Link(
            text.format(layers[to].layer),
            href=href("/training", **{**query, "site": layers[to].name}),
            className=f"chip {kind}",
        )
        for to, text, kind in sides
        if 0 <= to < len(layers)
    ]
    return html.Div(links, className="chips") if links else None


def _record() -> Content:
    return nothing(
        "Choose a run",
        "A training is a run of several windows. Recorded like this, it keeps its history:",
        command=_HOW,
    )


def _short(found: Sequence[History]) -> Content:
    names = ", ".join(one.name for one in found)
    return nothing(
        "No history",
        f"{names}: one window or none, so there is nothing to see over steps. A probe on a "
        "training writes a window every few steps:",
        command=_HOW,
    )


def _notes(found: Sequence[History], site: Site) -> list[Content]:
    said = [
        f"{one.name} has one window or none: it is no line in these charts."
        for one in found
        if one.windows < 2
    ]
    said += [
        f"{one.name} has no site at layer {site.layer} {site.role}."
        for one in found
        if one.windows > 1 and one.like(site) is None
    ]
    return [html.Div(text, className="note") for text in said]


# ---- showing ----------------------------------------------------------------------------


def _spoken(
    found: Sequence[History], lines: Sequence[pd.DataFrame], site: Site, name: str
) -> str:
    """Return what the chart shows in a sentence a run."""
    label = measure(name).label
    said = [f"Training over steps at layer {site.layer} {site.role}."]
    for one, line in zip(found, lines, strict=True):
        values = line[name].dropna()
        if len(values):
            said.append(
                f"{one.name}: {label} from {number(float(values.iloc[0]))} to "
                f"{number(float(values.iloc[-1]))} in {len(line)} windows, "
                f"{len(one.alarms)} alarms."
            )
    return " ".join(said)


def _grids(library: Library, view: View, found: Sequence[History]) -> Grids:
    listed = []
    for id_, one in zip(view.runs.values(), found, strict=True):
        own = one.like(view.site)
        if own is not None:
            make = partial(step_grid, one, view.measure, own, by=view.by)
            key = f"training map {view.measure} {view.by} {own}"
            listed.append((one, library.once(key, [id_], make)))
    return listed


def _maps(view: View, grids: Grids) -> list[Content]:
    entry = measure(view.measure)
    ends, steps = steps_ends([grid for _, grid in grids]), step_range([one for one, _ in grids])
    unit = "" if entry.unit in {"", "1"} else f" [{entry.unit}]"
    shown: list[Content] = [
        html.P([html.B(entry.label), f"{unit}: {entry.formula}. A cell leads to its site."],
               className="dim")
    ]  # fmt: skip
    for one, grid in grids:
        where = view.site.role if view.by == "layer" else f"layer {view.site.layer}"
        label = f"{one.name}: {entry.label} at {where} over {view.by}s and steps"
        if grid.together > 1:
            label += f", {grid.together} windows a column, the most unusual of them"
        shown += [
            html.H3(one.name),
            graph(
                steps_heatmap(grid, by=view.by, ends=ends, steps=steps), label,
                to="/training", name=f"training-{view.by}s",
                numbers=map_table(grid, view.measure, view.by),
            ),
        ]  # fmt: skip
    return shown
