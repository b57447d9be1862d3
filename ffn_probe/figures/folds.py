"""The changes of single folds beside what one fold does without any change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ffn_probe.compare import Change
from ffn_probe.compare.fold_changes import FoldChange, Numbers
from ffn_probe.figures.canvas import FAINT, INK, empty, framed
from ffn_probe.figures.numbers import number
from ffn_probe.figures.theme import CANDIDATE, REFERENCE

MOST = 8
"""Statistics that are drawn: those with the largest changes."""

_UP, _DOWN, _SPREAD = 0.22, -0.22, 0.09  # of a row: where dots lie, and how far apart
_TICKS = (1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 1e3, 1e4)


@dataclass(frozen=True, slots=True, eq=False)
class FoldRow:
    """One statistic: its change, the same in each fold, and an interval (None: unknown)."""

    change: Change
    folds: FoldChange
    interval: tuple[float, float] | None

    def scaled(self, values: Numbers) -> Numbers:
        """Return values in multiples of the practical threshold."""
        return np.asarray(values / self.change.threshold)


def fold_rows(
    changes: Sequence[Change],
    folds: Mapping[str, FoldChange],
    intervals: Mapping[str, tuple[float, float]],
) -> tuple[FoldRow, ...]:
    """Return the changes that single folds can tell, the worst first, at most 8."""
    found = [
        FoldRow(change, folds[change.statistic], intervals.get(change.statistic))
        for change in sorted(changes, key=lambda c: c.severity, reverse=True)
        if change.statistic in folds and change.threshold > 0 and math.isfinite(change.value)
    ]
    return tuple(found[:MOST])


def folds_chart(rows: Sequence[FoldRow], *, paired: bool) -> go.Figure:
    """Return one row a statistic, in multiples of its practical threshold.

    Orange dots: the change in each fold. Blue dots: each fold of the reference against its
    other folds, which is what one fold does by chance. Grey: the noise floor of the whole
    comparison. Diamond: the change of the whole, with its interval.
    """
    if not rows:
        return empty("Single folds tell nothing here: there are fewer than two.")
    figure = go.Figure()
    across = "same inputs, A to B" if paired else "all of A to a fold of B"
    _dots(figure, rows, "within", REFERENCE, _DOWN, "A: a fold against the others")
    _dots(figure, rows, "across", CANDIDATE, _UP, f"each fold: {across}")
    _wholes(figure, rows)
    framed(
        figure, height=120 + 44 * len(rows), margin={"l": 130, "t": 60}, shapes=_shapes(rows)
    )
    reach = _reach(rows)
    marks = [t for t in _TICKS if t <= reach]
    marks = [t for t in marks if len(marks) < 6 or t in {1.0, 10.0, 100.0, 1e4}]
    values = [*(-m for m in reversed(marks)), 0.0, *marks]
    end = _place(reach) * 1.05
    figure.update_xaxes(
        title="change, in multiples of the practical threshold (dotted)", range=[-end, end],
        tickvals=[_place(v) for v in values], ticktext=[number(v) for v in values],
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[row.change.statistic for row in rows],
        range=[len(rows) - 0.5, -0.5], showgrid=False,
    )  # fmt: skip
    return figure


def _shapes(rows: Sequence[FoldRow]) -> list[dict[str, Any]]:
    """Return the floors as bands, and the threshold as dotted lines on both sides."""
    found: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if row.change.floor is not None:
            half = _place(row.change.floor / row.change.threshold)
            found.append({
                "type": "rect", "x0": -half, "x1": half, "y0": i - 0.4, "y1": i + 0.4,
                "fillcolor": FAINT, "line": {"width": 0}, "layer": "below",
            })  # fmt: skip
    line = {"color": INK, "width": 1, "dash": "dot"}
    found += [
        {
            "type": "line",
            "x0": edge,
            "x1": edge,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": line,
        }
        for edge in (_place(-1.0), _place(1.0))
    ]
    return found


def _place(multiple: float) -> float:
    """Return where a multiple of the threshold lies: linear up to 1, logarithmic beyond."""
    return math.asinh(multiple)


def _reach(rows: Sequence[FoldRow]) -> float:
    """Return the largest multiple that is drawn."""
    found = [1.5]
    for row in rows:
        parts = [row.folds.across, row.folds.within, np.array([row.change.value])]
        parts += [np.array(row.interval)] if row.interval else []
        scaled = np.abs(row.scaled(np.concatenate(parts)))
        found.append(float(scaled[np.isfinite(scaled)].max(initial=0.0)))
    return min(max(found), 1e6)


def _dots(
    figure: go.Figure, rows: Sequence[FoldRow], which: str, color: str, off: float, name: str
) -> None:
    x: list[float] = []
    y: list[float] = []
    said: list[str] = []
    for i, row in enumerate(rows):
        values: Numbers = getattr(row.folds, which)
        ids = row.folds.folds if which == "across" else row.folds.own
        spread = np.linspace(-_SPREAD, _SPREAD, values.size) if values.size > 1 else [0.0]
        for fold, value, multiple, rise in zip(
            ids, values.tolist(), row.scaled(values).tolist(), spread, strict=True
        ):
            if math.isfinite(multiple):
                x.append(_place(multiple))
                y.append(i - off + float(rise))
                said.append(_said(row.change, f"fold {fold}", value))
    figure.add_scatter(
        x=np.array(x, np.float32), y=np.array(y, np.float32), mode="markers", name=name,
        marker={"color": color, "size": 6, "opacity": 0.75}, text=said,
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )  # fmt: skip


def _wholes(figure: go.Figure, rows: Sequence[FoldRow]) -> None:
    """Draw the change of the whole, and its interval."""
    places = [_place(row.change.value / row.change.threshold) for row in rows]
    ends = [
        [_place(end / row.change.threshold) for end in row.interval or [row.change.value] * 2]
        for row in rows
    ]
    figure.add_scatter(
        x=places, y=list(range(len(rows))), mode="markers", name="the whole, 95 % interval",
        marker={"symbol": "diamond", "size": 10, "color": INK},
        error_x={
            "type": "data", "symmetric": False, "color": INK, "thickness": 2, "width": 5,
            "array": [e[1] - at for e, at in zip(ends, places, strict=True)],
            "arrayminus": [at - e[0] for e, at in zip(ends, places, strict=True)],
        },
        text=[_said(row.change, "the whole", row.change.value) for row in rows],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _said(change: Change, what: str, value: float) -> str:
    unit = "" if change.unit == "1" else f" {change.unit}"
    multiple = number(value / change.threshold, signed=True)
    return escape(
        f"{change.statistic}, {what}: {number(value, signed=True)}{unit}, "
        f"{multiple} times the threshold"
    )
