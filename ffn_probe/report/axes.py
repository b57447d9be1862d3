"""Axes and legends of the bar charts, in pixels."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ffn_probe.attribution.attribution import Interval
from ffn_probe.report.svg import hover

LEFT = 46.0
"""Pixels that the labels of an axis take."""

LEVEL = "SQNR, dB (worse upward)"
"""What the axis of Levels shows."""

_LETTER = 6.6  # px: a letter of the sheet's 11.5 px type, on average, rounded up
_EQUAL = 16.0  # px: the strip under the axis where what is equal lies
_BEST = 160.0  # dB: beyond this two tensors are as good as equal


@dataclass(frozen=True, slots=True)
class Levels:
    """An axis of SQNR in dB, worse upward; what is equal (inf) lies in a strip of its own."""

    worst: float
    best: float
    top: float
    bottom: float

    @classmethod
    def over(cls, values: Iterable[float], top: float, bottom: float) -> "Levels":
        """Return the axis that holds the values; those that are not finite do not count."""
        known = [min(value, _BEST) for value in values if math.isfinite(value)]
        low = 10.0 * math.floor(min(known, default=0.0) / 10)
        high = 10.0 * math.ceil(max(known, default=60.0) / 10)
        return cls(low, max(high, low + 20), top, bottom)

    def y(self, level: float) -> float:
        """Return the place of a level; NaN for NaN."""
        if math.isinf(level) or level > self.best:
            return self.bottom if level > 0 else self.top
        span = self.bottom - _EQUAL - self.top
        share = (max(level, self.worst) - self.worst) / (self.best - self.worst)
        return self.top + span * share

    def grid(self, left: float, right: float) -> list[str]:
        """Return the lines and the labels of the axis."""
        span = self.best - self.worst
        step = next(s for s in (5, 10, 20, 50, 100) if span / s <= 7 or s == 100)
        first = step * math.ceil(self.worst / step)
        parts = []
        for level in range(first, int(self.best) + 1, step):
            y = self.y(float(level))
            parts.append(
                f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            )
            shown = str(level).replace("-", "\u2212")
            parts.append(text(left - 6, y + 4, shown, "end dim"))
        y = self.bottom
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        if self.bottom - self.y(float(step * math.floor(self.best / step))) > 12:
            parts.append(text(left - 6, y + 4, "equal", "end dim"))
        return parts

    def zone(self, floor: float, x: float, slot: float) -> list[str]:
        """Return the grey zone under a floor, around x; nothing for NaN."""
        return self._box(floor, x, slot, 'class="floor"')

    def bar(self, level: float, x: float, width: float, color: str) -> list[str]:
        """Return a bar up to a level, around x; nothing for NaN."""
        return self._box(level, x, width, f'fill="{color}"')

    def _box(self, level: float, x: float, width: float, style: str) -> list[str]:
        if math.isnan(level):
            return []
        y = self.y(level)
        box = (
            f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{self.bottom - y:.1f}" {style}/>'
        )
        return [box]

    def cover(self, x: float, slot: float, words: str) -> str:
        """Return what shows words when the pointer rests on the column around x."""
        return hover(x - slot / 2, self.top, slot, self.bottom - self.top, words)


def known(value: Interval) -> list[float]:
    """Return the finite ones of a value and the ends of its interval."""
    return [v for v in (value.value, value.low, value.high) if math.isfinite(v)]


def ends(values: Sequence[float], *, share: bool) -> tuple[float, float]:
    """Return the ends of an axis that holds 0, the values, and 1 if they are shares."""
    low, high = min([0.0, *values]), max([1.0 if share else 0.0, *values])
    if low == high:
        return low, low + 1.0
    pad = 0.02 * (high - low)
    return (low - pad if low < 0 else low), high + pad


def marks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers on an axis, at about `most` places."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(d * power for d in (1, 2, 5, 10) if d * power >= rough)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return text at a place."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(words)}</text>'


def fitted(words: str, room: float) -> str:
    """Return words cut to the pixels there are."""
    line = " ".join(words.split())
    most = max(int(room / _LETTER), 2)
    return line if len(line) <= most else line[: most - 1] + "\u2026"


def width_of(words: str) -> float:
    """Return about how wide words are, in pixels, rather too wide."""
    return _LETTER * len(words)


def legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> list[str]:
    """Return a row of (picture, words); a picture is SVG that is drawn 18 px wide at 0, 0."""
    parts = []
    for picture, words in entries:
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{picture}</g>')
        parts.append(text(x + 24, y + 4, words, "dim"))
        x += 24 + width_of(words) + 14
    return parts


def box(fill: str) -> str:
    """Return the picture of a bar in a legend; `fill` is a colour, or "floor"."""
    style = 'class="floor"' if fill == "floor" else f'fill="{fill}"'
    return f'<rect x="3" y="-5" width="12" height="10" {style}/>'


def line(stroke: str, *, dash: str = "none", dot: bool = False) -> str:
    """Return the picture of a line in a legend; `stroke` is a colour, or "ink"."""
    color = "var(--ink)" if stroke == "ink" else stroke
    drawn = (
        f'<line x1="0" x2="18" y1="0" y2="0" stroke="{color}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/>'
    )
    return drawn + (f'<circle cx="9" cy="0" r="3" fill="{color}"/>' if dot else "")


def layer_marks(layers: Sequence[int], slot: float) -> list[int]:
    """Return the places of the blocks whose layer is written under an axis."""
    widest = max((len(str(layer)) for layer in layers), default=1) * 7 + 10
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if s * slot >= widest or s == 1000)
    return list(range(0, len(layers), step))
