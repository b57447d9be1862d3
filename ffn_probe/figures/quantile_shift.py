"""How far each quantile moved, over its value in the reference, beside what chance does."""

import math

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ffn_probe.compare.quantile_shift import QuantileShift
from ffn_probe.figures.canvas import FAINT, INK, framed
from ffn_probe.figures.density import Axis, Density
from ffn_probe.figures.numbers import number
from ffn_probe.figures.theme import CANDIDATE
from ffn_probe.figures.value_axis import value_axis

NAMED = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
"""The quantiles that are marked, as the legend says."""

_LINEAR = 0.02  # robust sigmas: up to here the upright axis is linear
_LEAST = 0.1  # robust sigmas: the axis shows at least this much

Heights = Float[np.ndarray, " n"]


def quantile_shift_chart(
    moved: QuantileShift, density: Density, axis: Axis = "asinh"
) -> go.Figure:
    """Return the shift function on the axis of values of a density.

    Left in the unit of the tensor, right in robust sigmas of the reference. The upright axis
    is linear near zero and logarithmic beyond. The grey band is what the choice of inputs
    alone does, pointwise; there is none with fewer than 8 folds.
    """
    linear = _LINEAR * moved.sigma
    x = density.places(moved.a)
    figure = go.Figure()
    if moved.band is not None:
        edge = np.arcsinh(moved.band / linear)
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]).astype(np.float32),
            y=np.concatenate([edge, -edge[::-1]]).astype(np.float32),
            fill="toself", fillcolor=FAINT, line={"width": 0}, mode="lines",
            name="chance, 95 %", hoverinfo="skip",
        )  # fmt: skip
    heights = np.arcsinh(moved.shift / linear)
    figure.add_scatter(
        x=x.astype(np.float32), y=heights.astype(np.float32), mode="lines",
        line={"color": CANDIDATE, "width": 2}, name="B less A", text=_words(moved),
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    marked = [int(np.abs(moved.shares - share).argmin()) for share in NAMED]
    figure.add_scatter(
        x=x[marked].astype(np.float32), y=heights[marked].astype(np.float32), mode="markers",
        marker={"color": CANDIDATE, "size": 8, "line": {"color": INK, "width": 1}},
        name="0.1, 1, 10, 50, 90, 99, 99.9 %", hoverinfo="skip",
    )  # fmt: skip
    zero = {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": 0, "y1": 0,
            "line": {"color": INK, "width": 1}}  # fmt: skip
    framed(figure, height=340, margin={"l": 64, "r": 64}, shapes=[zero])
    value_axis(figure, density, axis)
    _upright(figure, moved, heights)
    return figure


def _upright(figure: go.Figure, moved: QuantileShift, heights: Heights) -> None:
    """Give the chart both upright axes: the tensor's unit, and robust sigmas."""
    linear = _LINEAR * moved.sigma
    band = 0.0 if moved.band is None else float(np.arcsinh(moved.band / linear).max())
    most = 1.08 * max(float(np.abs(heights).max()), band, math.asinh(_LEAST / _LINEAR))
    left = _marks(math.sinh(most) * linear, linear)
    right = _marks(math.sinh(most) * _LINEAR, _LINEAR)
    figure.add_scatter(x=[None], y=[None], yaxis="y2", showlegend=False)
    shared = {"range": [-most, most], "zeroline": False, "fixedrange": True}
    figure.update_layout(
        yaxis={
            **shared, "title": {"text": "B less A, unit of the tensor", "standoff": 6},
            "tickvals": [place for place, _ in left], "ticktext": [text for _, text in left],
        },
        yaxis2={
            **shared, "title": {"text": "in robust sigmas of A", "standoff": 6},
            "overlaying": "y", "side": "right", "automargin": "width",
            "tickvals": [place for place, _ in right], "showgrid": False,
            "ticktext": [text for _, text in right],
        },
    )  # fmt: skip


def _marks(largest: float, linear: float) -> list[tuple[float, str]]:
    """Return (place, value) of 0 and of at most three powers of ten on both sides."""
    top = math.floor(math.log10(largest))
    powers = [10.0**k for k in range(top, top - 12, -1) if 10.0**k >= 2 * linear]
    powers = powers[:: math.ceil(len(powers) / 3)] if powers else [largest / 2]
    values = [*(-p for p in powers), 0.0, *reversed(powers)]
    return [(math.asinh(v / linear), number(v, signed=True)) for v in values]


def _words(moved: QuantileShift) -> list[str]:
    """Return what a point says."""
    bands = moved.band if moved.band is not None else np.full(moved.shares.size, np.nan)
    found = []
    for share, a, b, band in zip(moved.shares, moved.a, moved.b, bands, strict=True):
        said = f"quantile {percent(share)}: {number(a)} \u2192 {number(b)}, "
        said += f"{number(b - a, signed=True)} ({number((b - a) / moved.sigma, signed=True)} "
        said += "sigmas)"
        found.append(said if math.isnan(band) else f"{said}; chance \u00b1{number(band)}")
    return found


def percent(share: float) -> str:
    """Return a quantile's share with the digits that its tail needs.

    >>> percent(0.5), percent(0.999), percent(0.0001)
    ('50 %', '99.9 %', '0.01 %')
    """
    rest = min(share, 1 - share)
    digits = max(0, math.ceil(-math.log10(max(rest, 1e-9) * 1.0000001)) - 2)
    return f"{100 * share:.{digits}f} %"
