"""Hypotheses of a bug: predicted, measured and what the fix leaves, beside the floor."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from ffn_probe.attribution.attribution import Hypothesis
from ffn_probe.figures.canvas import INK, framed
from ffn_probe.figures.levels import LEVEL, Levels
from ffn_probe.figures.numbers import decibels
from ffn_probe.figures.theme import CANDIDATE, REFERENCE

MOST = 16
"""Hypotheses in the picture; the table holds the others."""

_ROW = 30  # px


def ranked(hypotheses: Sequence[Hypothesis]) -> tuple[Hypothesis, ...]:
    """Return those that reach the floor first, then by what their fix leaves, best first."""
    return tuple(
        sorted(hypotheses, key=lambda h: (not h.reached, -_or_worst(h.after_db), h.layer))
    )


def hypotheses_chart(hypotheses: Sequence[Hypothesis]) -> go.Figure:
    """Return one row a hypothesis: a fit has its last dot beyond the floor, on the right."""
    shown = ranked(hypotheses)[:MOST]
    axis = Levels.over(
        v for h in shown for v in (h.predicted_db, h.measured_db, h.after_db, h.floor_db)
    )
    y, words = list(range(len(shown))), [_words(h) for h in shown]
    figure = go.Figure()
    for name, levels, marker in (
        ("measured", [h.measured_db for h in shown],
         {"symbol": "circle", "size": 11, "color": CANDIDATE}),
        ("predicted", [h.predicted_db for h in shown],
         {"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": INK}}),
        ("after the fix", [h.after_db for h in shown],
         {"symbol": "diamond", "size": 12, "color": REFERENCE}),
        ("floor", [h.floor_db for h in shown],
         {"symbol": "line-ns", "size": 18, "line": {"width": 2, "color": INK}}),
    ):  # fmt: skip
        figure.add_scatter(
            x=axis.places(levels), y=y, mode="markers", name=name, marker=marker, text=words,
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    axis.draw(figure)
    scale = figure.layout.yaxis
    figure.update_xaxes(
        title=LEVEL.replace("worse upward", "further right is closer to the reference"),
        tickvals=scale.tickvals, ticktext=scale.ticktext,
        range=[axis.worst - 2, axis.equal + 0.04 * (axis.equal - axis.worst)],
    )  # fmt: skip
    figure.update_yaxes(
        title="", tickvals=y, ticktext=[_label(h) for h in shown],
        range=[len(shown) - 0.5, -0.5],
    )  # fmt: skip
    return framed(figure, height=110 + _ROW * max(len(shown), 1), margin={"l": 290})


def _label(found: Hypothesis) -> str:
    sign = "\u2713 fits: " if found.reached else ""
    line = f"{sign}{' '.join(found.name.split())}, layer {found.layer}"
    return escape(line if len(line) <= 46 else line[:45] + "\u2026")


def _words(found: Hypothesis) -> str:
    return (
        f"{escape(found.name)}, layer {found.layer} {escape(found.block)}<br>"
        f"predicted {decibels(found.predicted_db)} dB, measured "
        f"{decibels(found.measured_db)} dB<br>after the fix {decibels(found.after_db)} dB, "
        f"floor {decibels(found.floor_db)} dB"
    )


def _or_worst(level: float) -> float:
    return level if level == level else float("-inf")  # noqa: PLR0124 - NaN
