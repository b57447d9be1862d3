"""Heatmaps of layers times roles, in plotly."""

import math
from html import escape

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ffn_probe.compare import Drift
from ffn_probe.figures.grid import (
    AS_JUDGED,
    CAP,
    FLOOR_CAP,
    Cell,
    Grid,
    View,
    drift_grid,
    heat,
    shade,
    ticks,
)
from ffn_probe.figures.measure_grid import measure_grid
from ffn_probe.figures.theme import FONT, SCALE, SEQUENTIAL, SIGN, Scale, css
from ffn_probe.runs import Run

_LARGEST = float(np.finfo(np.float32).max)
SIGNED = 48  # columns; with more, a sign does not fit its cell

Shown = Float[np.ndarray, "roles columns"]


def drift_heatmap(drift: Drift, view: View = AS_JUDGED) -> go.Figure:
    """Return the drift of every site: colour, a sign for WARN and FAIL, words on hover.

    A cell's `customdata` is the name of its site, "" where there is none to go to. The
    colours and the signs are all that another multiplier changes.
    """
    grid = drift_grid(drift, view)
    shown = np.array([[heat(cell, view.by) for cell in row] for row in grid.cells])
    figure = _heatmap(grid, shown.reshape(len(grid.roles), -1), SCALE, (0.0, 1.0))
    cap = FLOOR_CAP if view.by == "floor" else CAP
    levels = (
        [1.0, 10.0, 100.0, 1000.0] if view.by == "floor" else [1.0, 2.0, 5.0, 10.0, 30.0, 100.0]
    )
    figure.data[0].update(
        text=[[sign(cell) for cell in row] for row in grid.cells], texttemplate="%{text}",
        hovertext=[[escape(_words(cell)) for cell in row] for row in grid.cells],
        hovertemplate="%{text} %{hovertext}<extra></extra>",
        textfont={"size": 12} if len(grid.columns) <= SIGNED else {},
        colorbar={
            "title": {"text": f"times the {view.by}", "side": "right"}, "thickness": 12,
            "tickvals": [0.0, *(shade(v, cap) for v in levels)],
            "ticktext": ["passes", *(f"{v:g}" for v in levels[:-1]), f"{cap:g}+"],
        },
    )  # fmt: skip
    return figure


def sign(cell: Cell) -> str:
    """Return the sign of a site that does not pass; "" of one that does, or is not there."""
    return SIGN[cell.mark] if cell.mark in {"WARN", "FAIL"} else ""


def _words(cell: Cell) -> str:
    """Return the words without the status, which another multiplier may change."""
    return cell.text.removeprefix(f"{cell.mark} ")


def measure_heatmap(run: Run, name: str) -> go.Figure:
    """Return a measure over layers and roles; logarithmic where it spans decades.

    Raises:
        UnknownName: no measure has that name.
    """
    grid = measure_grid(run, name)
    values = np.where(np.isfinite(grid.values), grid.values, np.nan)
    known = values[np.isfinite(values)]
    wide = known.size > 0 and known.min() > 0 and known.max() / known.min() > 100
    shown = np.log10(values) if wide else values
    ends = (float(np.nanmin(shown)), float(np.nanmax(shown))) if known.size else (0.0, 1.0)
    figure = _heatmap(grid, shown, SEQUENTIAL, ends if ends[1] > ends[0] else None)
    unit = "" if grid.unit in {"1", ""} else f" [{grid.unit}]"
    bar = {"title": {"text": escape(grid.label + unit), "side": "right"}, "thickness": 12}
    if wide:
        powers = list(range(math.floor(ends[0]), math.ceil(ends[1]) + 1))
        bar |= {"tickvals": powers, "ticktext": [f"1e{p}" for p in powers]}
    figure.data[0].colorbar = bar
    if not known.size:
        figure.data[0].showscale = False
        figure.add_annotation(
            text=f"{escape(grid.label)} applies to no site of this run", showarrow=False,
            x=0.5, y=0.5, xref="paper", yref="paper", font={"size": 14},
        )  # fmt: skip
    return figure


def _heatmap(
    grid: Grid, shown: Shown, scale: Scale, ends: tuple[float, float] | None
) -> go.Figure:
    x = list(range(len(grid.columns)))
    low, high = ends or (None, None)
    figure = go.Figure(
        go.Heatmap(
            z=np.clip(shown, -_LARGEST, _LARGEST).astype(np.float32), x=x, y=list(grid.roles),
            zmin=low, zmax=high,
            colorscale=[[stop, css(color)] for stop, color in scale], xgap=1, ygap=1,
            text=[[escape(cell.text) for cell in row] for row in grid.cells],
            hovertemplate="%{text}<extra></extra>", hoverongaps=True,
            customdata=[[cell.name for cell in row] for row in grid.cells],
        )
    )  # fmt: skip
    _hatch(figure, grid)
    places = ticks(grid.columns)
    figure.update_xaxes(
        title="layer", tickvals=places, ticktext=[grid.columns[t].label for t in places],
        showgrid=False, zeroline=False, range=[-0.5, len(x) - 0.5], fixedrange=True,
    )  # fmt: skip
    figure.update_yaxes(
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        type="category",
        fixedrange=True,
        ticklabelstandoff=6,
    )
    figure.update_layout(
        height=110 + 34 * max(len(grid.roles), 4), margin={"l": 80, "r": 20, "t": 12, "b": 46},
        plot_bgcolor="rgba(0,0,0,0)", paper_bgcolor="rgba(0,0,0,0)", font=FONT,
    )  # fmt: skip
    return figure


def _hatch(figure: go.Figure, grid: Grid) -> None:
    """Hatch the cells of sites that one side lacks, with the letter of the side that has it."""
    found = [
        (role, j, escape(cell.text), SIGN[cell.mark])
        for role, row in zip(grid.roles, grid.cells, strict=True)
        for j, cell in enumerate(row)
        if cell.mark in {"only_a", "only_b"}
    ]
    if found:
        roles, places, texts, letters = (list(part) for part in zip(*found, strict=True))
        lines = {"shape": "/", "size": 7, "solidity": 0.25, "fgcolor": "rgba(128,128,128,0.7)"}
        figure.add_bar(
            y=roles, base=[j - 0.5 for j in places], x=[1] * len(places), width=1,
            orientation="h", hovertext=texts, showlegend=False,
            text=letters if len(grid.columns) <= SIGNED else None, textposition="inside",
            insidetextanchor="middle", textangle=0,
            textfont={"size": 12, "color": FONT["color"]},
            hovertemplate="%{hovertext}<extra></extra>",
            marker={"color": "rgba(128,128,128,0.08)", "pattern": lines,
                    "line": {"width": 1, "color": "rgba(128,128,128,0.35)"}},
        )  # fmt: skip
