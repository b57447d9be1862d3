"""What the charts of explanations, formats and swaps share: the frame, ticks, intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from ffn_probe.attribution.attribution import Interval
from ffn_probe.figures.theme import FONT

INK = str(FONT["color"])
"""Lines and marks that belong to neither side, readable on a light and on a dark page."""

FAINT = "rgba(128,128,128,0.3)"
"""Zones: noise floors, histograms behind a curve."""

CLEAR = "rgba(0,0,0,0)"


def framed(
    figure: go.Figure,
    *,
    height: int,
    legend: bool = True,
    margin: Mapping[str, int] | None = None,
    **layout: Any,
) -> go.Figure:
    """Return the figure with our type, margins, a legend above and no background.

    Args:
        figure: is changed and returned.
        height: in pixels; the width is the page's.
        legend: whether it has one, above the chart.
        margin: in pixels, what differs from the usual one.
        layout: further entries of plotly's layout.
    """
    entries: dict[str, Any] = {
        **layout, "height": height, "showlegend": legend, "plot_bgcolor": CLEAR,
        "margin": {"l": 64, "r": 16, "t": 44 if legend else 14, "b": 48} | dict(margin or {}),
        "paper_bgcolor": CLEAR, "font": dict(FONT), "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left",
                   "bgcolor": CLEAR},
    }  # fmt: skip
    for key, value in entries.items():  # one by one: update_layout takes ten times as long
        figure.layout[key] = value
    figure.update_xaxes(zeroline=False, fixedrange=True)
    figure.update_yaxes(zeroline=False, fixedrange=True)
    return figure


def places(count: int, most: int = 24) -> list[int]:
    """Return the places of the columns that are written out: at most `most`, evenly apart.

    >>> places(4), places(80, most=10)
    ([0, 1, 2, 3], [0, 10, 20, 30, 40, 50, 60, 70])
    """
    step = next(s for k in range(12) for d in (1, 2, 5)
                if (s := d * 10**k) * most >= count)  # fmt: skip
    return list(range(0, count, step))


def whiskers(values: Sequence[Interval | None]) -> dict[str, Any]:
    """Return plotly's error bars of intervals; nothing where an interval is not known."""
    above, below = [], []
    for value in values:
        known = value is not None and math.isfinite(value.low) and math.isfinite(value.high)
        above.append(value.high - value.value if value and known else 0.0)
        below.append(value.value - value.low if value and known else 0.0)
    return {
        "type": "data", "symmetric": False, "array": above, "arrayminus": below,
        "color": INK, "thickness": 1.3, "width": 4, "visible": any(above) or any(below),
    }  # fmt: skip


def rule(
    *, x: float | None = None, y: float | None = None, dash: str = "dot", width: float = 1.0
) -> dict[str, Any]:
    """Return a line over the whole chart at a place of one axis, for `layout.shapes`.

    A figure takes a list of these ten times faster than one `add_vline` after the other.
    """
    line = {"color": INK, "width": width, "dash": dash}
    if x is not None:
        return {
            "type": "line",
            "x0": x,
            "x1": x,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": line,
        }
    return {"type": "line", "y0": y, "y1": y, "xref": "paper", "x0": 0, "x1": 1, "line": line}


def empty(text: str, *, height: int = 120) -> go.Figure:
    """Return a chart that only says why there is nothing to draw; `text` is plain text."""
    note = {"text": text, "showarrow": False, "x": 0.5, "y": 0.5, "xref": "paper",
            "yref": "paper"}  # fmt: skip
    layout = {"annotations": [note], "xaxis": {"visible": False}, "yaxis": {"visible": False}}
    return framed(go.Figure(layout=layout), height=height, legend=False)
