"""Where on the gate's axis an activation's error falls, over the gate's histogram."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64

from ffn_probe.attribution.attribution import Region
from ffn_probe.figures.canvas import FAINT, INK, framed, rule
from ffn_probe.figures.gate_error import GateError
from ffn_probe.figures.numbers import number, percent
from ffn_probe.figures.theme import CANDIDATE


def gate_regions_chart(gate: GateError, regions: Sequence[Region]) -> go.Figure:
    """Return the densities of the gate, of the observed error and of the expected one.

    All are shares per unit of the gate, so that their areas can be compared; dotted lines
    are the ends of the regions, which carry their share of the error.
    """
    edges, (values, error, expected) = gate.densities()
    figure = go.Figure()
    for heights, name, line, fill in (
        (values, "gate values", {"color": FAINT, "width": 1}, "tozeroy"),
        (error, "error, observed", {"color": CANDIDATE, "width": 2}, None),
        (expected, "error, expected of the formulas",
         {"color": INK, "width": 1.5, "dash": "dot"}, None),
    ):  # fmt: skip
        x, y = _steps(edges, heights)
        figure.add_scatter(
            x=x.astype(np.float32), y=y.astype(np.float32), mode="lines", name=name, line=line,
            fill=fill, fillcolor=FAINT,
            hovertemplate="gate %{x:.3g}: %{y:.3g} per unit<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    low, high = float(edges[0]), float(edges[-1])
    ends = sorted({e for r in regions for e in (r.low, r.high) if low < e < high})
    figure.layout.shapes = [rule(x=end) for end in ends]
    figure.layout.annotations = [
        _label(region, max(region.low, low), min(region.high, high))
        for region in regions
        if max(region.low, low) < min(region.high, high)
    ]
    figure.update_xaxes(title="value of the gate, in its unit", range=[low, high])
    figure.update_yaxes(title="share per unit of the gate", rangemode="tozero")
    framed(figure, height=360, margin={"t": 84})
    figure.layout.legend.y = 1.16  # above the names of the regions
    return figure


def _label(region: Region, left: float, right: float) -> dict[str, Any]:
    words = (
        f"{escape(region.name)} ({number(region.low)} to {number(region.high)}): "
        f"{percent(region.share)} of the error on {percent(region.gate_share)} of the values"
    )
    return {
        "x": (left + right) / 2, "y": 1, "yref": "paper", "yanchor": "bottom",
        "showarrow": False, "font": {"size": 11}, "align": "center", "hovertext": words,
        "text": f"{escape(region.name)}<br><b>{percent(region.share)}</b>",
    }  # fmt: skip


def _steps(
    edges: Float64[np.ndarray, " edges"], heights: Float64[np.ndarray, " bins"]
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    x = np.concatenate([edges[:1], np.repeat(edges, 2)[1:-1], edges[-1:]])
    return x, np.concatenate([[0.0], np.repeat(heights, 2), [0.0]])
