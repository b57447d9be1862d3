"""Formats over sites: the SQNR that each keeps, as a heatmap about a target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ffn_probe.figures.canvas import framed, places
from ffn_probe.figures.grid import ordered_roles
from ffn_probe.figures.numbers import decibels
from ffn_probe.figures.site_formats import SiteFormats, View
from ffn_probe.figures.theme import Scale, css

_REACH = 20.0  # dB from the target to the ends of the colours
_DIFFERENCE = 6.0  # dB of a difference to the ends of the colours
_WRITTEN = 40  # columns; with more, a number does not fit its cell
_APART = 120  # columns; with more, gaps between them would wash the colours out
_ROW = 27  # px

KEPT: Scale = (
    (0.0, "#7a1c0eff"), (0.25, "#c9562bff"), (0.4999, "#f3c99cff"), (0.5, "#d7e6f2ff"),
    (0.75, "#6aa5cdff"), (1.0, "#123c66ff"),
)  # fmt: skip
"""Orange and dark below the target, blue above it; the target is the pale middle."""


@dataclass(frozen=True, slots=True)
class FormatGrid:
    """Levels in dB of formats (rows) at sites (columns); NaN where one is not known.

    A column is one role of one layer; of a mixture it shows the expert that keeps the least.
    """

    keys: tuple[str, ...]
    columns: tuple[tuple[str, int], ...]  # role, layer
    values: Float[np.ndarray, "keys columns"]
    texts: tuple[tuple[str, ...], ...]
    names: tuple[tuple[str, ...], ...]  # of the sites, "" for none


Columns = Sequence[tuple[str, int]]


def format_columns(*runs: Sequence[SiteFormats]) -> tuple[tuple[str, int], ...]:
    """Return role and layer of all sites of some runs, role by role."""
    roles = ordered_roles(s.site.role for sites in runs for s in sites)
    layers = sorted({s.site.layer for sites in runs for s in sites})
    there = {(s.site.role, s.site.layer) for sites in runs for s in sites}
    return tuple((r, layer) for r in roles for layer in layers if (r, layer) in there)


def format_grid(
    sites: Sequence[SiteFormats], keys: Sequence[str], columns: Columns, view: View
) -> FormatGrid:
    """Return the levels of formats at the columns."""
    found: dict[tuple[str, int], list[SiteFormats]] = {}
    for each in sites:
        found.setdefault((each.site.role, each.site.layer), []).append(each)
    values = np.full((len(keys), len(columns)), np.nan)
    texts, names = [], []
    for i, key in enumerate(keys):
        said, named = [], []
        for j, (role, layer) in enumerate(columns):
            level, site = _least(found.get((role, layer), ()), key, view)
            values[i, j] = level
            said.append(_words(key, role, layer, level, site))
            named.append("" if site is None else site.site.name)
        texts.append(tuple(said))
        names.append(tuple(named))
    return FormatGrid(tuple(keys), tuple(columns), values, tuple(texts), tuple(names))


def changed_grid(a: FormatGrid, b: FormatGrid) -> FormatGrid:
    """Return b less a, in dB, of two grids of the same formats and columns."""
    with np.errstate(invalid="ignore"):
        values = np.where(a.values == b.values, 0.0, b.values - a.values)
    texts = tuple(
        tuple(
            f"{one}<br>candidate: {decibels(after)} dB, {_signed(value)} dB"
            for one, after, value in zip(*rows, strict=True)
        )
        for rows in zip(a.texts, b.values.tolist(), values.tolist(), strict=True)
    )
    return FormatGrid(a.keys, a.columns, values, texts, a.names)


def sqnr_heatmap(grid: FormatGrid, *, target: float, change: bool = False) -> go.Figure:
    """Return formats over sites; numbers stand in the cells where they fit.

    Args:
        grid: levels in dB, or differences of levels.
        target: where the colours turn from "below" to "above"; 0 of a difference.
        change: whether the values are differences.
    """
    reach = _DIFFERENCE if change else _REACH
    middle = 0.0 if change else target
    x, y = list(range(len(grid.columns))), list(range(len(grid.keys)))
    shown = np.clip(grid.values, middle - reach, middle + reach).astype(np.float32)
    words = _numbers(grid, -math.inf if change else target)
    figure = go.Figure(
        go.Heatmap(
            z=shown, x=x, y=y, zmin=middle - reach, zmax=middle + reach,
            colorscale=[[stop, css(color)] for stop, color in KEPT],
            xgap=1 if len(x) <= _APART else 0, ygap=1,
            text=_array(words) if len(x) <= _WRITTEN else None, texttemplate="%{text}",
            textfont={"size": 10}, hovertext=_array(grid.texts), customdata=_array(grid.names),
            hovertemplate="%{hovertext}<extra></extra>",
            colorbar=_bar(middle, reach, change=change),
        )
    )  # fmt: skip
    _absent(figure, grid)
    _axes(figure, grid)
    return framed(
        figure, height=96 + _ROW * max(len(grid.keys), 3), legend=False,
        margin={"l": 118, "t": 34, "b": 44},
    )  # fmt: skip


def _array(rows: Sequence[Sequence[str]]) -> np.ndarray:
    """Return texts as an array, which plotly takes as it is: it looks at lists one by one."""
    return np.array(rows, dtype=object)


def _bar(middle: float, reach: float, *, change: bool) -> dict[str, object]:
    ticks = [middle + part * reach for part in (-1, -0.5, 0, 0.5, 1)]
    words = [f"{t:+g}" if change else f"{t:g}" for t in ticks]
    words[0], words[-1] = f"\u2264 {words[0]}", f"\u2265 {words[-1]}"
    title = "SQNR, B less A, dB" if change else "SQNR, dB"
    return {"title": {"text": title, "side": "right"}, "thickness": 12, "tickvals": ticks,
            "ticktext": words}  # fmt: skip


def _numbers(grid: FormatGrid, target: float) -> list[list[str]]:
    """Return what stands in the cells; plotly picks an ink that can be read on each.

    A level just below the target is not rounded up to it, as its colour would say otherwise.
    """

    def written(value: float) -> str:
        if math.isnan(value):
            return ""
        if math.isinf(value):
            return "\u221e"
        near = value < target <= round(value)
        return f"{(math.floor(value) if near else round(value)) + 0}"

    return [[written(value) for value in row] for row in grid.values.tolist()]


def _absent(figure: go.Figure, grid: FormatGrid) -> None:
    """Hatch the columns of which this run has no site, as the other run has."""
    lost = [j for j, named in enumerate(zip(*grid.names, strict=True)) if not any(named)]
    if lost:
        words = [f"layer {layer} {escape(role)}: not in this run" for role, layer in
                 (grid.columns[j] for j in lost)]  # fmt: skip
        lines = {"shape": "/", "size": 7, "solidity": 0.25, "fgcolor": "rgba(128,128,128,0.7)"}
        figure.add_bar(
            x=lost, y=[len(grid.keys)] * len(lost), base=-0.5, width=1, hovertext=words,
            hovertemplate="%{hovertext}<extra></extra>",
            marker={"color": "rgba(128,128,128,0.08)", "pattern": lines},
        )  # fmt: skip


def _axes(figure: go.Figure, grid: FormatGrid) -> None:
    """Write the layers below, the roles above, and a line between two roles."""
    columns = grid.columns
    roles = [role for role, _ in columns]
    starts = [i for i, role in enumerate(roles) if i == 0 or role != roles[i - 1]]
    ends = [*starts[1:], len(roles)]
    shown = []
    for start, end in zip(starts, ends, strict=True):
        room = max(1, round(28 * (end - start) / max(len(roles), 1)))
        shown += [start + i for i in places(end - start, room)]
    figure.update_xaxes(
        title="layer", tickvals=shown, ticktext=[str(columns[i][1]) for i in shown],
        showgrid=False, range=[-0.5, len(columns) - 0.5],
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(len(grid.keys))), ticktext=[escape(key) for key in grid.keys],
        range=[len(grid.keys) - 0.5, -0.5], showgrid=False,
    )  # fmt: skip
    notes = [
        {"x": (start + end - 1) / 2, "y": 1, "yref": "paper", "yanchor": "bottom",
         "showarrow": False, "text": escape(roles[start])}
        for start, end in zip(starts, ends, strict=True)
    ]  # fmt: skip
    figure.layout.annotations = notes
    figure.layout.shapes = [
        {"type": "line", "x0": i - 0.5, "x1": i - 0.5, "yref": "paper", "y0": 0, "y1": 1.06,
         "line": {"color": "rgba(128,128,128,0.9)", "width": 1.5}}
        for i in starts[1:]
    ]  # fmt: skip


def _least(
    sites: Sequence[SiteFormats], key: str, view: View
) -> tuple[float, SiteFormats | None]:
    """Return the lowest level and its site; NaN and None where none has one."""
    known = [(s.level(key, view), s) for s in sites]
    found = [pair for pair in known if not math.isnan(pair[0])]
    return min(found, key=lambda pair: pair[0], default=(math.nan, None))


def _words(key: str, role: str, layer: int, level: float, site: SiteFormats | None) -> str:
    where = f"layer {layer} {escape(role)}"
    if site is None:
        return f"{where}: {escape(key)} is not known"
    expert = f" (expert {site.site.expert})" if site.site.expert >= 0 else ""
    return f"{where}{expert}<br>{escape(key)}: {decibels(level)} dB, crest {site.crest:.3g}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.1f}"
