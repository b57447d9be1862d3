"""Distributions as plain SVG: a reference and a candidate, or one alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ffn_probe.figures.density import Density, shared_density
from ffn_probe.figures.shift import Shift, shift
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.report.svg import opened
from ffn_probe.sketches import BitHistogram

_SIDES = ((REFERENCE, "none"), (CANDIDATE, "5 3"))  # colour and dash
_TALL, _LOW = 236.0, 176.0  # px: the density's part, the row below it
_AXIS = "value, in the unit of the tensor (asinh axis)"


@dataclass(frozen=True, slots=True)
class _Panel:
    """A rectangle of a picture with a linear axis on each side, in pixels."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def x_of(self, value: float) -> float:
        first, last = self.x
        return self.left + (self.right - self.left) * (value - first) / (last - first)

    def y_of(self, value: float) -> float:
        low, high = self.y
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def rows(self, marks: Sequence[tuple[float, str]]) -> list[str]:
        """Return the lines and labels of the upright axis."""
        parts = []
        for value, words in marks:
            y = self.y_of(value)
            parts.append(
                f'<line x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}" '
                f'class="grid"/><text x="{self.left - 5}" y="{y + 4:.1f}" '
                f'class="end dim">{words}</text>'
            )
        return parts

    def columns(self, marks: Sequence[tuple[float, str]]) -> list[str]:
        """Return the lines and labels of the level axis."""
        parts = []
        for value, words in marks:
            x = self.x_of(value)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{self.bottom}" '
                f'class="grid"/><text x="{x:.1f}" y="{self.bottom + 15}" '
                f'class="mid dim">{words}</text>'
            )
        return parts

    def named(self, above: str, below: str) -> list[str]:
        """Return what the two axes show."""
        middle = (self.left + self.right) / 2
        return [
            f'<text x="{self.left:.0f}" y="{self.top - 7}" class="dim">{above}</text>',
            f'<text x="{middle:.0f}" y="{self.bottom + 34}" class="mid dim">{below}</text>',
        ]

    def line(self, points: Sequence[tuple[float, float]], color: str, dash: str) -> str:
        """Return a line through points in pixels."""
        path = _path(points, self.bottom)
        return (
            f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.8" '
            f'stroke-dasharray="{dash}"/>'
        )


def overlay_svg(
    a: BitHistogram, b: BitHistogram | None = None, *, title: str, width: float = 500.0
) -> str:
    """Return the log densities of a reference (solid) and a candidate (dashed).

    With a candidate, their cumulative shares and the shift of their quantiles stand below.
    """
    density = shared_density(a, b)
    if density.powers is None:
        return f'{opened(width, 40.0, title)}<text x="10" y="24">no finite values</text></svg>'
    moved = None if b is None else shift(a, b, density.scale)
    height = _TALL + (_LOW if b is not None else 0.0)
    parts = [opened(width, height, title), *_densities(density, b is not None, width)]
    if b is not None:
        parts += _cumulated(density, _TALL + 22, width / 2 - 10)
    if moved is not None:
        parts += _shifted(moved, _TALL + 22, width / 2 + 44, width - 10)
    return "".join([*parts, "</svg>"])


def _densities(density: Density, both: bool, width: float) -> list[str]:  # noqa: FBT001
    low, high = density.powers or (-1.0, 0.0)
    ends = float(density.edges[0]), float(density.edges[-1])
    panel = _Panel(46.0, width - 10, 18.0, _TALL - 40, ends, (low, high))
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
    panel = _Panel(46.0, right, top, top + _LOW - 64, ends, (0.0, 1.0))
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


def _shifted(moved: Shift, top: float, left: float, right: float) -> list[str]:
    """Return how far every quantile moved, in the reference's sigmas."""
    ends = float(moved.places[0]), float(moved.places[-1])
    panel = _Panel(left, right, top, top + _LOW - 64, ends, moved.ends)
    parts = panel.rows(moved.rows)
    parts += [
        *panel.columns(moved.columns),
        *panel.named("shift, reference sigmas", "quantile"),
    ]
    points = _points(panel, moved.places, moved.heights)
    return [*parts, panel.line(points, CANDIDATE, "none")]


def _points(
    panel: _Panel, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
) -> list[tuple[float, float]]:
    return [(panel.x_of(float(a)), panel.y_of(float(b)) - 0.01)
            for a, b in zip(x, y, strict=True)]  # fmt: skip


def _sparse(ticks: Sequence[tuple[float, str]]) -> Sequence[tuple[float, str]]:
    """Return the ends and the middle of many ticks: a small panel has room for three."""
    if len(ticks) <= 3:
        return ticks
    return (ticks[0], ticks[len(ticks) // 2], ticks[-1])


def _path(corners: Sequence[tuple[float, float]], floor: float) -> str:
    """Return a line through the corners that is lifted where it would run along the floor."""
    path: list[str] = []
    before = floor
    for x, y in corners:
        lifted = not path or min(y, before) >= floor
        path.append(f"{'M' if lifted else 'L'}{x:.1f} {y:.1f}")
        before = y
    return "".join(path)
