"""Two distributions over each other, in plotly."""

from html import escape

import numpy as np
import plotly.graph_objects as go

from ffn_probe.figures.density import Density, shared_density
from ffn_probe.figures.theme import CANDIDATE, FONT, REFERENCE
from ffn_probe.sketches import BitHistogram


def overlay(
    a: BitHistogram,
    b: BitHistogram | None = None,
    *,
    title: str = "",
    names: tuple[str, str] = ("reference", "candidate"),
    cumulative: bool = False,
) -> go.Figure:
    """Return the densities (log scale) or the cumulative shares of two histograms.

    The axis is asinh(x / robust sigma of the reference), with ticks in the tensor's unit.
    """
    density = shared_density(a, b)
    figure = go.Figure()
    sides = [(density.a, names[0], REFERENCE, "solid")]
    if b is not None:
        sides.append((density.b, names[1], CANDIDATE, "dash"))
    for heights, name, color, dash in sides:
        figure.add_trace(
            go.Scatter(
                x=density.centers.astype(np.float32),
                y=_heights(density, heights, cumulative=cumulative),
                mode="lines", name=escape(name), connectgaps=False,
                line={"color": color, "width": 2, "dash": dash, "shape": "hvh"},
                customdata=density.values.astype(np.float32),
                hovertemplate="%{customdata:.4g}: %{y:.3g}<extra>%{fullData.name}</extra>",
            )
        )  # fmt: skip
    ticks = density.ticks
    figure.update_xaxes(
        tickvals=[place for place, _ in ticks], ticktext=[text for _, text in ticks],
        title="value (asinh scale, unit of the tensor)", zeroline=False,
    )  # fmt: skip
    figure.update_yaxes(
        type="linear" if cumulative else "log",
        title="share at or below" if cumulative else "density (log scale)",
        exponentformat="power",
    )
    figure.update_layout(
        title={"text": escape(title), "font": {"size": 14}}, height=320,
        margin={"l": 64, "r": 16, "t": 40, "b": 48},
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
        plot_bgcolor="rgba(0,0,0,0)", paper_bgcolor="rgba(0,0,0,0)",
        font=FONT,
    )  # fmt: skip
    return figure


def _heights(density: Density, heights: np.ndarray, *, cumulative: bool) -> np.ndarray:
    if cumulative:
        total = np.cumsum(heights * np.diff(density.edges))
        return total.astype(np.float32)
    return np.where(heights > 0, heights, np.nan).astype(np.float32)
