"""Tokens by layer: how far the largest stands out, how large they are, where they sit."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from ffn_probe.figures.canvas import framed, places, rule
from ffn_probe.figures.theme import SEQUENTIAL, css
from ffn_probe.figures.tokens import SPIKES, STEPS, SiteTokens, TopValue, size_map

_LOWER = 0.2
"""How much lower the second run's marks are, in layers: they would lie over the first's."""

Line = tuple[str, str, Sequence[float]]
"""Title, colour and a number a layer."""


def by_layer(
    layers: Sequence[Sequence[int]],
    lines: Sequence[Line],
    title: str,
    *,
    levels: Sequence[tuple[float, str]] = (),
) -> go.Figure:
    """Return numbers by layer on a log axis, with dotted levels where they are in reach.

    The `customdata` of a point is its layer as text.

    Args:
        layers: of each line, the layers of its numbers.
        lines: the runs; a number that is zero or not finite is left out.
        title: of the axis, with the unit.
        levels: (value, what it means).
    """
    figure = go.Figure()
    for i, ((name, color, values), along) in enumerate(zip(lines, layers, strict=True)):
        known = [v if math.isfinite(v) and v > 0 else None for v in values]
        figure.add_scatter(
            x=list(along), y=known, mode="lines+markers", name=escape(name),
            line={"color": color, "width": 2, "dash": "dash" if i else "solid"},
            marker={"symbol": "diamond" if i else "circle", "size": 7},
            customdata=[str(layer) for layer in along],
            hovertemplate="layer %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    found = [v for _, _, values in lines for v in values if math.isfinite(v)]
    shown = [(v, text) for v, text in levels if v <= 4 * max(found, default=0.0)]
    figure.layout.shapes = [rule(y=level) for level, _ in shown]
    figure.layout.annotations = [
        {"x": 1, "xref": "paper", "xanchor": "right", "y": math.log10(level),
         "yanchor": "bottom", "text": f"{level:g}: {escape(text)}", "showarrow": False,
         "font": {"size": 11}}
        for level, text in shown
    ]  # fmt: skip
    whole = sorted({layer for along in layers for layer in along})
    figure.update_xaxes(title="layer", tickvals=[whole[i] for i in places(len(whole))])
    figure.update_yaxes(title=f"{title} (log scale)", type="log", nticks=7)
    return framed(figure, height=300, legend=len(lines) > 1)


def spike_chart(sides: Sequence[tuple[str, str, Sequence[SiteTokens]]]) -> go.Figure:
    """Return the largest over the median token by layer; of experts, the largest ratio."""
    lines, layers = [], []
    for name, color, sites in sides:
        best: dict[int, float] = {}
        for x in sites:
            best[x.site.layer] = max(best.get(x.site.layer, 0.0), x.spike)
        layers.append(list(best))
        lines.append((name, color, list(best.values())))
    return by_layer(layers, lines, "largest / median token", levels=SPIKES)


def size_chart(sites: Sequence[SiteTokens], *, low: int, high: int) -> go.Figure:
    """Return how large the tokens of each layer are: the share of them by absmax.

    Args:
        sites: of one role of one run; of several experts each has a row.
        low: the first half octave of the axis, the same for runs that are compared.
        high: the half octave behind the last.
    """
    bins, shares = size_map(sites)
    kept = np.zeros((len(sites), high - low))
    for i, at in enumerate(bins.tolist()):
        if low <= at < high:
            kept[:, at - low] = shares[:, i]
    z = np.where(kept > 0, np.log10(np.maximum(kept, 1e-12)), np.nan)
    names = [
        f"layer {x.site.layer}" + (f" expert {x.site.expert}" if x.site.expert >= 0 else "")
        for x in sites
    ]
    edges = 2.0 ** (np.arange(low, high) / STEPS)
    left, right = (np.broadcast_to(e, kept.shape) for e in (edges, edges * 2 ** (1 / STEPS)))
    data = np.stack([left, right, kept], axis=-1)
    figure = go.Figure(
        go.Heatmap(
            z=z.astype(np.float32), x=np.arange(high - low) + 0.5, y=names, zmin=-5, zmax=0,
            colorscale=[[at, css(color)] for at, color in SEQUENTIAL], hoverongaps=False,
            customdata=data.astype(np.float32),
            hovertemplate="%{y}: %{customdata[2]:.3%} of the tokens have a largest |x| of "
            "%{customdata[0]:.3g} to %{customdata[1]:.3g}<extra></extra>",
            colorbar={"title": {"text": "share of the tokens", "side": "right"},
                      "thickness": 12, "tickvals": [-5, -4, -3, -2, -1, 0],
                      "ticktext": ["1e-5", "1e-4", "1e-3", "1 %", "10 %", "100 %"]},
        )
    )  # fmt: skip
    marks = [i for i in range(low, high + 1) if i % STEPS == 0]
    marks = marks[:: max(1, math.ceil(len(marks) / 9))]
    figure.update_xaxes(
        title="largest |x| of a token, unit of the tensor (log scale)", showgrid=False,
        tickvals=[i - low for i in marks], range=[0, high - low],
        ticktext=[f"{2.0 ** (i / STEPS):.3g}" for i in marks],
    )  # fmt: skip
    rows = places(len(names))
    figure.update_yaxes(
        autorange="reversed", type="category", showgrid=False, title="layer",
        tickvals=[names[i] for i in rows],
        ticktext=[names[i].removeprefix("layer ") for i in rows],
    )  # fmt: skip
    height = 96 + max(150, min(16 * len(names), 560))
    return framed(figure, height=height, legend=False, margin={"b": 52})


def position_chart(sides: Sequence[tuple[str, str, Sequence[TopValue]]]) -> go.Figure:
    """Return how many of the largest values are at which position, by layer.

    The axis of positions is logarithmic from the first one on, where sinks are. A mark grows
    with the number of values at its place; the second run's marks are a little lower. Values
    of unknown position are left out.
    """
    figure = go.Figure()
    layers: set[int] = set()
    for i, (name, color, top) in enumerate(sides):
        found: dict[tuple[int, int], list[TopValue]] = {}
        for t in top:
            if t.position >= 0:
                found.setdefault((t.site.layer, t.position), []).append(t)
        layers |= {layer for layer, _ in found}
        counts = np.array([len(of) for of in found.values()], np.float32)
        figure.add_scatter(
            x=[position + 1 for _, position in found],
            y=[layer + _LOWER * i for layer, _ in found], mode="markers", name=escape(name),
            marker={"color": color, "opacity": 0.7, "symbol": "diamond" if i else "circle",
                    "size": 4 + 4 * np.sqrt(counts), "line": {"width": 0}},
            text=[_said(of) for of in found.values()],
            hovertemplate="%{text}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    last = max((t.position for _, _, top in sides for t in top), default=0)
    marks = [0, *(2**k - 1 for k in range(1, 24) if 2**k - 1 <= max(last, 7))]
    marks = marks[:: max(1, math.ceil(len(marks) / 14))]
    figure.update_xaxes(
        title="position in the sequence, tokens (log scale)", type="log",
        range=[-0.06, math.log10(max(last, 7) + 1) + 0.06], tickvals=[m + 1 for m in marks],
        ticktext=[f"{m:,}" for m in marks],
    )  # fmt: skip
    listed = sorted(layers)
    figure.update_yaxes(
        title="layer", tickvals=[listed[i] for i in places(len(listed))],
        range=[listed[-1] + 0.6, listed[0] - 0.6] if listed else None,
    )  # fmt: skip
    height = 130 + max(150, min(18 * len(listed), 640))
    return framed(figure, height=height, legend=len(sides) > 1)


def _said(of: Sequence[TopValue]) -> str:
    """Return the values at one place in words, the largest first."""
    first = of[0]
    lines = [f"layer {first.site.layer}, position {first.position:,}: {len(of)} of the largest"]
    for t in sorted(of, key=lambda t: -abs(t.value))[:4]:
        token = f" {escape(t.text)}" if t.text else ""
        lines.append(
            f"{t.value:.4g} ({t.times:.3g} times the median), channel {t.channel}, token{token}"
        )
    return "<br>".join(lines)
