"""Pictures as plain SVG: no script, no font, no request."""

import math
from collections.abc import Callable, Sequence
from html import escape

from ffn_probe.figures.density import Density, shared_density
from ffn_probe.figures.grid import CAP, Cell, Grid, shade, ticks
from ffn_probe.figures.theme import CANDIDATE, REFERENCE, SIGN, color_at
from ffn_probe.sketches import BitHistogram

_LEFT, _TOP, _ROW = 92.0, 4.0, 27.0  # px: the roles' names, the space above, a row
_CELL = (11.0, 96.0)  # px: the narrowest and the widest cell
_KEY = 190.0  # px: the length of the colour bar


# ---- heatmap ----------------------------------------------------------------------------


def heatmap_svg(grid: Grid, *, width: float = 1040.0) -> str:
    """Return the grid of a drift, with a legend; each cell has its words as a title."""
    room = (width - _LEFT) / max(len(grid.columns), 1)
    cell = min(max(room, _CELL[0]), _CELL[1])
    right = _LEFT + cell * len(grid.columns)
    bottom = _TOP + _ROW * len(grid.roles)
    parts = [
        opened(max(right + 4, 660.0), bottom + 112, f"Drift by layer and role: {grid.label}")
    ]
    parts.append(
        '<defs><pattern id="none" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="6" height="6" class="hatch0"/>'
        '<rect width="2" height="6" class="hatch1"/></pattern></defs>'
    )
    for i, (role, row) in enumerate(zip(grid.roles, grid.cells, strict=True)):
        y = _TOP + _ROW * i
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 18}" class="end">{escape(role)}</text>')
        parts += [_cell(item, _LEFT + cell * j, y, cell) for j, item in enumerate(row)]
    for j in ticks(grid.columns, most=int((right - _LEFT) / 28) or 1):
        x = _LEFT + cell * (j + 0.5)
        label = escape(grid.columns[j].label)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" class="mid">{label}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{bottom + 33}" class="mid dim">layer</text>')
    return "".join([*parts, *_legend(bottom + 48, grid), "</svg>"])


def _cell(item: Cell, x: float, y: float, width: float) -> str:
    share = shade(item.value)
    lacking = math.isnan(item.value)
    fill = color_at(share)
    if lacking:
        fill = "none" if item.mark == "absent" else "url(#none)"
    box = (
        f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="{_ROW - 1}" '
        f'fill="{fill}"><title>{escape(item.text)}</title></rect>'
    )
    if item.mark in {"PASS", "absent", ""}:
        return box
    kind = "dim" if lacking else "on-dark" if share > 0.55 else "on-pale"
    return box + (
        f'<text x="{x + width / 2:.1f}" y="{y + 18}" class="mid {kind}" '
        f'pointer-events="none">{SIGN[item.mark]}</text>'
    )


def _legend(y: float, grid: Grid) -> list[str]:
    """Return the colour bar and, below it, what the signs mean."""
    steps = 95
    parts = [
        f'<rect x="{_LEFT + k * _KEY / steps:.1f}" y="{y}" width="{_KEY / steps:.1f}" '
        f'height="10" fill="{color_at(k / (steps - 1))}"/>'
        for k in range(steps)
    ]
    for value in (0.0, 1.0, 2.0, 10.0, CAP):
        text = f"{value:g}" if value < CAP else f"{CAP:g}+"
        place = _LEFT + _KEY * shade(value)
        parts.append(f'<text x="{place:.1f}" y="{y + 24}" class="mid dim">{text}</text>')
    parts.append(
        f'<text x="{_LEFT + _KEY + 24}" y="{y + 10}" class="dim">{escape(grid.label)}</text>'
    )
    marks = {cell.mark for row in grid.cells for cell in row}
    said = [f"{SIGN['WARN']} suspicious", f"{SIGN['FAIL']} failed"]
    said += [f"hatched {SIGN['only_a']}: only in the reference"] * ("only_a" in marks)
    said += [f"hatched {SIGN['only_b']}: only in the candidate"] * ("only_b" in marks)
    said += ["(layer): of the candidate"] * any(not c.block_a for c in grid.columns)
    parts.append(f'<text x="{_LEFT}" y="{y + 46}" class="dim">{"; ".join(said)}</text>')
    return parts


# ---- distributions ----------------------------------------------------------------------


def overlay_svg(
    a: BitHistogram, b: BitHistogram, *, title: str, width: float = 500.0, height: float = 236.0
) -> str:
    """Return the log densities of a reference (solid) and a candidate (dashed)."""
    density = shared_density(a, b)
    if density.powers is None:
        return f'{opened(width, 40.0, title)}<text x="10" y="24">no finite values</text></svg>'
    low, high = density.powers
    left, right, top, bottom = 46.0, width - 10, 18.0, height - 40
    first, last = float(density.edges[0]), float(density.edges[-1])

    def x_of(place: float) -> float:
        return left + (right - left) * (place - first) / (last - first)

    def y_of(power: float) -> float:
        return bottom - (bottom - top) * (power - low) / (high - low)

    parts = [
        opened(width, height, title),
        f'<text x="{left}" y="11" class="dim">density</text>',
    ]
    for power in range(math.ceil(low), math.floor(high) + 1):
        y = y_of(float(power))
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4:.1f}" class="end dim">1e{power}</text>')
    parts += _ticks(density, x_of, top, bottom)
    for values, color, dash in ((density.a, REFERENCE, "none"), (density.b, CANDIDATE, "5 3")):
        corners = [
            (x_of(float(x)), y_of(max(math.log10(y), low)))
            for x, y in zip(*density.outline(values, 10**low), strict=True)
        ]
        path = _path(corners, bottom)
        parts.append(
            f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.8" '
            f'stroke-dasharray="{dash}"/>'
        )
    label = "value, in the unit of the tensor (asinh axis)"
    middle = (left + right) / 2
    parts.append(f'<text x="{middle}" y="{height - 6}" class="mid dim">{label}</text>')
    return "".join(parts) + "</svg>"


def _ticks(
    density: Density, x_of: Callable[[float], float], top: float, bottom: float
) -> list[str]:
    parts = []
    for place, text in density.ticks:
        x = x_of(place)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" class="mid dim">{text}</text>')
    return parts


def _path(corners: Sequence[tuple[float, float]], floor: float) -> str:
    """Return a line through the corners that is lifted where it would run along the floor."""
    path: list[str] = []
    before = floor
    for x, y in corners:
        lifted = not path or min(y, before) >= floor
        path.append(f"{'M' if lifted else 'L'}{x:.1f} {y:.1f}")
        before = y
    return "".join(path)


def opened(width: float, height: float, title: str) -> str:
    """Return the start of a picture; `title` is what a reader hears who sees none."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
    )


def hover(x: float, y: float, width: float, height: float, words: str) -> str:
    """Return an unseen box that shows words where the pointer rests on it."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="none" pointer-events="all"><title>{escape(words)}</title></rect>'
    )
