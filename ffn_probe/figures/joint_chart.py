"""Gate against value: how often each pair is seen, and how that differs, in plotly."""

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64

from ffn_probe.figures.activation_curve import CURVES, DIPS
from ffn_probe.figures.canvas import CLEAR, FAINT, INK
from ffn_probe.figures.joint_view import Axis, JointView
from ffn_probe.figures.numbers import MINUS
from ffn_probe.figures.theme import (
    CANDIDATE,
    DIVERGING,
    FONT,
    REFERENCE,
    SEQUENTIAL,
    Scale,
    css,
)

SCALES = ("octave", "unit")
"""What a cell's colour is: its share of the pairs, or that share per unit of gate and value."""

_HEIGHT = 520
_MARGINAL = 0.8  # where the heatmap ends and the marginals begin
_HOVER = (
    "gate %{customdata[0]:.3g} to %{customdata[1]:.3g}<br>"
    "value %{customdata[2]:.3g} to %{customdata[3]:.3g}<br>"
)


def joint_chart(
    view: JointView, side: str, *, color: str, activation: str = "", per: str = "octave"
) -> go.Figure:
    """Return the pairs of one side as a heatmap with both marginals.

    A cell is an octave of |gate| times an octave of |value|. The line is what the activation
    makes of the gate, on the axis of the value; the shaded part of the gate is where the
    activation falls. Both sides of a view share their axes and their colours.

    Args:
        view: the counts.
        side: "a" or "b".
        color: of the marginals.
        activation: the name of the block's activation; one without a known curve has no line.
        per: one of SCALES.
    """
    heights = {"octave": view.shares, "unit": view.densities}[per]
    found, both = heights(side), np.concatenate([heights("a").ravel(), heights("b").ravel()])
    known = np.log10(both[both > 0]) if np.any(both > 0) else np.array([-1.0, 0.0])
    counts = view.b if side == "b" and view.b is not None else view.a
    with np.errstate(divide="ignore"):
        z = np.where(found > 0, np.log10(found), np.nan)
    figure = go.Figure()
    what = "share" if per == "octave" else "share per unit\u00b2"
    figure.add_trace(_cells(view, z, SEQUENTIAL, (float(known.min()), float(known.max())), [
        counts, found
    ]))  # fmt: skip
    figure.data[0].update(
        hovertemplate=_HOVER + f"%{{customdata[4]:,}} pairs, {what} %{{customdata[5]:.3g}}"
        "<extra></extra>",
        colorbar=_bar(what + " of the pairs", *_powers(known)),
    )
    _marginals(figure, view, side, color)
    _curve(figure, view, activation)
    return _laid_out(figure, view, activation)


def joint_difference(
    view: JointView, names: tuple[str, str], *, activation: str = ""
) -> go.Figure:
    """Return the log2 ratio of the shares of the cells, candidate over reference.

    Cells with fewer than FLOOR pairs on both sides are struck out: their ratio says little.
    """
    ratio = view.log_ratio
    other = view.b if view.b is not None else np.zeros_like(view.a)
    few = np.where((view.a + other > 0) & np.isnan(ratio), 1.0, np.nan)
    figure = go.Figure()
    figure.add_trace(_cells(view, few, ((0.0, "#80808048"), (1.0, "#80808048")), (0.0, 1.0), [
        view.a, other
    ]))  # fmt: skip
    most = view.reach
    shown = np.clip(ratio, -most, most)
    figure.add_trace(_cells(view, shown, DIVERGING, (-most, most), [view.a, other, ratio]))
    pairs = "%{customdata[4]:,} and %{customdata[5]:,} pairs"
    figure.data[0].update(
        hovertemplate=f"{_HOVER}{pairs}: too few<extra></extra>", showscale=False
    )
    ticks = [(k * most, f"{2.0 ** (k * most):.3g}\u00d7") for k in (-1, -0.5, 0, 0.5, 1)]
    title = f"share in {escape(names[1])} over {escape(names[0])}"
    figure.data[1].update(
        hovertemplate=f"{_HOVER}{pairs}, 2^%{{customdata[6]:.2f}} times<extra></extra>",
        colorbar=_bar(title, [t for t, _ in ticks], [text for _, text in ticks]),
    )
    rows, columns = np.nonzero(few == 1)
    figure.add_scatter(
        x=rows + 0.5, y=columns + 0.5, mode="markers", hoverinfo="skip", showlegend=False,
        marker={"symbol": "line-ne-open", "size": 7, "color": INK, "line": {"width": 1}},
    )  # fmt: skip
    for side, color in (("a", REFERENCE), ("b", CANDIDATE)):
        _marginals(figure, view, side, color, outline=True)
    _curve(figure, view, activation)
    return _laid_out(figure, view, activation)


# ---- parts ------------------------------------------------------------------------------


def _cells(
    view: JointView,
    z: Float64[np.ndarray, "gates values"],
    scale: Scale,
    ends: tuple[float, float],
    beside: list[np.ndarray],
) -> go.Heatmap:
    """Return a heatmap over gate (across) and value (up); the edges of a cell in its data."""
    g, u = view.gate.edges, view.value.edges
    grids = np.meshgrid(g[:-1], u[:-1]), np.meshgrid(g[1:], u[1:])
    (left, low), (right, high) = grids
    data = np.stack([left, right, low, high, *(np.asarray(b).T for b in beside)], axis=-1)
    low_end, high_end = ends if ends[1] > ends[0] else (ends[0] - 1, ends[0] + 1)
    return go.Heatmap(
        z=z.T.astype(np.float32), x=np.arange(g.size - 1) + 0.5, y=np.arange(u.size - 1) + 0.5,
        zmin=low_end, zmax=high_end, colorscale=[[at, css(color)] for at, color in scale],
        customdata=data.astype(np.float32), hoverongaps=False,
    )  # fmt: skip


def _powers(known: Float64[np.ndarray, " n"]) -> tuple[list[float], list[str]]:
    low, high = int(np.ceil(known.min())), int(np.floor(known.max()))
    step = max(1, (high - low) // 5)
    powers = list(range(low, high + 1, step))
    if not powers:
        end = float(known.max())
        return [end], [f"{10**end:.3g}"]
    return [float(p) for p in powers], [f"1e{p}" if p else "1" for p in powers]


def _bar(title: str, places: list[float], texts: list[str]) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "right"}, "thickness": 12, "tickvals": places,
        "ticktext": texts, "len": _MARGINAL, "y": 0, "yanchor": "bottom", "x": 1.02,
    }  # fmt: skip


def _marginals(
    figure: go.Figure, view: JointView, side: str, color: str, *, outline: bool = False
) -> None:
    """Add the shares of the gate's cells above and of the value's cells to the right."""
    shares = view.shares(side)
    dash = "dash" if outline and side == "b" else "solid"
    style: dict[str, Any] = {
        "mode": "lines", "line": {"color": color, "width": 2, "dash": dash},
        "showlegend": False, "hoverinfo": "skip",
        "fillcolor": css(color + "40"),
    }  # fmt: skip
    along, high = _steps(shares.sum(1))
    fill = None if outline else "tozeroy"
    figure.add_scatter(x=along, y=high, yaxis="y2", fill=fill, **style)
    along, high = _steps(shares.sum(0))
    fill = None if outline else "tozerox"
    figure.add_scatter(x=high, y=along, xaxis="x2", fill=fill, **style)


def _steps(heights: Float64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    places = np.repeat(np.arange(heights.size + 1), 2)
    return places.astype(np.float32), np.concatenate(
        [[0.0], np.repeat(heights, 2), [0.0]]
    ).astype(np.float32)


def _curve(figure: go.Figure, view: JointView, activation: str) -> None:
    curve = CURVES.get(activation)
    if curve is None:
        return
    places = np.linspace(0, view.gate.edges.size - 1, 241)
    gates = view.gate.value(places)
    heights = view.value.place(curve(gates))
    inside = (heights >= 0) & (heights <= view.value.edges.size - 1)
    figure.add_scatter(
        x=places.astype(np.float32), y=np.where(inside, heights, np.nan).astype(np.float32),
        mode="lines", name=f"{escape(activation)}(gate), on the axis of the value",
        line={"color": INK, "width": 2}, customdata=np.stack([gates, curve(gates)], axis=-1),
        hovertemplate="gate %{customdata[0]:.3g}: %{customdata[1]:.3g}<extra></extra>",
    )  # fmt: skip


def _dip(axis: Axis, activation: str) -> float | None:
    """Return where on the axis an activation is least; None where that is not to be seen."""
    if activation not in DIPS:
        return None
    place = float(axis.place(np.array([DIPS[activation]]))[0])
    return place if place > 0 else None


def _three(value: float) -> str:
    """Return a number with three decimals and a proper minus."""
    return f"{value:.3f}".replace("-", MINUS)


def _laid_out(figure: go.Figure, view: JointView, activation: str) -> go.Figure:
    width, height = view.gate.edges.size - 1, view.value.edges.size - 1
    gate, value = view.gate.ticks(), view.value.ticks()
    plain: dict[str, Any] = {"zeroline": False, "showgrid": False, "fixedrange": True}
    zero = {"color": INK, "width": 1, "dash": "dot"}
    at_x, at_y = (float(axis.place(np.zeros(1))[0]) for axis in (view.gate, view.value))
    shapes: list[dict[str, Any]] = [
        {"type": "line", "x0": at_x, "x1": at_x, "y0": 0, "y1": height, "line": zero},
        {"type": "line", "x0": 0, "x1": width, "y0": at_y, "y1": at_y, "line": zero},
    ]
    notes: list[dict[str, Any]] = []
    dip = _dip(view.gate, activation)
    if dip is not None:
        shapes.append({
            "type": "rect", "x0": 0, "x1": dip, "y0": _MARGINAL + 0.02, "y1": 1,
            "yref": "paper", "fillcolor": FAINT, "line": {"width": 0}, "layer": "below",
        })  # fmt: skip
        shapes.append({**shapes[0], "x0": dip, "x1": dip, "line": {**zero, "dash": "dash"}})
        notes.append({
            "x": dip / 2, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False,
            "text": f"{escape(activation)} falls<br>left of {_three(DIPS[activation])}",
            "font": {"size": 11},
        })  # fmt: skip
    figure.layout = {
        "height": _HEIGHT, "margin": {"l": 66, "r": 12, "t": 66, "b": 52}, "font": dict(FONT),
        "plot_bgcolor": CLEAR, "paper_bgcolor": CLEAR, "shapes": shapes, "annotations": notes,
        "hoverlabel": {"align": "left"}, "showlegend": True,
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01,
                   "yanchor": "bottom", "bgcolor": CLEAR},
        "xaxis": {**plain, "title": {"text": "gate, in its unit (an octave a cell)"},
                  "domain": [0, _MARGINAL], "range": [0, width], "ticks": "outside",
                  "tickvals": [p for p, _ in gate], "ticktext": [text for _, text in gate],
                  "tickangle": 0},
        "yaxis": {**plain, "title": {"text": "value, in its unit (an octave a cell)"},
                  "domain": [0, _MARGINAL],
                  "range": [0, height], "ticks": "outside", "tickvals": [p for p, _ in value],
                  "ticktext": [text for _, text in value]},
        "xaxis2": {**plain, "domain": [_MARGINAL + 0.02, 1], "rangemode": "tozero", "nticks": 3,
                   "tickformat": ".0%", "anchor": "y"},
        "yaxis2": {**plain, "domain": [_MARGINAL + 0.02, 1], "rangemode": "tozero", "nticks": 3,
                   "tickformat": ".0%", "anchor": "x"},
    }  # fmt: skip
    return figure
