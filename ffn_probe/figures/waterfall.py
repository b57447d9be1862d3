"""The stages of one block: which of them injects the error, and what stands after it."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from ffn_probe.attribution.attribution import BlockAttribution, StageError
from ffn_probe.figures.canvas import FAINT, INK, framed
from ffn_probe.figures.levels import Levels
from ffn_probe.figures.numbers import decibels
from ffn_probe.figures.theme import CANDIDATE, REFERENCE

_HALF = 0.34  # of a slot: one of the two bars


def waterfall_chart(block: BlockAttribution) -> go.Figure:
    """Return the error stage by stage, in the order of the data flow.

    Orange bars are what a stage injects when it is fed by the reference, blue bars what has
    accumulated in the block on the reference's input, dashes the error end to end.
    """
    stages = block.stages
    axis = Levels.over(
        v for s in stages for v in (s.injected_db, s.accumulated_db, s.end_db, s.floor_db)
    )
    x, words = list(range(len(stages))), [_words(stage) for stage in stages]
    shared = {"text": words, "hovertemplate": "%{text}<extra></extra>"}
    figure = go.Figure()
    figure.add_bar(
        x=x, y=axis.heights([s.floor_db for s in stages]), base=axis.equal, width=1,
        marker={"color": FAINT, "line": {"width": 0}}, name="under the noise floor",
        textposition="none", **shared,
    )  # fmt: skip
    for name, color, shift, levels in (
        ("injected by the stage", CANDIDATE, -1, [s.injected_db for s in stages]),
        ("accumulated in the block", REFERENCE, 1, [s.accumulated_db for s in stages]),
    ):
        figure.add_bar(
            x=[place + shift * _HALF / 2 for place in x], y=axis.heights(levels),
            base=axis.equal, width=_HALF, marker={"color": color, "line": {"width": 0}},
            name=name, textposition="none", **shared,
        )  # fmt: skip
    figure.add_scatter(
        x=x, y=axis.places([s.end_db for s in stages]), mode="markers", name="end to end",
        marker={"symbol": "line-ew", "size": 44, "line": {"width": 2, "color": INK}}, **shared,
    )  # fmt: skip
    axis.draw(figure)
    figure.update_xaxes(
        tickvals=x, ticktext=[_label(stage) for stage in stages], showgrid=False,
        range=[-0.5, len(stages) - 0.5],
    )  # fmt: skip
    return framed(figure, height=330, barmode="overlay", hovermode="closest")


def culprit(stages: Sequence[StageError]) -> StageError | None:
    """Return the stage that injects the largest error above its floor, None for none."""
    told = [stage for stage in stages if stage.status == "drift"]
    return min(told, key=lambda stage: stage.injected_db, default=None)


def _label(stage: StageError) -> str:
    sign = " !" if stage.status == "drift" else ""
    return f"{escape(stage.stage)}{sign}<br>({escape(stage.role)})"


def _words(stage: StageError) -> str:
    return (
        f"{escape(stage.stage)} ({escape(stage.role)}): {escape(stage.status)}<br>"
        f"injected {decibels(stage.injected_db)} dB, accumulated "
        f"{decibels(stage.accumulated_db)} dB<br>"
        f"end to end {decibels(stage.end_db)} dB, floor {decibels(stage.floor_db)} dB"
    )
