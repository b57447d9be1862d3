"""Bar charts of one block as plain SVG: its stages, and shares with their intervals."""

import math
from collections.abc import Callable, Sequence

from ffn_probe.attribution.attribution import BlockAttribution, Interval, StageError
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.report.axes import (
    LEFT,
    LEVEL,
    Levels,
    box,
    ends,
    fitted,
    known,
    legend,
    line,
    marks,
    text,
    width_of,
)
from ffn_probe.report.paired_words import axis_percent, decibels, percent, where
from ffn_probe.report.svg import opened
from ffn_probe.report.words import number

_Scale = Callable[[float], float]


# ---- stages -----------------------------------------------------------------------------


def stages_svg(block: BlockAttribution, *, width: float = 500.0) -> str:
    """Return the error stage by stage of one block: what each injects, what stands there."""
    stages = block.stages
    slot = min((width - LEFT - 8) / max(len(stages), 1), 96.0)
    right, bottom = LEFT + slot * len(stages), 210.0
    told = [v for s in stages for v in (s.injected_db, s.accumulated_db, s.end_db, s.floor_db)]
    axis = Levels.over(told, 54.0, bottom)
    entries = [
        (box(CANDIDATE), "injected here"),
        (box(REFERENCE), "accumulated in the block"),
        (line("ink"), "end to end"),
        (box("floor"), "floor"),
    ]
    parts = [opened(width, bottom + 22, f"Error by stage of {where(block)}")]
    parts += [*legend(entries, LEFT - 36, 9.0), text(2.0, 34.0, LEVEL, "dim")]
    parts += axis.grid(LEFT, right)
    for i, stage in enumerate(stages):
        parts += _stage(axis, stage, LEFT + slot * (i + 0.5), slot)
        label = fitted(stage.stage, slot - 4)
        parts.append(text(LEFT + slot * (i + 0.5), bottom + 16, label, "mid"))
    return "".join([*parts, "</svg>"])


def _stage(axis: Levels, stage: StageError, x: float, slot: float) -> list[str]:
    bar = slot * 0.3
    parts = axis.zone(stage.floor_db, x, slot)
    parts += axis.bar(stage.injected_db, x - bar * 0.55, bar, CANDIDATE)
    parts += axis.bar(stage.accumulated_db, x + bar * 0.55, bar, REFERENCE)
    if not math.isnan(stage.end_db):
        y = axis.y(stage.end_db)
        parts.append(
            f'<line x1="{x - slot * 0.42:.1f}" x2="{x + slot * 0.42:.1f}" y1="{y:.1f}" '
            f'y2="{y:.1f}" stroke="var(--ink)" stroke-width="2"/>'
        )
    words = (
        f"{stage.stage} ({stage.role}): injected {decibels(stage.injected_db)} dB, accumulated "
        f"{decibels(stage.accumulated_db)} dB, end to end {decibels(stage.end_db)} dB, floor "
        f"{decibels(stage.floor_db)} dB"
    )
    return [*parts, axis.cover(x, slot, words)]


# ---- shares -----------------------------------------------------------------------------


def spans_svg(
    rows: Sequence[tuple[str, Interval]],
    *,
    title: str,
    unit: str,
    share: bool = True,
    hollow: bool = False,
    width: float = 500.0,
) -> str:
    """Return horizontal bars with their intervals.

    Args:
        rows: label and value; a value that is NaN has no bar.
        title: what the picture shows, for readers that see none.
        unit: what stands under the axis.
        share: whether the values are shares (the axis holds 0 and 1 and is in per cent).
        hollow: draw outlines: the parts cannot be told apart.
        width: of the picture, in pixels.
    """
    write, mark_text = (percent, axis_percent) if share else (number, number)
    left = min(max((width_of(label) for label, _ in rows), default=40.0) + 14, width * 0.36)
    right, step = width - 74, 25.0
    low, high = ends([v for _, value in rows for v in known(value)], share=share)
    bottom = 6 + step * len(rows)

    def x_of(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = [opened(width, bottom + 40, title)]
    for mark in _spaced(low, high, right - left, mark_text):
        x = x_of(mark)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{bottom}" class="grid"/>')
        parts.append(text(x, bottom + 15, mark_text(mark), "mid dim"))
    middle = (left + right) / 2
    parts.append(text(middle, bottom + 33, fitted(unit, 2 * (width - middle)), "mid dim"))
    for i, (label, value) in enumerate(rows):
        y = 6 + step * i
        parts.append(text(left - 8, y + 15, fitted(label, left - 8), "end"))
        parts.append(text(right + 8, y + 15, write(value.value)))
        parts += _span(value, x_of, y, hollow=hollow)
    zero = x_of(0.0)
    axis = f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="2" y2="{bottom}" stroke="var(--ink)"/>'
    return "".join([*parts, axis, "</svg>"])


def _spaced(low: float, high: float, room: float, write: Callable[[float], str]) -> list[float]:
    """Return round numbers whose labels have room beside each other."""
    for most in (5, 3, 2):
        found = marks(low, high, most)
        widest = max((width_of(write(mark)) for mark in found), default=0.0)
        if len(found) < 2 or widest + 8 <= room * (found[1] - found[0]) / (high - low):
            return found
    return [0.0]


def _span(value: Interval, x_of: _Scale, y: float, *, hollow: bool) -> list[str]:
    """Return the bar of one value and the line of its interval."""
    if not math.isfinite(value.value):
        return []
    one, other = sorted((x_of(0.0), x_of(value.value)))
    style = f'fill="{CANDIDATE}"'
    if hollow:
        style = f'fill="none" stroke="{CANDIDATE}" stroke-width="1.5" stroke-dasharray="4 2"'
    parts = [
        (
            f'<rect x="{one:.1f}" y="{y + 4:.1f}" width="{max(other - one, 0.5):.1f}" '
            f'height="14" {style}/>'
        )
    ]
    if math.isfinite(value.low) and math.isfinite(value.high):
        a, b, middle = x_of(value.low), x_of(value.high), y + 11
        parts.append(
            f'<path d="M{a:.1f} {middle - 4:.1f}v8M{b:.1f} {middle - 4:.1f}v8M{a:.1f} '
            f'{middle:.1f}H{b:.1f}" stroke="var(--ink)" stroke-width="1.3" fill="none"/>'
        )
    return parts
