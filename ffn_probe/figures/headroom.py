"""The largest values by layer against the largest numbers of formats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import plotly.graph_objects as go

from ffn_probe.figures.canvas import INK, framed, places
from ffn_probe.figures.numbers import number
from ffn_probe.figures.site_formats import SiteFormats
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.formats import FORMATS
from ffn_probe.runs import Run

LIMITS: Mapping[str, float] = {
    name: FORMATS[name].max for name in ("e4m3fn", "e5m2", "fp16", "bf16")
}
"""The largest number of each format, without a scale."""

_ROOM = 30.0  # a limit so many times beyond the largest value is named, not drawn


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest value of a layer over some roles, where it is, and its 99.9 % quantile.

    The quantile is NaN until `with_quantiles` reads the histogram of the site.
    """

    layer: int
    role: str
    name: str
    absmax: float
    p99_9: float


def peaks(sites: Sequence[SiteFormats]) -> tuple[Peak, ...]:
    """Return the site with the largest |x| of every layer, by layer."""
    worst: dict[int, SiteFormats] = {}
    for site in sites:
        old = worst.get(site.site.layer)
        if site.absmax > 0 and (old is None or site.absmax > old.absmax):
            worst[site.site.layer] = site
    return tuple(
        Peak(layer, s.site.role, s.site.name, s.absmax, s.p99_9)
        for layer, s in sorted(worst.items())
    )


def with_quantiles(run: Run, found: Sequence[Peak]) -> tuple[Peak, ...]:
    """Return the peaks with the 99.9 % quantile of |x| at their sites."""
    return tuple(
        replace(peak, p99_9=float(run.histogram(peak.name).abs_quantile(0.999)))
        for peak in found
    )


def headroom_chart(sides: Sequence[tuple[str, Sequence[Peak]]]) -> go.Figure:
    """Return absmax (solid) and p99.9 (dotted) by layer, one run blue, a second one orange."""
    layers = sorted({peak.layer for _, found in sides for peak in found})
    at = {layer: i for i, layer in enumerate(layers)}
    figure = go.Figure()
    many = len(sides) > 1
    for (name, found), color in zip(sides, (REFERENCE, CANDIDATE), strict=False):
        before = f"{escape(name)} " if many else ""
        words = [_words(peak) for peak in found]
        for said, values, dash, symbol in (
            ("largest |x|", [p.absmax for p in found], "solid", "circle"),
            (
                "p99.9 of |x|",
                [p.p99_9 if p.p99_9 > 0 else None for p in found],
                "dot",
                "circle-open",
            ),
        ):
            figure.add_scatter(
                x=[at[peak.layer] for peak in found], y=values, mode="lines+markers",
                name=before + said, line={"color": color, "width": 2, "dash": dash},
                marker={"size": 7, "symbol": symbol}, text=words,
                customdata=[peak.name for peak in found],
                hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
    top = max((p.absmax for _, found in sides for p in found), default=1.0)
    low = min(
        (v for _, f in sides for p in f for v in (p.absmax, p.p99_9) if v > 0), default=0.1
    )
    drawn = {n: v for n, v in LIMITS.items() if v <= max(_ROOM * top, LIMITS["e4m3fn"])}
    high = max([top, *drawn.values()])
    figure.layout.shapes = [_line(value) for value in drawn.values()]
    figure.layout.annotations = [_name(name, value) for name, value in drawn.items()]
    shown = places(len(layers))
    figure.update_xaxes(
        title="layer", tickvals=shown, ticktext=[str(layers[i]) for i in shown], showgrid=False,
        range=[-0.5, max(len(layers), 1) - 0.5],
    )  # fmt: skip
    figure.update_yaxes(
        title="|x|, unit of the tensor (log scale)", type="log", exponentformat="power",
        dtick=1,
        range=[math.log10(low) - 0.2, math.log10(high) + 0.25],
    )  # fmt: skip
    return framed(figure, height=380, hovermode="closest", margin={"r": 110})


def _above_zero(value: float) -> float | None:
    return value if value > 0 else None


def beyond(found: Sequence[Peak]) -> tuple[str, ...]:
    """Return the formats whose limit a value of these layers is over."""
    top = max((peak.absmax for peak in found), default=0.0)
    return tuple(name for name, limit in LIMITS.items() if top > limit)


def _line(value: float) -> dict[str, Any]:
    return {"type": "line", "y0": value, "y1": value, "xref": "paper", "x0": 0, "x1": 1,
            "line": {"color": INK, "width": 1.4, "dash": "dash"}}  # fmt: skip


def _name(name: str, value: float) -> dict[str, Any]:
    # fp16 (65504) and e5m2 (57344) lie on each other: one is named above, one below.
    side = {"e5m2": "top", "fp16": "bottom"}.get(name, "middle")
    text = f"{name} {value:.6g}" if value < 1e6 else f"{name} {value:.2g}"
    return {"xref": "paper", "x": 1, "xanchor": "left", "xshift": 4, "yanchor": side,
            "y": math.log10(value), "showarrow": False, "font": {"size": 11},
            "text": text}  # fmt: skip


def _words(peak: Peak) -> str:
    rooms = ", ".join(f"{n} {number(limit / peak.absmax)}" for n, limit in LIMITS.items())
    return (
        f"layer {peak.layer} {escape(peak.role)}: largest |x| {number(peak.absmax)}, p99.9 "
        f"{number(peak.p99_9)}<br>times below the limit of {rooms}"
    )
