"""Tokens by layer: how far the largest stands out, how large they are, where they sit."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from ffn_probe.figures.canvas import framed, places, rule
from ffn_probe.figures.theme import SEQUENTIAL, css
from ffn_probe.figures.tokens import SPIKES, STEPS, SiteTokens, TopValue, size_map

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
    height = 96 + max(150, min(16 * len(names), 900))
    return framed(figure, height=height, legend=False, margin={"b": 52})


def position_chart(sides: Sequence[tuple[str, str, Sequence[TopValue]]]) -> go.Figure:
    """Return the largest values by position in their sequence and by layer.

    Marks grow with |value| over the median of their site; those of unknown position are left
    out.
    """
    figure = go.Figure()
    layers: set[int] = set()
    for i, (name, color, top) in enumerate(sides):
        placed = [t for t in top if t.position >= 0]
        layers |= {t.site.layer for t in placed}
        times = np.array([min(t.times, 1e6) for t in placed])
        figure.add_scatter(
            x=[t.position for t in placed], y=[t.site.layer for t in placed], mode="markers",
            name=escape(name),
            marker={"color": color, "opacity": 0.55, "symbol": "diamond" if i else "circle",
                    "size": (5 + 3 * np.log10(np.maximum(times, 1))).astype(np.float32),
                    "line": {"width": 0}},
            text=[_said(t) for t in placed], hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    listed = sorted(layers)
    last = max((t.position for _, _, top in sides for t in top), default=0)
    pad = 0.5 + 0.01 * max(last, 0)
    figure.update_xaxes(
        title="position in the sequence, tokens", range=[-pad, max(last, 8) + pad],
        tickformat=",d",
    )  # fmt: skip
    figure.update_yaxes(
        title="layer", autorange="reversed", tickvals=[listed[i] for i in places(len(listed))]
    )
    height = 130 + max(150, min(14 * len(listed), 900))
    return framed(figure, height=height, legend=len(sides) > 1)


def _said(t: TopValue) -> str:
    token = f" {escape(t.text)}" if t.text else ""
    return (
        f"layer {t.site.layer}, position {t.position}: {t.value:.4g}<br>channel {t.channel}, "
        f"token{token} ({t.token}), {t.times:.3g} times the median"
    )
