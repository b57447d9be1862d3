"""Small multiples: the distributions of several runs at several roles, on shared axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ffn_probe.figures.canvas import INK, framed
from ffn_probe.figures.density import Density, shared_density
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.sketches import BitHistogram

_BINS = 72
_GAP = (0.022, 0.085)  # between columns and between rows, of the figure
_ROW = 190  # px


@dataclass(frozen=True, slots=True)
class Panels:
    """Densities by row and column; all of a row share their bins. None: not recorded."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Density | None, ...], ...]


def panels(
    table: Sequence[tuple[str, Sequence[BitHistogram | None]]], columns: Sequence[str]
) -> Panels:
    """Return the panels of a table: row name, and a histogram a column (None: none).

    A row's bins hold all values of its histograms, so that panels can be compared.
    """
    cells = []
    for _, found in table:
        known = [h for h in found if h is not None and h.count]
        whole = reduce(lambda a, b: a.merge(b), known) if known else None
        cells.append(tuple(None if h is None else _density(whole, h) for h in found))
    return Panels(tuple(name for name, _ in table), tuple(columns), tuple(cells))


def _density(whole: BitHistogram | None, own: BitHistogram) -> Density | None:
    return None if whole is None else shared_density(whole, own, bins=_BINS)


def multiples_chart(found: Panels, *, sides: Mapping[int, str] | None = None) -> go.Figure:
    """Return the panels; `sides` gives a column the colour of "a" or "b" (else both in turn).

    Densities are on a log scale, values on an asinh scale, both shared along a row.
    """
    figure = go.Figure()
    layout: dict[str, Any] = {"annotations": _heads(found)}
    for i, row in enumerate(found.cells):
        known = [density.powers for density in _known(row)]
        ends = [powers for powers in known if powers is not None]
        low = max(
            min((e[0] for e in ends), default=-1.0), max((e[1] for e in ends), default=0) - 6
        )
        high = max((e[1] for e in ends), default=0.0)
        for j, density in enumerate(row):
            number = i * len(found.columns) + j + 1
            layout |= _axes(found, i, j, number, density, (low, high))
            if density is not None:
                color = (REFERENCE, CANDIDATE)[(sides or {}).get(j, "ab"[j % 2]) == "b"]
                _draw(figure, density, number, color, low)
    figure.layout = layout
    height = 90 + _ROW * max(len(found.rows), 1)
    return framed(figure, height=height, legend=False, margin={"t": 34, "l": 84})


def _known(row: Sequence[Density | None]) -> list[Density]:
    return [density for density in row if density is not None]


def _draw(figure: go.Figure, density: Density, number: int, color: str, low: float) -> None:
    x, y = density.outline(density.b, 10.0 ** (low - 1))
    figure.add_scatter(
        x=x.astype(np.float32), y=y.astype(np.float32), mode="lines", xaxis=f"x{number}",
        yaxis=f"y{number}", line={"color": color, "width": 1.6},
        customdata=density.values(x).astype(np.float32),
        hovertemplate="%{customdata:.4g}: %{y:.3g}<extra></extra>",
    )  # fmt: skip


def _axes(
    found: Panels,
    i: int,
    j: int,
    number: int,
    density: Density | None,
    ends: tuple[float, float],
) -> dict[str, Any]:
    """Return the two axes of a panel; only those at the left and at the foot have labels."""
    (left, right), (bottom, top) = (
        _part(j, len(found.columns), _GAP[0]),
        _part(len(found.rows) - 1 - i, len(found.rows), _GAP[1]),
    )
    shared = next(iter(_known(found.cells[i])), density)
    ticks = shared.ticks if shared is not None else ()
    last = len(ticks) - 1
    few = [ticks[i] for i in sorted({round(last * k / 4) for k in range(5)})] if ticks else []
    x = {
        "domain": [left, right], "anchor": f"y{number}",
        "tickvals": [place for place, _ in few], "ticktext": [text for _, text in few],
        "range": [float(shared.edges[0]), float(shared.edges[-1])] if shared else [0, 1],
        "tickfont": {"size": 10}, "showgrid": True,
    }  # fmt: skip
    y: dict[str, Any] = {
        "domain": [bottom, top], "anchor": f"x{number}", "type": "log", "range": list(ends),
        "dtick": 2, "exponentformat": "power", "showticklabels": j == 0,
        "tickfont": {"size": 10},
    }  # fmt: skip
    if j == 0:
        y["title"] = {
            "text": f"<b>{escape(found.rows[i])}</b><br>density",
            "font": {"size": 11},
        }
    return {f"xaxis{number}": x, f"yaxis{number}": y}


def _heads(found: Panels) -> list[dict[str, Any]]:
    """Return the names of the columns, and a word in every panel without a distribution."""
    notes: list[dict[str, Any]] = [
        {"x": sum(_part(j, len(found.columns), _GAP[0])) / 2, "y": 1.0, "xref": "paper",
         "yref": "paper", "xanchor": "center", "yanchor": "bottom", "showarrow": False,
         "yshift": 6,
         "text": escape(name), "font": {"size": 12, "color": INK}}
        for j, name in enumerate(found.columns)
    ]  # fmt: skip
    for i, row in enumerate(found.cells):
        for j, density in enumerate(row):
            if density is None:
                x = sum(_part(j, len(found.columns), _GAP[0])) / 2
                y = sum(_part(len(found.rows) - 1 - i, len(found.rows), _GAP[1])) / 2
                notes.append({
                    "x": x, "y": y, "xref": "paper", "yref": "paper", "xanchor": "center",
                    "showarrow": False, "text": "not recorded",
                })  # fmt: skip
    return notes


def _part(k: int, count: int, gap: float) -> tuple[float, float]:
    """Return the ends of the k-th of `count` parts of 0..1 with gaps between."""
    width = (1 - gap * (count - 1)) / max(count, 1)
    return k * (width + gap), min(k * (width + gap) + width, 1.0)
