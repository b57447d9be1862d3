"""Crest factors against the laws of int8 and e4m3: which of the two a site should take."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ffn_probe.attribution.theory import float_law_db
from ffn_probe.figures.canvas import INK, framed, rule
from ffn_probe.figures.numbers import decibels, number
from ffn_probe.figures.site_formats import SiteFormats
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.formats import int8_sqnr_db

_NAMED = 6  # sites whose name stands beside their point
_AWAY = ((24, -22), (-34, 26), (24, -44), (-34, 48), (60, -30), (-70, 34))
"""Pixels from a point to its name, in turn, so that the names of neighbours part."""

E4M3_DB = float_law_db("e4m3fn")
"""SQNR of e4m3 on any smooth density within its range: 31.5 dB, whatever the crest."""

CROSSOVER = 10 ** ((int8_sqnr_db(1.0) - E4M3_DB) / 20)
"""The crest factor above which e4m3 keeps more than int8 at the same granularity: 11.7."""


def level_of(site: SiteFormats, key: str) -> tuple[float, str]:
    """Return the SQNR of a format in dB and how it is known: measured, else predicted."""
    measured = site.level(key)
    if not math.isnan(measured):
        return measured, "measured"
    return site.level(key, "predicted"), "predicted"


def crest_chart(sides: Sequence[tuple[str, Sequence[SiteFormats]]]) -> go.Figure:
    """Return every site by its crest factor and what int8 and e4m3 (a scale a tensor) keep.

    Args:
        sides: name and sites of one run, or of two (the second is drawn in orange).
    """
    crests = [s.crest for _, sites in sides for s in sites if s.crest > 0]
    known = [c for c in crests if math.isfinite(c)]
    low, high = min([2.0, *known]) / 1.15, max([40.0, *known]) * 1.25
    figure = go.Figure()
    line = np.geomspace(low, high, 64)
    law = [int8_sqnr_db(float(c)) for c in line]
    figure.add_scatter(
        x=line.astype(np.float32), y=law, mode="lines",
        name="law of int8: 52.87 - 20 log10(crest)",
        line={"color": INK, "width": 1.5}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=[low, high], y=[E4M3_DB] * 2, mode="lines", name=f"law of e4m3: {E4M3_DB:.1f} dB",
        line={"color": INK, "width": 1.5, "dash": "dash"}, hoverinfo="skip",
    )  # fmt: skip
    many = len(sides) > 1
    for (name, sites), color in zip(sides, (REFERENCE, CANDIDATE), strict=False):
        for key, symbol in (("int8:tensor", "circle"), ("e4m3fn:tensor", "diamond-open")):
            figure.add_scatter(**_points(sites, key, symbol, color, name if many else ""))
    figure.layout.shapes = [rule(x=CROSSOVER)]
    figure.layout.annotations = [
        _note(
            CROSSOVER, f"int8 keeps more \u2190 crest {CROSSOVER:.1f} \u2192 e4m3 keeps more"
        ),
        *_names(sides),
    ]
    figure.update_xaxes(
        title="crest factor, largest |x| / RMS (log scale)", type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=[t for t in (2, 3, 5, 10, 20, 50, 100, 200, 500, 1e3, 1e4) if low < t < high],
    )  # fmt: skip
    figure.update_yaxes(title="SQNR, dB")
    framed(figure, height=440, hovermode="closest", margin={"t": 84})
    figure.layout.legend.y = 1.07  # above the words of the crossover
    return figure


def _points(
    sites: Sequence[SiteFormats], key: str, symbol: str, color: str, name: str
) -> dict[str, Any]:
    found = [(s, *level_of(s, key)) for s in sites]
    kept = [(s, db, how) for s, db, how in found if math.isfinite(db) and s.crest > 0]
    size = 6 if len(kept) > 150 else 9
    return {
        "x": [s.crest for s, _, _ in kept], "y": [db for _, db, _ in kept], "mode": "markers",
        "marker": {"symbol": symbol, "size": size, "color": color, "line": {"width": 1.4}},
        "name": f"{escape(name)} {key}".strip(),
        "customdata": [s.site.name for s, _, _ in kept],
        "text": [
            f"layer {s.site.layer} {escape(s.site.role)}{_expert(s)}<br>{key}, {how}: "
            f"{decibels(db)} dB<br>crest {number(s.crest)}, largest |x| {number(s.absmax)}"
            for s, db, how in kept
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _names(sides: Sequence[tuple[str, Sequence[SiteFormats]]]) -> list[dict[str, Any]]:
    """Return the names of the sites with the largest crest factors, beside their int8 point."""
    every = [s for _, sites in sides for s in sites if 0 < s.crest < math.inf]
    notes: list[dict[str, Any]] = []
    for site in sorted(every, key=lambda s: -s.crest)[:_NAMED]:
        level, _ = level_of(site, "int8:tensor")
        if math.isfinite(level):
            away = _AWAY[len(notes) % len(_AWAY)]
            notes.append({
                "x": math.log10(site.crest), "y": level, "ax": away[0], "ay": away[1],
                "arrowhead": 0,
                "arrowwidth": 0.8, "arrowcolor": INK, "font": {"size": 11},
                "text": f"{escape(site.site.role)} {site.site.layer}",
            })  # fmt: skip
    return notes


def _note(crest: float, words: str) -> dict[str, Any]:
    return {"x": math.log10(crest), "y": 1, "yref": "paper", "yanchor": "bottom",
            "showarrow": False, "text": words, "font": {"size": 11}}  # fmt: skip


def _expert(site: SiteFormats) -> str:
    return f" expert {site.site.expert}" if site.site.expert >= 0 else ""
