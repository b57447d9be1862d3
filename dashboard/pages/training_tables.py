"""The numbers of trainings as tables and as files."""

from collections.abc import Sequence

import pandas as pd
from dash import dcc, html

from dashboard.components.page import Content, Query, href
from dashboard.components.table import table
from ffn_probe.alarms import KINDS, Alarm
from ffn_probe.figures.history import History
from ffn_probe.figures.numbers import number
from ffn_probe.figures.step_grid import StepGrid
from ffn_probe.measures import measure
from ffn_probe.report.words import shortened

_TOGETHER = 3  # sites that a line of the alarms names
_ROWS = 200  # of a table; the page as a file holds all

Grids = Sequence[tuple[History, StepGrid]]


def site_table(found: Sequence[History], lines: Sequence[pd.DataFrame], name: str) -> Content:
    """Return the percentiles and the measure of a site, at most 200 windows of all runs."""
    frame = joined(found, lines)
    step = max(1, -(-len(frame) // _ROWS))
    shown = frame.iloc[::step]
    columns = ["q01", "q05", "q25", "q50", "q75", "q95", "q99", name]
    rows = [
        [str(row["run"]), f"{row['first_step']}-{row['last_step']}",
         *(number(float(row[c])) for c in columns)]
        for row in shown.to_dict("records")
    ]  # fmt: skip
    every = f", every {step}th window" if step > 1 else ""
    return table(
        ("run", "steps", *(c.replace("q", "p", 1) for c in columns[:-1]), measure(name).label),
        rows, caption=f"Percentiles of the values, unit of the tensor{every}",
        right=range(1, len(columns) + 2),
    )  # fmt: skip


def map_table(grid: StepGrid, name: str, by: str) -> Content:
    """Return the rows of a map at eight places of the training."""
    places = sorted({round(i * (grid.values.shape[1] - 1) / 7) for i in range(8)})
    rows = [
        [label, *(number(float(values[i])) for i in places)]
        for label, values in zip(grid.rows, grid.values, strict=True)
    ]
    heads = [f"step {grid.edges[i]:,}" for i in places]
    caption = f"{measure(name).label} in {len(places)} of {grid.values.shape[1]} columns"
    return table((by, *heads), rows[:_ROWS], caption=caption,
                 right=range(1, len(places) + 1))  # fmt: skip


def alarm_table(found: Sequence[History], query: Query) -> Content:
    """Return what has to be looked at, a line a run, step and kind, with the rules."""
    listed = [(one, alarm) for one in found for alarm in one.alarms]
    rules = html.Details([
        html.Summary("How alarms are raised"),
        html.Ul([html.Li([html.B(kind), f": {rule}."]) for kind, rule in KINDS.items()]),
    ])  # fmt: skip
    if not listed:
        said = html.P(f"None in {', '.join(one.name for one in found)}: no value that is not "
                      "finite, no spike, no growth towards a format's limit.")  # fmt: skip
        return html.Div([said, rules])
    grouped: dict[tuple[int, str, str], list[Alarm]] = {}
    for one, alarm in sorted(listed, key=lambda pair: pair[1].step):
        grouped.setdefault((alarm.step, one.name, alarm.kind), []).append(alarm)
    rows: list[list[Content]] = [
        [f"{step:,}", run, kind, _what(alarms), _where(alarms, query)]
        for (step, run, kind), alarms in list(grouped.items())[:_ROWS]
    ]
    more = f", the first {_ROWS} lines" if len(grouped) > _ROWS else ""
    shown = table(("step", "run", "kind", "what", "where"), rows, right=(0,),
                  caption=f"{len(listed)} alarms by step{more}")  # fmt: skip
    return html.Div([shown, rules])


def _where(alarms: Sequence[Alarm], query: Query) -> Content:
    """Return links to the sites of alarms of one step and kind, a few of them."""
    links: list[Content] = []
    for alarm in alarms[:_TOGETHER]:
        name = alarm.where
        link = dcc.Link(shortened(name), href=href("/training", **{**query, "site": name}))
        links += [link if "/" in name else name, ", "]
    rest = len(alarms) - _TOGETHER
    return html.Span([*links[:-1], f" and {rest} more" if rest > 0 else ""])


def _what(alarms: Sequence[Alarm]) -> str:
    """Return what was seen: of a forecast the earliest, else the first in the data flow."""
    first = min(alarms, key=lambda a: a.value) if alarms[0].kind == "growth" else alarms[0]
    if len(alarms) == 1 or "/" not in first.where:
        return first.text
    lead = {"growth": " first", "non-finite": ", first in the data flow"}.get(first.kind, "")
    return f"{first.where}{lead}: {first.text}"


# ---- as files ----------------------------------------------------------------------


def joined(found: Sequence[History], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return frames of several runs as one, with the run in front."""
    named = [
        frame.assign(run=one.name)[["run", *frame.columns]]
        for one, frame in zip(found, frames, strict=True)
    ]
    return pd.concat(named, ignore_index=True)


def alarm_frame(found: Sequence[History]) -> pd.DataFrame:
    """Return all alarms of all runs."""
    rows = [
        (one.name, a.kind, a.where, a.step, a.value, a.text)
        for one in found
        for a in one.alarms
    ]
    return pd.DataFrame(rows, columns=["run", "kind", "where", "step", "value", "text"])


def map_frame(grids: Grids) -> pd.DataFrame:
    """Return every cell of the maps: run, site, last step of the window, value."""
    rows = [
        (one.name, name, step, value)
        for one, grid in grids
        for cells in zip(grid.names, grid.steps.tolist(), grid.values.tolist(), strict=True)
        for name, step, value in zip(*cells, strict=True)
    ]
    return pd.DataFrame(rows, columns=["run", "site", "step", "value"])
