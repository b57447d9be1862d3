"""One run: how it was made, its blocks, a measure over layers and roles, a site of it."""

import pandas as pd
from dash import dcc, html

from dashboard.components.control import controls, select
from dashboard.components.graph import graph
from dashboard.components.page import Content, Page, Query, href, page
from dashboard.components.table import table
from dashboard.data import Library, is_paired
from dashboard.pages.run_site import one_site
from ffn_probe.anatomy import Block, Norm
from ffn_probe.figures.grid import Grid
from ffn_probe.figures.heatmap import measure_heatmap
from ffn_probe.figures.history import history
from ffn_probe.figures.measure_grid import measure_grid
from ffn_probe.measures import MEASURES, Measure, measure
from ffn_probe.report.words import facts, number
from ffn_probe.runs import Run

_FIRST = "rms"
_BLOCKS = ("layer", "block", "kind", "layout", "activation", "norm", "d_model", "d_ff",
           "experts", "recompute error", "flags")  # fmt: skip
_UNUSUAL = {
    "high": "high values are unusual",
    "low": "low values are unusual",
    "both": "unusual far from zero on either side",
    "none": "no value is unusual of itself",
}


def run(library: Library, query: Query) -> Page:
    """Return the run `run`, its `measure` as a heatmap and, when given, its `site`."""
    name, chosen = query.get("run", ""), query.get("measure", _FIRST)
    found, entry = library.run(name), measure(chosen)
    if is_paired(found):
        return _paired(library, name, found)
    return page(
        name,
        [("Runs", href("/"))],
        html.H1(name),
        *_findings(library, name, found),
        *_measured(library, name, entry),
        *(one_site(library, name, query) if query.get("site") else ()),
        html.H2("Blocks"),
        _blocks(found),
        *_skipped(found),
        html.H2("How it was recorded"),
        table(("", ""), _facts(found), wrap=True),
        data={
            "measures": lambda: library.once(f"measures {chosen}", [name],
                                             lambda: found.measures([chosen])),
            "blocks": lambda: _block_frame(found.blocks),
        },
        command=f"ffn-probe show {found.path}",
        report=href("/report/run", run=name),
    )  # fmt: skip


# ---- what it holds ----------------------------------------------------------------------


def _findings(library: Library, name: str, found: Run) -> list[Content]:
    """Return what a reader has to know first; that there is nothing is said too."""
    notes: list[Content] = [html.Div(text, className="note") for text in found.problems]
    seen = library.once("alarms", [name], lambda: history(found).alarms)
    if seen:
        first = min(seen, key=lambda alarm: alarm.step)
        kinds = ", ".join(dict.fromkeys(alarm.kind for alarm in seen))
        said = f"{len(seen)} alarms ({kinds}), the first at step {first.step:,}: {first.text}. "
        where = dcc.Link("See them over the steps", href=href("/training", a=name))
        notes.append(html.Div([said, where], className="note"))
    if notes:
        return notes
    said = "Closed, and nothing was noticed while it was recorded."
    return [html.P(said, className="dim")]


def _measured(library: Library, name: str, entry: Measure) -> list[Content]:
    found = library.run(name)
    grid = library.once(f"grid {entry.name}", [name], lambda: measure_grid(found, entry.name))
    figure = library.once(
        f"heatmap {entry.name}", [name], lambda: measure_heatmap(found, entry.name)
    )
    options = [(m.name, f"{m.name}: {m.label}") for m in MEASURES]
    unit = "" if entry.unit in {"", "1"} else f" [{entry.unit}]"
    source = "" if entry.source in {"", "-"} else f" Source: {entry.source}."
    return [
        html.H2("Layers and roles"),
        controls(select("Measure", "measure", options, entry.name)),
        html.P([
            html.B(entry.label), unit, " = ", html.Code(entry.formula), ".", source, " ",
            html.Span(f"{_UNUSUAL[entry.direction]}; a cell leads to its distribution.",
                      className="dim"),
        ]),
        graph(figure, _label(grid), to="/run", name=f"{name}-{entry.name}",
              numbers=_numbers(grid, entry)),
    ]  # fmt: skip


def _label(grid: Grid) -> str:
    cells = [
        cell for row in grid.cells for cell in row if cell.name and cell.value == cell.value
    ]
    if not cells:
        return f"Heatmap of {grid.label} by layer and role: it applies to no site."
    low, high = min(cells, key=lambda c: c.value), max(cells, key=lambda c: c.value)
    return (
        f"Heatmap of {grid.label} by layer and role, from {number(low.value)} ({low.name}) to "
        f"{number(high.value)} ({high.name})."
    )


def _numbers(grid: Grid, entry: Measure) -> Content:
    rows = [
        [column.label, *(number(row[i].value) for row in grid.cells)]
        for i, column in enumerate(grid.columns)
    ]
    unit = "" if entry.unit in {"", "1"} else f", {entry.unit}"
    return table(("layer", *grid.roles), rows, caption=f"{entry.label}{unit}",
                 right=range(len(grid.roles) + 1))  # fmt: skip


def _blocks(found: Run) -> Content:
    rows = [
        [str(b.layer), b.name, b.kind, b.layout, b.activation, _norm(b.norm), str(b.d_model),
         str(b.d_ff), str(b.experts or "-"), number(b.recompute_error),
         "; ".join(b.flags) or "-"]
        for b in found.blocks
    ]  # fmt: skip
    caption = (
        "Recompute error: relative error of rebuilding the block's output from its taps, in "
        "float32; about 1e-6 is exact."
    )
    return table(_BLOCKS, rows, caption=caption, right=(0, 6, 7, 8, 9))


def _norm(norm: Norm) -> str:
    parts = [norm.kind]
    if norm.gain:
        parts.append(f"gain {norm.gain}")
    if norm.bias:
        parts.append("bias")
    if norm.eps is not None:
        parts.append(f"eps {norm.eps:g}")
    return ", ".join(parts)


def _block_frame(blocks: tuple[Block, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "layer": b.layer, "block": b.name, "kind": b.kind, "layout": b.layout,
                "activation": b.activation, "norm": b.norm.kind, "gain": b.norm.gain,
                "eps": b.norm.eps, "d_model": b.d_model, "d_ff": b.d_ff, "experts": b.experts,
                "recompute_error": b.recompute_error, "flags": "; ".join(b.flags),
            }
            for b in blocks
        ]
    )  # fmt: skip


def _skipped(found: Run) -> list[Content]:
    """Return what discovery passed over, with the reason."""
    rows = [[item.get("path", ""), item.get("reason", "")] for item in found.manifest.skipped]
    if not rows:
        return []
    said = html.Summary(f"{len(rows)} modules were looked at and skipped")
    return [html.Details([said, table(("module", "reason"), rows[:200], wrap=True)])]


def _facts(found: Run) -> list[list[Content]]:
    made = facts(found.manifest, found.path)
    kinds = dict.fromkeys(f"{b.activation} {b.kind}, {b.norm.kind}" for b in found.blocks)
    tags = ", ".join(f"{key}={value}" for key, value in found.manifest.tags.items())
    rows = made | {
        "blocks": f"{len(found.blocks)}: {'; '.join(kinds)}",
        "windows": f"{found.manifest.windows:,}",
        "tags": tags,
        "command": found.manifest.command,
    }
    return [[key, text] for key, text in rows.items() if text]


# ---- a run of two models ----------------------------------------------------------------


def _paired(library: Library, name: str, found: Run) -> Page:
    """Return how a paired run was made; its story is on the page Explain."""
    told = library.attribution(name)
    return page(
        name,
        [("Runs", href("/"))],
        html.H1(name),
        html.Div([html.B(told.status), told.verdict], className="banner"),
        html.P(dcc.Link("Explain it", href=href("/explain", run=name), className="button")),
        *(html.Div(text, className="note") for text in (*found.problems, *told.notes)),
        html.H2("Blocks of the reference"),
        _blocks(found),
        html.H2("How it was recorded"),
        table(("", ""), _facts(found), wrap=True),
        data={"blocks": lambda: _block_frame(found.blocks)},
        command=f"ffn-probe show {found.path}",
        report=href("/report/attribution", run=name),
    )
