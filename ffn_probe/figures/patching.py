"""What single blocks move of the model's final error, exchanged both ways."""

import math
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from ffn_probe.attribution.attribution import BlockAttribution, Interval
from ffn_probe.figures.canvas import framed, whiskers
from ffn_probe.figures.depth import by_layer, cover
from ffn_probe.figures.numbers import percent
from ffn_probe.figures.theme import CANDIDATE, REFERENCE

_HALF = 0.36  # of a slot: one of the two bars


def patching_chart(blocks: Sequence[BlockAttribution], *, chosen: str = "") -> go.Figure:
    """Return for every block the shares of the final error that its patches move.

    Blue: what goes when the reference's output of the block is put into the candidate;
    orange: what appears when the candidate's is put into the reference. A bar's `customdata`
    is the name of its block.
    """
    figure = go.Figure()
    sides = (
        ("removed: the reference's block in the candidate", REFERENCE, -1,
         [b.patched_back for b in blocks]),
        ("created: the candidate's block in the reference", CANDIDATE, 1,
         [b.patched_in for b in blocks]),
    )  # fmt: skip
    for name, color, shift, values in sides:
        scaled = [_scaled(value) for value in values]
        figure.add_bar(
            x=[i + shift * _HALF / 2 for i in range(len(blocks))],
            y=[v.value if v and math.isfinite(v.value) else None for v in scaled],
            width=_HALF, marker_color=color, name=name, error_y=whiskers(scaled),
            hoverinfo="skip",
        )  # fmt: skip
    known = [v.value for b in blocks for v in (b.patched_back, b.patched_in) if v]
    top = max([100.0, *(100 * v for v in known if math.isfinite(v))])
    figure.update_yaxes(title="share of the final error", ticksuffix=" %")
    if not any(v < 0 for v in known):
        figure.update_yaxes(range=[0, 1.05 * top])
    both = [
        f"{_words(b, b.patched_back)}<br>created: {_words(b, b.patched_in)}" for b in blocks
    ]
    cover(figure, blocks, [f"removed: {words}" for words in both], (0.0, 1.05 * top))
    by_layer(figure, blocks, chosen=chosen)
    return framed(figure, height=320, barmode="overlay", hovermode="closest")


def _scaled(value: Interval | None) -> Interval | None:
    if value is None:
        return None
    return Interval(100 * value.value, 100 * value.low, 100 * value.high)


def _words(block: BlockAttribution, value: Interval | None) -> str:
    where = f"layer {block.layer} {escape(block.block)}"
    if value is None:
        return f"{where}: not measured"
    if math.isnan(value.low):
        return f"{where}: {percent(value.value)}"
    return f"{where}: {percent(value.value)} ({percent(value.low)} to {percent(value.high)})"
