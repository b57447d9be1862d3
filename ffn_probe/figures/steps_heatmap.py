"""A measure over layers (or roles) and steps as a heatmap."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ffn_probe.figures.numbers import number
from ffn_probe.figures.step_grid import StepGrid
from ffn_probe.figures.theme import FONT, SEQUENTIAL, css
from ffn_probe.figures.training import MARGIN

_LARGEST = float(np.finfo(np.float32).max)
_WIDE = 100.0
_LABELS = 24

Ends = tuple[float, float]


def steps_ends(grids: list[StepGrid]) -> Ends | None:
    """Return the least and the most of several grids, None when there is no finite value."""
    found = [grid.values[np.isfinite(grid.values)] for grid in grids]
    known = np.concatenate(found) if found else np.zeros(0)
    return (float(known.min()), float(known.max())) if known.size else None


def steps_heatmap(
    grid: StepGrid,
    *,
    by: str = "layer",
    ends: Ends | None = None,
    steps: Sequence[int] | None = None,
) -> go.Figure:
    """Return the heatmap of a grid; logarithmic where `ends` span decades.

    A cell's `customdata` is the name of its site.

    Args:
        grid: the values.
        by: what the rows are, "layer" or "role".
        ends: the values at the ends of the colour scale; those of the grid by default.
        steps: the range of the axis; that of the grid by default.
    """
    low, high = ends or steps_ends([grid]) or (0.0, 1.0)
    wide = low > 0 and high / low > _WIDE
    values = np.where(np.isfinite(grid.values), grid.values, np.nan)
    shown = np.log10(values) if wide else values
    low, high = (math.log10(low), math.log10(high)) if wide else (low, high)
    edges = grid.edges
    if np.any(np.diff(edges) <= 0):  # steps that nobody recorded: windows one after another
        edges = np.arange(edges.size)
    bar: dict[str, Any] = {"thickness": 12, "x": 1.01, "nticks": 5}
    if wide:
        powers = list(range(math.floor(low), math.ceil(high) + 1))
        powers = powers[:: max(1, math.ceil(len(powers) / 6))]
        bar |= {"tickvals": powers, "ticktext": [number(10.0**p) for p in powers]}
    said = [
        [_said(v, s, grid.together) for v, s in zip(*row, strict=True)]
        for row in zip(values.tolist(), grid.steps.tolist(), strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=np.clip(shown, -_LARGEST, _LARGEST).astype(np.float32), x=edges,
            y=list(range(len(grid.rows))), zmin=low, zmax=high if high > low else low + 1,
            colorscale=[[stop, css(color)] for stop, color in SEQUENTIAL], colorbar=bar,
            text=np.array(said, dtype=object),  # an array is not copied value by value
            customdata=np.array([list(row) for row in grid.names], dtype=object),
            hovertemplate=f"{by} %{{y}}<br>%{{text}}<extra></extra>", hoverongaps=False,
        )
    )  # fmt: skip
    places = list(range(0, len(grid.rows), max(1, math.ceil(len(grid.rows) / _LABELS))))
    figure.update_xaxes(
        title="step", showgrid=False, zeroline=False, fixedrange=True,
        range=steps or [int(edges[0]), int(edges[-1])],
    )  # fmt: skip
    figure.update_yaxes(
        title={"text": by, "font": {"size": 11}}, tickvals=places,
        ticktext=[escape(grid.rows[i]) for i in places], autorange="reversed", showgrid=False,
        zeroline=False, fixedrange=True,
    )  # fmt: skip
    figure.update_layout(
        height=MARGIN["t"] + MARGIN["b"] + min(520, max(120, 26 * len(grid.rows))),
        margin=MARGIN, plot_bgcolor="rgba(0,0,0,0)", paper_bgcolor="rgba(0,0,0,0)", font=FONT,
    )  # fmt: skip
    return figure


def _said(value: float, step: int, together: int) -> str:
    if math.isnan(value):
        return "no value"
    return f"{number(float(value))} {'at' if together > 1 else 'until'} step {step}"
