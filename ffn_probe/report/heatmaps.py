"""Layers times roles as plain SVG: the drift of every site, and a measure of every site."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ffn_probe.figures.grid import CAP, Cell, Grid, heat, shade, ticks
from ffn_probe.figures.span import Span, span
from ffn_probe.figures.theme import SEQUENTIAL, SIGN, color_at
from ffn_probe.report.axes import fitted
from ffn_probe.report.svg import opened
from ffn_probe.report.words import legible, number

_LEFT, _TOP, _ROW = 92.0, 4.0, 27.0  # px: the roles' names, the space above, a row
_CELL = (11.0, 96.0)  # px: the narrowest and the widest cell
_KEY = 190.0  # px: the length of the colour bar
_WRITTEN = 46.0  # px: a cell that holds its number
_STEPS = 95  # of the colour bar
_NARROWEST = 660.0  # px: a picture that holds its legend
_HATCH = (
    '<defs><pattern id="none" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="6" height="6" class="hatch0"/>'
    '<rect width="2" height="6" class="hatch1"/></pattern></defs>'
)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the cells of a grid lie, in pixels."""

    cell: float
    right: float
    bottom: float

    @classmethod
    def of(cls, grid: Grid, width: float) -> "_Frame":
        room = (width - _LEFT) / max(len(grid.columns), 1)
        cell = min(max(room, _CELL[0]), _CELL[1])
        right = _LEFT + cell * len(grid.columns)
        return cls(cell, right, _TOP + _ROW * len(grid.roles))

    def axes(self, grid: Grid) -> list[str]:
        """Return the names of the roles and of the layers."""
        parts = [
            f'<text x="{_LEFT - 8}" y="{_TOP + _ROW * i + 18}" class="end">'
            f"{escape(fitted(legible(role), _LEFT - 10))}</text>"
            for i, role in enumerate(grid.roles)
        ]
        for j in ticks(grid.columns, most=int((self.right - _LEFT) / 28) or 1):
            x = _LEFT + self.cell * (j + 0.5)
            label = escape(grid.columns[j].label)
            parts.append(f'<text x="{x:.1f}" y="{self.bottom + 16}" class="mid">{label}</text>')
        middle = (_LEFT + self.right) / 2
        parts.append(
            f'<text x="{middle:.1f}" y="{self.bottom + 33}" class="mid dim">layer</text>'
        )
        return parts

    def cells(self, grid: Grid, draw: Callable[[Cell, float, float, float], str]) -> list[str]:
        """Return every cell, drawn by `draw` at (x, y, width)."""
        return [
            draw(item, _LEFT + self.cell * j, _TOP + _ROW * i, self.cell)
            for i, row in enumerate(grid.cells)
            for j, item in enumerate(row)
        ]


# ---- a drift ----------------------------------------------------------------------------


def heatmap_svg(grid: Grid, *, width: float = 1040.0) -> str:
    """Return the grid of a drift, with a legend; each cell has its words as a title."""
    frame = _Frame.of(grid, width)
    title = f"Drift by layer and role: {grid.label}"
    parts = [opened(max(frame.right + 4, _NARROWEST), frame.bottom + 112, title), _HATCH]
    parts += frame.cells(grid, _judged)
    return "".join([*parts, *frame.axes(grid), *_legend(frame.bottom + 48, grid), "</svg>"])


def _judged(item: Cell, x: float, y: float, width: float) -> str:
    share = heat(item, "threshold")
    lacking = item.mark in {"only_a", "only_b", "absent"}
    fill = "url(#none)" if lacking else color_at(0.0 if math.isnan(share) else share)
    if item.mark == "absent":
        fill = "none"
    box = _box(item, x, y, width, fill)
    if item.mark in {"PASS", "absent", ""}:
        return box
    kind = "dim" if lacking else "on-dark" if share > 0.55 else "on-pale"
    words = SIGN[item.mark]
    if width >= _WRITTEN and not lacking:
        words += f" {number(item.value)}"
    return box + _inside(words, x, y, width, kind)


def _box(item: Cell, x: float, y: float, width: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="{_ROW - 1}" '
        f'fill="{fill}"><title>{escape(legible(item.text))}</title></rect>'
    )


def _inside(words: str, x: float, y: float, width: float, kind: str) -> str:
    return (
        f'<text x="{x + width / 2:.1f}" y="{y + 18}" class="mid {kind}" '
        f'pointer-events="none">{words}</text>'
    )


def _legend(y: float, grid: Grid) -> list[str]:
    """Return the colour bar and, below it, what the signs mean."""
    marks = [(shade(v), f"{v:g}" + "+" * (v == CAP)) for v in (1.0, 2.0, 5.0, 10.0, CAP)]
    parts = _bar(y, [color_at(k / (_STEPS - 1)) for k in range(_STEPS)], marks)
    parts.append(
        f'<text x="{_LEFT + _KEY + 24}" y="{y + 10}" class="dim">{escape(grid.label)}</text>'
    )
    found = {cell.mark for row in grid.cells for cell in row}
    said = ["grey passes"]
    said += [f"{SIGN['WARN']} suspicious", f"{SIGN['FAIL']} failed"]
    said += [f"hatched {SIGN['only_a']}: only in the reference"] * ("only_a" in found)
    said += [f"hatched {SIGN['only_b']}: only in the candidate"] * ("only_b" in found)
    said += ["(layer): of the candidate"] * any(not c.block_a for c in grid.columns)
    parts.append(f'<text x="{_LEFT}" y="{y + 46}" class="dim">{"; ".join(said)}</text>')
    return parts


def _bar(y: float, colors: Sequence[str], marks: Sequence[tuple[float, str]]) -> list[str]:
    """Return a colour bar with its marks at (place 0..1, text)."""
    wide = _KEY / len(colors)
    parts = [
        f'<rect x="{_LEFT + k * wide:.1f}" y="{y}" width="{wide:.1f}" height="10" '
        f'fill="{color}"/>'
        for k, color in enumerate(colors)
    ]
    return parts + [
        f'<text x="{_LEFT + _KEY * place:.1f}" y="{y + 24}" class="mid dim">{words}</text>'
        for place, words in marks
    ]


# ---- a measure --------------------------------------------------------------------------


def measure_svg(grid: Grid, *, width: float = 1040.0) -> str:
    """Return a measure of every site; the number stands in its cell where there is room."""
    frame, scale = _Frame.of(grid, width), span(grid)
    unit = "" if grid.unit in {"1", ""} else f" [{grid.unit}]"
    title = f"{grid.label}{unit} by layer and role"
    wide = min(max(frame.right + 4, 330.0), width) if frame.cell > _CELL[0] else frame.right + 4

    def draw(item: Cell, x: float, y: float, width: float) -> str:
        return _measured(item, scale, x, y, width)

    parts = [opened(wide, frame.bottom + 82, title), *frame.cells(grid, draw)]
    parts += frame.axes(grid)
    if scale is not None:
        colors = [color_at(k / (_STEPS - 1), SEQUENTIAL) for k in range(_STEPS)]
        parts += _bar(frame.bottom + 46, colors, scale.ticks())
    return "".join([*parts, "</svg>"])


def _measured(item: Cell, scale: Span | None, x: float, y: float, width: float) -> str:
    share = math.nan if scale is None else scale.place(item.value)
    if item.mark == "absent":
        return _box(item, x, y, width, "none")
    box = _box(
        item, x, y, width, "#80808022" if math.isnan(share) else color_at(share, SEQUENTIAL)
    )
    if width < _WRITTEN:
        return box
    kind = "" if math.isnan(share) else "in-dark" if share > 0.55 else "in-pale"
    return box + _inside(number(item.value), x, y, width, kind)
