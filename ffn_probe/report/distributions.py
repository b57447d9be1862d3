"""Distributions as plain SVG: a reference and a candidate, or one alone."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ffn_probe.compare.quantile_shift import QuantileShift
from ffn_probe.figures.density import Density, shared_density
from ffn_probe.figures.numbers import number
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.report.panel import Panel
from ffn_probe.report.svg import opened
from ffn_probe.sketches import BitHistogram

_SIDES = ((REFERENCE, "none"), (CANDIDATE, "5 3"))  # colour and dash
_TALL, _LOW = 236.0, 176.0  # px: the density's part, the row below it
_QUANTILES = (0.01, 0.5, 0.99)  # that are marked
_LINEAR = 0.1  # sigmas: up to here the axis of the shift is nearly linear
_LEAST = 0.1  # sigmas: the axis shows at least this much
_AXIS = "value, in the unit of the tensor (asinh axis)"


def overlay_svg(
    a: BitHistogram, b: BitHistogram | None = None, *, title: str, width: float = 500.0
) -> str:
    """Return the log densities of a reference (solid) and a candidate (dashed)."""
    density = shared_density(a, b)
    if density.powers is None:
        return f'{opened(width, 40.0, title)}<text x="10" y="24">no finite values</text></svg>'
    drawn = _densities(density, width, both=b is not None)
    return "".join([opened(width, _TALL, title), *drawn, "</svg>"])


def quantiles_svg(
    a: BitHistogram, b: BitHistogram, moved: QuantileShift, *, title: str, width: float = 500.0
) -> str:
    """Return the shares at or below every value, and how far every quantile moved."""
    parts = [opened(width, _LOW, title)]
    parts += _cumulated(shared_density(a, b), 22.0, width / 2 - 10)
    parts += _shifted(moved, 22.0, width / 2 + 44, width - 10)
    return "".join([*parts, "</svg>"])


def _densities(density: Density, width: float, *, both: bool) -> list[str]:
    low, high = density.powers or (-1.0, 0.0)
    ends = float(density.edges[0]), float(density.edges[-1])
    panel = Panel(46.0, width - 10, 18.0, _TALL - 40, ends, (low, high))
    powers = range(math.ceil(low), math.floor(high) + 1)
    parts = panel.rows([(float(power), f"1e{power}") for power in powers])
    parts += [*panel.columns(density.ticks), *panel.named("density", _AXIS)]
    sides = (density.a, density.b) if both else (density.a,)
    for values, (color, dash) in zip(sides, _SIDES, strict=False):
        corners = [
            (panel.x_of(float(x)), panel.y_of(max(math.log10(y), low)))
            for x, y in zip(*density.outline(values, 10**low), strict=True)
        ]
        parts.append(panel.line(corners, color, dash))
    return parts


def _cumulated(density: Density, top: float, right: float) -> list[str]:
    """Return the shares at or below every value, on the axis of the densities."""
    ends = float(density.edges[0]), float(density.edges[-1])
    panel = Panel(46.0, right, top, top + _LOW - 64, ends, (0.0, 1.0))
    parts = panel.rows([(0.0, "0"), (0.5, "0.5"), (1.0, "1")])
    parts += [
        *panel.columns(_sparse(density.ticks)),
        *panel.named("share at or below", "value"),
    ]
    for values, (color, dash) in zip((density.a, density.b), _SIDES, strict=True):
        total = np.concatenate([[0.0], np.cumsum(values * np.diff(density.edges))])
        points = [(panel.x_of(float(x)), panel.y_of(float(y)) - 0.01)
                  for x, y in zip(density.edges, total, strict=True)]  # fmt: skip
        parts.append(panel.line(points, color, dash))
    return parts


def _shifted(moved: QuantileShift, top: float, left: float, right: float) -> list[str]:
    """Return how far every quantile moved, in the reference's sigmas; grey is chance."""
    places = np.log(moved.shares / (1 - moved.shares))
    heights = np.arcsinh(moved.shift / moved.sigma / _LINEAR)
    band = None if moved.band is None else np.arcsinh(moved.band / moved.sigma / _LINEAR)
    most = max(float(np.abs(heights).max()), math.asinh(_LEAST / _LINEAR))
    most = 1.08 * (most if band is None else max(most, float(band.max())))
    ends = float(places[0]), float(places[-1])
    panel = Panel(left, right, top, top + _LOW - 64, ends, (-most, most))
    parts = panel.rows(_sizes(most))
    parts += panel.columns([(math.log(q / (1 - q)), f"{100 * q:g} %") for q in _QUANTILES])
    parts += panel.named("shift, reference sigmas", "quantile")
    if band is not None:
        around = np.concatenate([places, places[::-1]])
        corners = _points(panel, around, np.concatenate([band, -band[::-1]]))
        shape = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        parts.append(f'<path d="M{shape}Z" class="floor"/>')
    return [*parts, panel.line(_points(panel, places, heights), CANDIDATE, "none")]


def _sizes(most: float) -> list[tuple[float, str]]:
    """Return 0 and one round shift on both sides: (place, sigmas)."""
    largest = math.sinh(most / 1.08) * _LINEAR
    power = 10.0 ** math.floor(math.log10(largest))
    size = next(digit * power for digit in (5, 2, 1) if digit * power <= largest)
    return [(math.asinh(v / _LINEAR), number(v, signed=True)) for v in (-size, 0.0, size)]


def _points(
    panel: Panel, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
) -> list[tuple[float, float]]:
    return [(panel.x_of(float(a)), panel.y_of(float(b)) - 0.01)
            for a, b in zip(x, y, strict=True)]  # fmt: skip


def _sparse(ticks: Sequence[tuple[float, str]]) -> Sequence[tuple[float, str]]:
    """Return the ends and the middle of many ticks: a small panel has room for three."""
    if len(ticks) <= 3:
        return ticks
    return (ticks[0], ticks[len(ticks) // 2], ticks[-1])
