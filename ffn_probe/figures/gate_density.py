"""The gate's distribution under its activation, in plotly: for GLUs and plain MLPs alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ffn_probe.figures.activation_curve import CURVES, DIPS
from ffn_probe.figures.canvas import FAINT, INK, framed
from ffn_probe.figures.density import Density, shared_density
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.sketches import BitHistogram


@dataclass(frozen=True, slots=True)
class GateSide:
    """One run's gate: its name in the legend, its values, and the block's activation."""

    name: str
    values: BitHistogram
    activation: str = ""


def gate_density(sides: Sequence[GateSide]) -> go.Figure:
    """Return the density of the gate of one or two runs, and what the activation makes of it.

    The axis is asinh(gate / robust sigma of the first). The shaded part is where the
    activation falls; the thin lines, on the right axis, are the activations.
    """
    density = shared_density(sides[0].values, sides[1].values if len(sides) > 1 else None)
    figure = go.Figure()
    for i, (side, heights) in enumerate(zip(sides, (density.a, density.b), strict=False)):
        x, y = density.outline(heights, 0.0)
        figure.add_scatter(
            x=x.astype(np.float32), y=y.astype(np.float32), mode="lines",
            name=escape(side.name), fill="tozeroy" if i == 0 else None, fillcolor=FAINT,
            line={"color": (REFERENCE, CANDIDATE)[i], "width": 2, "dash": ("solid", "dash")[i]},
            customdata=density.values(x).astype(np.float32),
            hovertemplate="gate %{customdata:.3g}: %{y:.3g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    drawn = dict.fromkeys(side.activation for side in sides if side.activation in CURVES)
    places = np.linspace(float(density.edges[0]), float(density.edges[-1]), 201)
    gates = density.values(places)
    for i, name in enumerate(drawn):
        figure.add_scatter(
            x=places.astype(np.float32), y=CURVES[name](gates).astype(np.float32),
            mode="lines", name=f"{escape(name)} (right axis)", yaxis="y2",
            line={"color": INK, "width": 1.3, "dash": ("dot", "dashdot")[i % 2]},
            customdata=gates.astype(np.float32),
            hovertemplate=f"{escape(name)}(%{{customdata:.3g}}) = %{{y:.3g}}<extra></extra>",
        )  # fmt: skip
    figure.layout.shapes, figure.layout.annotations = _dips(list(drawn), density)
    figure.update_xaxes(
        title="gate, in its unit (asinh axis)", tickvals=[p for p, _ in density.ticks],
        ticktext=[text for _, text in density.ticks],
        range=[float(density.edges[0]), float(density.edges[-1])],
    )  # fmt: skip
    figure.update_yaxes(title="density on this axis", rangemode="tozero")
    figure.update_layout(
        yaxis2={"title": {"text": "activation"}, "overlaying": "y", "side": "right",
                "showgrid": False, "tickmode": "auto", "nticks": 5},
    )  # fmt: skip
    return framed(figure, height=360, margin={"r": 64, "t": 66})


def _dips(names: list[str], density: Density) -> tuple[list[dict[str, Any]], ...]:
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    left = float(density.edges[0])
    for i, name in enumerate(name for name in names if name in DIPS):
        place = float(np.arcsinh(DIPS[name] / density.scale))
        if place <= left:
            continue
        shapes.append({
            "type": "rect", "x0": left, "x1": place, "y0": 0, "y1": 1, "yref": "paper",
            "fillcolor": FAINT, "line": {"width": 0}, "layer": "below",
        })  # fmt: skip
        notes.append({
            "x": place, "y": 0.98 - 0.1 * i, "yref": "paper", "yanchor": "top",
            "xanchor": "right", "showarrow": False, "font": {"size": 11},
            "text": f"{escape(name)} falls left of {DIPS[name]:.3f} ".replace("-", "\u2212"),
        })  # fmt: skip
    return shapes, notes
