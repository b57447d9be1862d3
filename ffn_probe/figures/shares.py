"""Bars with intervals: shares of an error, effects of swaps."""

import math
from collections.abc import Callable, Sequence
from html import escape

import plotly.graph_objects as go

from ffn_probe.attribution.attribution import Interval
from ffn_probe.figures.canvas import framed, rule, whiskers
from ffn_probe.figures.numbers import number, percent
from ffn_probe.figures.theme import CANDIDATE

_ROW = 34  # px


def shares_chart(
    rows: Sequence[tuple[str, Interval]],
    *,
    unit: str,
    share: bool = True,
    hollow: bool = False,
) -> go.Figure:
    """Return horizontal bars with their 95 % intervals, the first row on top.

    Args:
        rows: label and value; a value that is NaN has no bar.
        unit: what stands under the axis.
        share: whether the values are shares: per cent, and an axis that holds 0 and 1.
        hollow: draw outlines: the parts cannot be told apart.
    """
    scale, write = (100.0, percent) if share else (1.0, number)
    values = [_scaled(value, scale) for _, value in rows]
    known = [
        v for item in values for v in (item.value, item.low, item.high) if math.isfinite(v)
    ]
    low, high = min([0.0, *known]), max([scale if share else 0.0, *known])
    pad = 0.16 * (high - low or 1.0)
    fill = "rgba(0,0,0,0)" if hollow else CANDIDATE
    words = [f"{escape(label)}: {_said(v, write)}" for label, v in rows]
    figure = go.Figure(
        go.Bar(
            y=list(range(len(rows))),
            x=[v.value if math.isfinite(v.value) else None for v in values],
            orientation="h", width=0.56, error_x=whiskers(values),
            marker={"color": fill, "line": {"color": CANDIDATE, "width": 1.6}},
            hovertext=words, hovertemplate="%{hovertext}<extra></extra>",
        )
    )  # fmt: skip
    figure.layout.annotations = [
        {"x": _end(value), "y": i, "text": write(told.value), "showarrow": False,
         "xanchor": "left", "xshift": 6}
        for i, (value, (_, told)) in enumerate(zip(values, rows, strict=True))
    ]  # fmt: skip
    figure.layout.shapes = [rule(x=0.0, dash="solid")]
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[_cut(label) for label, _ in rows],
        range=[len(rows) - 0.5, -0.5], showgrid=False,
    )  # fmt: skip
    figure.update_xaxes(
        title=escape(unit), range=[low - (pad / 4 if low < 0 else 0), high + pad],
        ticksuffix=" %" if share else "",
    )  # fmt: skip
    left = 24 + 7 * max((len(_cut(label)) for label, _ in rows), default=0)
    return framed(figure, height=86 + _ROW * max(len(rows), 1), legend=False,
                  margin={"l": max(left, 90)})  # fmt: skip


def _end(value: Interval) -> float:
    """Return where a bar and its interval end on the right."""
    return max([0.0, *(v for v in (value.value, value.high) if math.isfinite(v))])


def _scaled(value: Interval, scale: float) -> Interval:
    return Interval(scale * value.value, scale * value.low, scale * value.high)


def _said(value: Interval, write: Callable[[float], str]) -> str:
    shown = write(value.value)
    if math.isnan(value.low):
        return f"{shown} (no interval: too few folds)"
    return f"{shown} ({write(value.low)} to {write(value.high)})"


def _cut(label: str) -> str:
    line = " ".join(label.split())
    return escape(line if len(line) <= 32 else line[:31] + "\u2026")
