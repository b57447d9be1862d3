"""Two distributions over each other, in plotly."""

from html import escape

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ffn_probe.figures.density import Axis, Density, shared_density
from ffn_probe.figures.theme import CANDIDATE, FONT, REFERENCE
from ffn_probe.figures.value_axis import value_axis
from ffn_probe.sketches import BitHistogram


def overlay(
    a: BitHistogram,
    b: BitHistogram | None = None,
    *,
    title: str = "",
    names: tuple[str, str] = ("reference", "candidate"),
    cumulative: bool = False,
    axis: Axis = "asinh",
) -> go.Figure:
    """Return the densities (log scale) or the cumulative shares of two histograms.

    The axis is asinh(x / robust sigma of the reference), or logarithmic in |x| on both sides
    of zero, with ticks in the tensor's unit.
    """
    density = shared_density(a, b, axis=axis)
    powers = density.powers or (-1.0, 0.0)
    figure = go.Figure()
    sides = [(density.a, names[0], REFERENCE, "solid")]
    if b is not None:
        sides.append((density.b, names[1], CANDIDATE, "dash"))
    for heights, name, color, dash in sides:
        x, y = _line(density, heights, 10 ** (powers[0] - 1), cumulative=cumulative)
        figure.add_scatter(
            x=x.astype(np.float32), y=y.astype(np.float32), mode="lines", name=escape(name),
            line={"color": color, "width": 2, "dash": dash},
            customdata=density.values(x).astype(np.float32),
            hovertemplate="%{customdata:.4g}: %{y:.3g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    _axes(figure, powers, cumulative=cumulative)
    value_axis(figure, density, axis)
    figure.update_layout(
        title={"text": escape(title), "font": {"size": 14}}, height=320,
        showlegend=b is not None,
        margin={"l": 64, "r": 16 if b is None else 64, "t": 40, "b": 48},
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
        plot_bgcolor="rgba(0,0,0,0)", paper_bgcolor="rgba(0,0,0,0)", font=FONT,
    )  # fmt: skip
    return figure


def _axes(figure: go.Figure, powers: tuple[float, float], *, cumulative: bool) -> None:
    if cumulative:
        figure.update_yaxes(
            title="share at or below", range=[-0.02, 1.02], dtick=0.2, zeroline=False
        )
    else:
        figure.update_yaxes(
            title="density (log scale)", type="log", range=list(powers), dtick=1,
            exponentformat="e",
        )  # fmt: skip


def _line(
    density: Density, heights: Float[np.ndarray, " bins"], floor: float, *, cumulative: bool
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    if not cumulative:
        return density.outline(heights, floor)
    total = np.cumsum(heights * np.diff(density.edges))
    return density.edges, np.concatenate([[0.0], total])
