"""The picture of an activation's error over the gate's histogram, with its regions."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from ffn_probe.attribution.attribution import Region
from ffn_probe.figures.gate_error import GateError
from ffn_probe.figures.theme import CANDIDATE
from ffn_probe.report.axes import LEFT, box, fitted, legend, line, marks, text, width_of
from ffn_probe.report.paired_words import percent
from ffn_probe.report.svg import hover, opened
from ffn_probe.report.words import number

_ROW = 15.0  # px: a row of labels


def gate_svg(gate: GateError, regions: Sequence[Region], *, width: float = 500.0) -> str:
    """Return the densities of the gate and of the activation's error, regions marked.

    Both are shares per unit of the gate, so that their areas can be compared; the dashed
    line is the error that the two activations' formulas give.
    """
    edges, (values, error, expected) = gate.densities()
    low, high = float(edges[0]), float(edges[-1])
    right = width - 10

    def x_of(value: float) -> float:
        return LEFT + (right - LEFT) * (min(max(value, low), high) - low) / (high - low)

    labels = _labels(regions, x_of)
    top = 46 + _ROW * (1 + max((row for *_, row in labels), default=0))
    bottom = top + 142
    tallest = max(float(np.max([values, error, expected])), 1e-12)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * value / (1.05 * tallest)

    entries = [
        (box("floor"), "gate"),
        (line(CANDIDATE), "error of the activation"),
        (line("ink", dash="2 3"), "expected"),
    ]
    name = f"Error of the activation by value of the gate, layer {gate.layer}"
    parts = [opened(width, bottom + 42, name), *legend(entries, LEFT, 9.0)]
    parts.append(text(2.0, 30.0, "share per unit of the gate", "dim"))
    parts += _grid(tallest, y_of, right)
    parts += _bounds(regions, x_of, top, bottom)
    parts.append(f'<path d="{_steps(edges, values, x_of, y_of)}Z" class="floor"/>')
    for heights, style in (
        (error, f'stroke="{CANDIDATE}" stroke-width="1.8"'),
        (expected, 'stroke="var(--ink)" stroke-width="1.2" stroke-dasharray="2 3"'),
    ):
        path = _steps(edges, heights, x_of, y_of)
        parts.append(f'<path d="{path}" fill="none" {style}/>')
    parts += [text(x, 46 + _ROW * row, words, "mid") for words, x, row in labels]
    parts += _values(low, high, x_of, bottom)
    parts.append(text((LEFT + right) / 2, bottom + 34, "value of the gate", "mid dim"))
    parts += [_hover(region, x_of, top, bottom) for region in regions]
    return "".join([*parts, "</svg>"])


def _labels(
    regions: Sequence[Region], x_of: Callable[[float], float]
) -> list[tuple[str, float, int]]:
    """Return (words, middle, row): each label in the first row where it has room."""
    ends: list[float] = []
    found = []
    for region in regions:
        if math.isnan(region.low) or math.isnan(region.high):
            continue
        words = f"{fitted(region.name, 110.0)} {percent(region.share)}"
        half = width_of(words) / 2
        middle = (x_of(region.low) + x_of(region.high)) / 2
        middle = min(max(middle, LEFT + half), x_of(math.inf) - half)
        row = next((i for i, end in enumerate(ends) if end <= middle - half), len(ends))
        ends[row:] = [middle + half + 4, *ends[row + 1 :]]
        found.append((words, middle, row))
    return found


def _bounds(
    regions: Sequence[Region], x_of: Callable[[float], float], top: float, bottom: float
) -> list[str]:
    edges = {e for r in regions for e in (r.low, r.high) if math.isfinite(e)}
    return [
        f'<line x1="{x_of(e):.1f}" x2="{x_of(e):.1f}" y1="{top - 8:.1f}" y2="{bottom}" '
        'stroke="var(--dim)" stroke-dasharray="3 3"/>'
        for e in sorted(edges)
    ]


def _steps(
    edges: Float64[np.ndarray, " edges"],
    heights: Float64[np.ndarray, " bins"],
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
) -> str:
    path = f"M{x_of(float(edges[0])):.1f} {y_of(0.0):.1f}"
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        y = y_of(float(height))
        path += f"L{x_of(float(left)):.1f} {y:.1f}H{x_of(float(right)):.1f}"
    return path + f"V{y_of(0.0):.1f}"


def _grid(tallest: float, y_of: Callable[[float], float], right: float) -> list[str]:
    parts = []
    for value in (0.0, tallest / 2, tallest):
        y = y_of(value)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(text(LEFT - 5, y + 4, number(float(f"{value:.2g}")), "end dim"))
    return parts


def _values(
    low: float, high: float, x_of: Callable[[float], float], bottom: float
) -> list[str]:
    places = marks(low, high, 7)
    return [text(x_of(place), bottom + 16, number(place), "mid dim") for place in places]


def _hover(region: Region, x_of: Callable[[float], float], top: float, bottom: float) -> str:
    if math.isnan(region.low) or math.isnan(region.high):
        return ""
    x = x_of(region.low)
    words = (
        f"{region.name} ({number(region.low)} to {number(region.high)}): "
        f"{percent(region.share)} of the error on {percent(region.gate_share)} of the values"
    )
    return hover(x, top, x_of(region.high) - x, bottom - top, words)
