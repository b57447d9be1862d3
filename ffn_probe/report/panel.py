"""A rectangle of a picture with two axes, as plain SVG."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle of a picture with a linear axis on each side, in pixels."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def x_of(self, value: float) -> float:
        """Return the place of a value on the level axis."""
        first, last = self.x
        return self.left + (self.right - self.left) * (value - first) / (last - first)

    def y_of(self, value: float) -> float:
        """Return the place of a value on the upright axis."""
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
        return (
            f'<path d="{path(points, self.bottom)}" fill="none" stroke="{color}" '
            f'stroke-width="1.8" stroke-dasharray="{dash}"/>'
        )


def path(corners: Sequence[tuple[float, float]], floor: float) -> str:
    """Return a line through the corners that is lifted where it would run along the floor."""
    path: list[str] = []
    before = floor
    for x, y in corners:
        lifted = not path or min(y, before) >= floor
        path.append(f"{'M' if lifted else 'L'}{x:.1f} {y:.1f}")
        before = y
    return "".join(path)
