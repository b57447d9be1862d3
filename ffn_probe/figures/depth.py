"""Every block of a paired run by depth: levels of error, and likeness where none pairs."""

import math
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from ffn_probe.attribution.attribution import BlockAttribution
from ffn_probe.figures.canvas import FAINT, INK, framed, places, rule
from ffn_probe.figures.levels import Levels
from ffn_probe.figures.numbers import decibels
from ffn_probe.figures.theme import CANDIDATE, REFERENCE

_SLIM = 0.62  # of a slot: a bar


def depth_chart(blocks: Sequence[BlockAttribution], *, chosen: str = "") -> go.Figure:
    """Return the error of every block at its output, by depth.

    Bars are the block's own (local) error, dots what it inherits, the dashed line the error
    end to end, the grey zone what the noise floor hides. A point's `customdata` is the name of
    its block; the one named `chosen` is marked on the axis.
    """
    axis = Levels.over(
        v for b in blocks for v in (b.local_db, b.inherited_db, b.end_db, b.floor_db)
    )
    x, words = list(range(len(blocks))), [_words(block) for block in blocks]
    shared = {"x": x, "customdata": [b.block for b in blocks], "text": words,
              "hovertemplate": "%{text}<extra></extra>"}  # fmt: skip
    figure = go.Figure()
    for name, levels, width, color in (
        ("under the noise floor", [b.floor_db for b in blocks], 1.0, FAINT),
        ("local: the block's own error", [b.local_db for b in blocks], _SLIM, CANDIDATE),
    ):
        figure.add_bar(
            y=axis.heights(levels), base=axis.equal, width=width, name=name,
            marker={"color": color, "line": {"width": 0}}, textposition="none", **shared,
        )  # fmt: skip
    figure.add_scatter(
        y=axis.places([b.end_db for b in blocks]), mode="lines", name="end to end",
        line={"color": INK, "width": 1.6, "dash": "dash"}, **shared,
    )  # fmt: skip
    figure.add_scatter(
        y=axis.places([b.inherited_db for b in blocks]), mode="lines+markers",
        name="inherited from the blocks before",
        line={"color": REFERENCE, "width": 2}, marker={"size": 7}, **shared,
    )  # fmt: skip
    axis.draw(figure)
    cover(figure, blocks, words, (axis.equal, axis.worst))
    by_layer(figure, blocks, chosen=chosen)
    _unknown(figure, blocks, axis.equal)
    return framed(figure, height=360, barmode="overlay", hovermode="closest")


def likeness_chart(blocks: Sequence[BlockAttribution], *, chosen: str = "") -> go.Figure:
    """Return the CKA of every pair of blocks by depth, for blocks that pair in no other way."""
    figure = go.Figure(
        go.Bar(
            x=list(range(len(blocks))), y=[_known(b.cka) for b in blocks], width=_SLIM,
            marker_color=CANDIDATE, customdata=[b.block for b in blocks],
            hoverinfo="skip",
        )
    )  # fmt: skip
    figure.update_yaxes(title="linear CKA (1: alike)", range=[0, 1.02])
    words = [f"layer {b.layer} {escape(b.block)}: CKA {_two(b.cka)}" for b in blocks]
    cover(figure, blocks, words, (0.0, 1.0))
    by_layer(figure, blocks, chosen=chosen)
    return framed(figure, height=280, legend=False, barmode="overlay")


def cover(
    figure: go.Figure,
    blocks: Sequence[BlockAttribution],
    words: Sequence[str],
    ends: tuple[float, float],
) -> None:
    """Let the whole slot of a block answer to the pointer, from end to end of the y axis."""
    low, high = ends
    figure.add_bar(
        x=list(range(len(blocks))), y=[high - low] * len(blocks), base=low, width=1, opacity=0,
        showlegend=False, customdata=[b.block for b in blocks], hovertext=list(words),
        hovertemplate="%{hovertext}<extra></extra>", name="",
    )  # fmt: skip


def by_layer(
    figure: go.Figure, blocks: Sequence[BlockAttribution], *, chosen: str = ""
) -> None:
    """Give the figure an x axis of layers, one slot a block; the chosen one is in brackets."""
    shown = places(len(blocks))
    at = next((i for i, block in enumerate(blocks) if block.block == chosen), -1)
    if at >= 0:  # the labels beside it make room
        near = max(1, (shown[1] - shown[0]) // 2 if len(shown) > 1 else 1)
        shown = sorted({i for i in shown if abs(i - at) >= near} | {at})
        figure.layout.shapes = [rule(x=at - 0.5), rule(x=at + 0.5)]
    figure.update_xaxes(
        title="layer", tickvals=shown, showgrid=False, range=[-0.5, len(blocks) - 0.5],
        ticktext=[f"[{blocks[i].layer}]" if i == at else str(blocks[i].layer) for i in shown],
    )  # fmt: skip


def _unknown(figure: go.Figure, blocks: Sequence[BlockAttribution], y: float) -> None:
    """Mark the blocks of which no level is known."""
    lost = [i for i, b in enumerate(blocks) if math.isnan(b.local_db) and math.isnan(b.end_db)]
    if lost:
        figure.add_scatter(
            x=lost, y=[y] * len(lost), mode="text", text=["?"] * len(lost), showlegend=False,
            textposition="top center", hoverinfo="skip",
        )  # fmt: skip


def _words(block: BlockAttribution) -> str:
    return (
        f"layer {block.layer} {escape(block.block)}: {escape(block.status)}<br>"
        f"local {decibels(block.local_db)} dB, inherited {decibels(block.inherited_db)} dB<br>"
        f"end to end {decibels(block.end_db)} dB, floor {decibels(block.floor_db)} dB"
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _two(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "not known"
