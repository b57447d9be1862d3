"""The 2 x 2 as lines: parallel where two factors add, crossing where they do not."""

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from ffn_probe.figures.canvas import framed
from ffn_probe.figures.factorial import Level
from ffn_probe.figures.numbers import number
from ffn_probe.figures.theme import CANDIDATE, REFERENCE

_FAINT = 0.35


def interaction_chart(
    cells: Mapping[str, Sequence[Level]],
    *,
    norms: Sequence[str],
    activations: Sequence[str],
    label: str,
) -> go.Figure:
    """Return the mean over layers of each cell (thick) and every layer (thin).

    Args:
        cells: "v00", "v10", "v01", "v11" -> the levels of a cell; cells may be missing.
        norms: one or two norms: a line each.
        activations: one or two activations: the places on the x axis.
        label: what was measured, with its unit.
    """
    figure = go.Figure()
    for i, (norm, color, dash) in enumerate(
        zip(norms, (REFERENCE, CANDIDATE), ("solid", "dash"), strict=False)
    ):
        sides = [cells.get(f"v{i}{j}", ()) for j in range(len(activations))]
        x, y, words = _thin(sides, norm)
        figure.add_scatter(
            x=x, y=y, mode="lines+markers", showlegend=False, opacity=_FAINT, hovertext=words,
            line={"color": color, "width": 1, "dash": dash}, marker={"size": 5},
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
        means = [_mean(side) for side in sides]
        figure.add_scatter(
            x=list(range(len(activations))), y=means, mode="lines+markers",
            name=f"{escape(norm)} (mean of layers)",
            line={"color": color, "width": 3, "dash": dash}, marker={"size": 10},
            hovertext=[f"{escape(norm)}, mean of the layers: {number(v)}" for v in means],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(activations))), range=[-0.3, len(activations) - 0.7],
        ticktext=[escape(name) for name in activations],
        showgrid=False, title="activation",
    )  # fmt: skip
    figure.update_yaxes(title=escape(label), nticks=6)
    return framed(figure, height=360)


def _thin(
    sides: Sequence[Sequence[Level]], norm: str
) -> tuple[list[float | None], list[float | None], list[str]]:
    """Return the lines of all layers as one, with gaps between: x, y and words."""
    x: list[float | None] = []
    y: list[float | None] = []
    words: list[str] = []
    for layer in sorted({level.layer for side in sides for level in side}):
        values = [_value(side, layer) for side in sides]
        x += [*(float(j) for j in range(len(sides))), None]
        y += [*values, None]
        words += [
            f"{escape(norm)}, layer {layer}: {number(value)}" for value in (*values, None)
        ]
    return x, y, words


def _value(side: Sequence[Level], layer: int) -> float | None:
    return next((level.value for level in side if level.layer == layer), None)


def _mean(side: Sequence[Level]) -> float | None:
    return sum(level.value for level in side) / len(side) if side else None
