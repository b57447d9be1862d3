"""Channels over layers, sorted channels, and their kurtosis by layer, in plotly."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Float64, Int64

from ffn_probe.figures.canvas import framed, places, rule
from ffn_probe.figures.theme import SEQUENTIAL, css
from ffn_probe.runs.channel_map import ChannelMap

SORTS = ("channel", "size")
"""Columns by the channel's id, or those that stand out in any layer first."""

LEVELS: tuple[tuple[float, str], ...] = ((10.0, "look"), (25.0, "risk for int8"))
"""Kurtosis of channel RMS from which on channels are worth a look, and cost int8 its bits."""

_WIDE = 100.0
_POINTS = 400
_LARGEST = float(np.finfo(np.float32).max)


def channel_order(maps: Sequence[ChannelMap], sort: str) -> Int64[np.ndarray, " columns"]:
    """Return the columns of maps of one shape in the order of `sort`, the same for all."""
    width = max(m.values.shape[1] for m in maps)
    if sort == "channel":
        return np.arange(width)
    rank = np.full(width, -np.inf)
    for m in maps:
        size = -m.values if m.measure.least else np.abs(m.values)
        best = np.where(np.isnan(size), -np.inf, size).max(axis=0, initial=-np.inf)
        rank[: best.size] = np.maximum(rank[: best.size], best)
    return np.asarray(np.argsort(-rank, kind="stable"), np.int64)


def ends_of(maps: Sequence[ChannelMap]) -> tuple[float, float, bool]:
    """Return the ends of the colours of maps that are compared, and whether they are logs."""
    held = [np.abs(m.values[np.isfinite(m.values)]).astype(np.float64) for m in maps]
    known = np.concatenate(held) if held else np.zeros(0)
    positive = known[known > 0]
    if maps[0].measure.name == "active" or not positive.size:
        return 0.0, 1.0, False
    if maps[0].measure.name == "mean":
        return 0.0, float(known.max()), False
    low, high = float(np.quantile(positive, 0.01)), float(positive.max())
    if high / low > _WIDE:
        return math.log10(low), math.log10(high), True
    return 0.0, high, False


def channel_heatmap(
    found: ChannelMap,
    order: Int64[np.ndarray, " columns"],
    ends: tuple[float, float, bool],
) -> go.Figure:
    """Return a map of channels: a row a block, magnitudes as colours, the id on hover.

    Args:
        found: the map.
        order: of its columns, from `channel_order`.
        ends: of the colours, from `ends_of`.
    """
    low, high, log = ends
    columns = order[order < found.values.shape[1]]
    values, ids = found.values[:, columns], found.channels[:, columns]
    size = np.abs(np.clip(values, -_LARGEST, _LARGEST))
    with np.errstate(divide="ignore"):
        shown = np.log10(size) if log else size
    shown = np.where(np.isneginf(shown), low, shown)
    scale = SEQUENTIAL
    if found.measure.least:
        scale = tuple((1 - at, color) for at, color in reversed(SEQUENTIAL))
    several = " (of a few neighbours, the farthest out)" if found.together > 1 else ""
    figure = go.Figure(
        go.Heatmap(
            z=shown.astype(np.float32), x=np.arange(columns.size), y=_rows(found), zmin=low,
            zmax=high if high > low else low + 1, hoverongaps=False,
            colorscale=[[at, css(color)] for at, color in scale],
            customdata=np.stack([values, ids], axis=-1).astype(np.float32),
            hovertemplate="channel %{customdata[1]:d}, %{y}: %{customdata[0]:.4g}"
            f"{several}<extra></extra>",
            colorbar=_bar(found, ends),
        )
    )  # fmt: skip
    _axes(figure, found, columns)
    height = 96 + max(150, min(16 * len(found.layers), 480))
    return framed(figure, height=height, legend=False, margin={"b": 52})


def _rows(found: ChannelMap) -> list[str]:
    """Return the names of the rows: the layer, with the block where a layer has several."""
    alone = len(set(found.layers)) == len(found.layers)
    return [
        f"layer {layer}" + ("" if alone else f", {escape(block)}")
        for layer, block in zip(found.layers, found.blocks, strict=True)
    ]


def _bar(found: ChannelMap, ends: tuple[float, float, bool]) -> dict[str, Any]:
    unit = "" if found.measure.unit in {"", "1"} else f", {found.measure.unit}"
    label = "|mean|" if found.measure.name == "mean" else found.measure.name
    bar: dict[str, Any] = {
        "title": {"text": escape(label + unit), "side": "right"}, "thickness": 12,
    }  # fmt: skip
    low, high, log = ends
    if log:
        powers = [float(p) for p in range(math.ceil(low), math.floor(high) + 1)]
        marks = powers[:: max(1, len(powers) // 5)] or [low, high]
        bar |= {"tickvals": marks, "ticktext": [f"{10.0**p:.3g}" for p in marks]}
    return bar


def _axes(figure: go.Figure, found: ChannelMap, columns: Int64[np.ndarray, " n"]) -> None:
    rows = _rows(found)
    marks = places(len(rows))
    figure.update_yaxes(
        autorange="reversed", type="category", tickvals=[rows[i] for i in marks],
        ticktext=[str(found.layers[i]) for i in marks], title="layer", showgrid=False,
    )  # fmt: skip
    sorted_ = bool(columns.size and not np.array_equal(columns, np.arange(columns.size)))
    if sorted_:
        figure.update_xaxes(title="channels, the ones that stand out first", showgrid=False)
        return
    at = places(columns.size, most=12)
    figure.update_xaxes(
        title="channel" if found.together == 1 else f"channel ({found.together} a column)",
        tickvals=at, ticktext=[f"{i * found.together:,}" for i in at], showgrid=False,
    )  # fmt: skip


# ---- sorted -----------------------------------------------------------------------------


def sorted_curves(
    sides: Sequence[tuple[str, str, Float[np.ndarray, " _"]]],
    *,
    name: str,
    unit: str,
    log: bool = True,
) -> go.Figure:
    """Return channels of one site by rank, the largest first, the rank on a log axis.

    Args:
        sides: title, colour and the magnitude of every channel of a run. Values that are
            zero, or unknown, are left out.
        name: what the magnitude is.
        unit: its unit.
        log: whether the magnitude has a log axis, too.
    """
    figure = go.Figure()
    for i, (title, color, values) in enumerate(sides):
        rank, height = ranked(np.asarray(values, np.float64))
        figure.add_scatter(
            x=rank.astype(np.float32), y=height.astype(np.float32), mode="lines",
            name=escape(title), line={"color": color, "width": 2,
                                      "dash": "dash" if i else "solid"},
            hovertemplate="rank %{x:.0f}: %{y:.4g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    title = escape(name + ("" if unit in {"", "1"} else f", {unit}"))
    figure.update_xaxes(title="rank of the channel (log scale)", type="log", dtick=1)
    if log:
        figure.update_yaxes(
            title=f"{title} (log scale)", type="log", exponentformat="e", nticks=8
        )
    else:
        figure.update_yaxes(title=title, rangemode="tozero")
    return framed(figure, height=320, legend=len(sides) > 1)


def ranked(
    values: Float64[np.ndarray, " n"],
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """Return (rank, magnitude) of at most 400 ranks, evenly apart on a log axis.

    >>> ranked(np.array([0.5, -4.0, 0.0, 2.0]))
    (array([1., 2., 3.]), array([4. , 2. , 0.5]))
    """
    size = np.abs(values[np.isfinite(values)])
    size = -np.sort(-size[size > 0])
    if not size.size:
        return np.zeros(0), np.zeros(0)
    at = np.unique(np.geomspace(1, size.size, min(_POINTS, size.size)).round().astype(int))
    return at.astype(np.float64), size[at - 1]


def kurtosis_curve(
    sides: Sequence[tuple[str, str, Sequence[int], Sequence[float]]],
) -> go.Figure:
    """Return the kurtosis of channel RMS by layer: name, colour, layers, values of a run.

    Dotted lines are LEVELS. The `customdata` of a point is its layer as text.
    """
    figure = go.Figure()
    for i, (name, color, layers, values) in enumerate(sides):
        figure.add_scatter(
            x=list(layers), y=[v if math.isfinite(v) else None for v in values],
            mode="lines+markers", name=escape(name),
            line={"color": color, "width": 2, "dash": "dash" if i else "solid"},
            marker={"symbol": "diamond" if i else "circle", "size": 7},
            customdata=[str(layer) for layer in layers],
            hovertemplate="layer %{x}: %{y:.3g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    top = max((v for *_, values in sides for v in values if math.isfinite(v)), default=1.0)
    shown = [level for level in LEVELS if level[0] <= 3 * top]
    figure.layout.shapes = [rule(y=level) for level, _ in shown]
    figure.layout.annotations = [
        {"x": 1, "xref": "paper", "xanchor": "right", "y": math.log10(level),
         "yanchor": "bottom", "text": f"{level:g}: {text}", "showarrow": False,
         "font": {"size": 11}}
        for level, text in shown
    ]  # fmt: skip
    whole = sorted({layer for _, _, layers, _ in sides for layer in layers})
    figure.update_xaxes(title="layer", tickvals=[whole[i] for i in places(len(whole))])
    figure.update_yaxes(title="kurtosis of channel RMS (log scale)", type="log", nticks=6)
    return framed(figure, height=280, legend=len(sides) > 1)
