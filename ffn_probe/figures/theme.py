"""Colours and signs, one place for the report and the dashboard.

The two sides of a comparison are blue and orange, told apart by the common kinds of colour
blindness; a status is always a word and a sign as well as a colour. Every colour is meant
for a light and a dark page.
"""

from collections.abc import Mapping
from itertools import pairwise

Scale = tuple[tuple[float, str], ...]
"""Stops of a colour scale: place 0..1, colour as #rrggbb or #rrggbbaa."""

REFERENCE, CANDIDATE = "#3f7fc6", "#d9722e"

RUNS: tuple[tuple[str, str], ...] = (
    (REFERENCE, "solid"), (CANDIDATE, "dash"), ("#2f9e77", "dot"), ("#a35fb0", "dashdot"),
    ("#a08519", "longdash"), ("#7d868f", "longdashdot"),
)  # fmt: skip
"""The colour and the dash of each of several runs over each other."""

FONT: Mapping[str, str | int] = {
    "family": "system-ui, sans-serif", "size": 12, "color": "#737a82",
}  # fmt: skip
"""The type of every chart; the dashboard's style sheet sets its colour for dark pages."""

WORDS: Mapping[str, tuple[str, str]] = {
    "PASS": ("#217346", "#4fb883"), "WARN": ("#8a5d00", "#d9a441"),
    "FAIL": ("#c0281f", "#f2695f"), "a": ("#2f6db3", "#74abe8"), "b": ("#b04f10", "#ef8f50"),
}  # fmt: skip
"""The colours of a status and of a side as text, on a light and on a dark page (4.5 to 1)."""

SIGN: Mapping[str, str] = {
    "PASS": "\u2713", "WARN": "!", "FAIL": "\u2715", "only_a": "A", "only_b": "B", "absent": "",
}  # fmt: skip
"""The sign of a status, and of a site that one side lacks (A: only in the reference)."""

THRESHOLD_AT = 0.15
"""Where the practical threshold falls on SCALE (see `grid.shade`): colour starts there."""

SCALE: Scale = (
    (0.0, "#8080801a"), (0.14, "#80808080"), (THRESHOLD_AT, "#f3d9a4ff"), (0.45, "#ec9f5bff"),
    (0.75, "#cf4f3aff"), (1.0, "#8f1230ff"),
)  # fmt: skip
"""Drift: grey under the threshold, pale to dark beyond it."""

SEQUENTIAL: Scale = (
    (0.0, "#e4ecf2ff"), (0.25, "#b8d3e6ff"), (0.5, "#6aa5cdff"), (0.75, "#2a6fa3ff"),
    (1.0, "#123c66ff"),
)  # fmt: skip
"""Measures: pale to dark."""


DIVERGING: Scale = (
    (0.0, "#174f91ff"), (0.25, "#5b9bdcff"), (0.5, "#8080802b"), (0.75, "#e8935aff"),
    (1.0, "#9c4208ff"),
)  # fmt: skip
"""Ratios: the reference's blue where it has more, the candidate's orange where that has."""


def color_at(share: float, scale: Scale = SCALE) -> str:
    """Return the colour at 0..1 of a scale as #rrggbbaa; beyond the ends, the end's."""
    share = min(max(share, scale[0][0]), scale[-1][0])
    for (low, first), (high, second) in pairwise(scale):
        if share <= high:
            part = (share - low) / (high - low)
            pairs = zip(_channels(first), _channels(second), strict=True)
            return "#" + "".join(f"{round(x + (y - x) * part):02x}" for x, y in pairs)
    return scale[-1][1]


def css(color: str) -> str:
    """Return #rrggbbaa as rgba(), which plotly reads."""
    red, green, blue, alpha = _channels(color)
    return f"rgba({red},{green},{blue},{alpha / 255:.3f})"


def _channels(text: str) -> tuple[int, int, int, int]:
    """Return red, green, blue and opacity, 0..255."""
    red, green, blue = (int(text[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue, int(text[7:9] or "ff", 16)
