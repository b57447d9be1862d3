"""Bar charts of an attribution as plain SVG: depth, stages, shares, patches."""

import math
from collections.abc import Callable, Sequence

from ffn_probe.attribution.attribution import BlockAttribution, Interval, StageError
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.report.axes import (
    Levels,
    box,
    fitted,
    layer_marks,
    legend,
    line,
    text,
    width_of,
)
from ffn_probe.report.paired_words import axis_percent, decibels, marked, percent, where
from ffn_probe.report.svg import hover, opened
from ffn_probe.report.words import number

_LEFT = 46.0  # px: the labels of the axis
_SLOT = (11.0, 120.0)  # px: the narrowest and the widest block or stage
_WIDTH = 1040.0
_AXIS = "SQNR, dB (worse upward)"
_Scale = Callable[[float], float]


# ---- depth ------------------------------------------------------------------------------


def depth_svg(blocks: Sequence[BlockAttribution]) -> str:
    """Return the error of every block at its output, by depth.

    Bars are the block's own (local) error, the line with dots what it inherits, the dark
    line the error end to end, the grey zone what the noise floor hides.
    """
    slot = min(max((_WIDTH - _LEFT - 8) / max(len(blocks), 1), _SLOT[0]), _SLOT[1])
    right, bottom = _LEFT + slot * len(blocks), 242.0
    told = [v for b in blocks for v in (b.local_db, b.inherited_db, b.end_db, b.floor_db)]
    axis = Levels.over(told, 44.0, bottom)
    entries = [
        (box(CANDIDATE), "local: the block's own error"),
        (line(REFERENCE, dot=True), "inherited from the blocks before"),
        (line("ink", dash="4 2"), "end to end"),
        (box("floor"), "under the noise floor"),
    ]
    width = max(right + 8, _LEFT + sum(52 + width_of(words) for _, words in entries))
    parts = [opened(width, bottom + 44, "Error of every block by depth")]
    parts += [*legend(entries, _LEFT, 9.0), text(2.0, 30.0, _AXIS, "dim")]
    parts += axis.grid(_LEFT, right)
    places = [_LEFT + slot * (i + 0.5) for i in range(len(blocks))]
    for x, block in zip(places, blocks, strict=True):
        parts += _zone(axis, block.floor_db, x, slot)
        parts += _bar(axis, block.local_db, x, slot * 0.62, CANDIDATE)
    parts += _line(axis, [(x, b.end_db) for x, b in zip(places, blocks, strict=True)],
                   'stroke="var(--ink)" stroke-width="1.4" stroke-dasharray="4 2"')  # fmt: skip
    inherited = [(x, b.inherited_db) for x, b in zip(places, blocks, strict=True)]
    parts += _line(axis, inherited, f'stroke="{REFERENCE}" stroke-width="2"')
    parts += [
        f'<circle cx="{x:.1f}" cy="{axis.y(db):.1f}" r="{min(3.0, slot / 5):.1f}" '
        f'fill="{REFERENCE}"/>'
        for x, db in inherited
        if not math.isnan(db)
    ]
    for x, block in zip(places, blocks, strict=True):
        if block.status == "unpaired":
            parts.append(text(x, bottom - 6, "?", "mid dim"))
        parts.append(_cover(x, slot, axis, _depth_words(block)))
    return "".join([*parts, *_layers(blocks, places, slot, bottom), "</svg>"])


def _depth_words(block: BlockAttribution) -> str:
    return (
        f"{where(block)}: {marked(block.status)}; local {decibels(block.local_db)} dB, "
        f"inherited {decibels(block.inherited_db)} dB, end to end {decibels(block.end_db)} dB, "
        f"floor {decibels(block.floor_db)} dB"
    )


def _layers(
    blocks: Sequence[BlockAttribution], places: Sequence[float], slot: float, bottom: float
) -> list[str]:
    marks = layer_marks([b.layer for b in blocks], slot)
    parts = [text(places[i], bottom + 17, str(blocks[i].layer), "mid") for i in marks]
    middle = max(sum(places) / max(len(places), 1), _LEFT + 20)
    return [*parts, text(middle, bottom + 35, "layer", "mid dim")]


# ---- stages -----------------------------------------------------------------------------


def stages_svg(block: BlockAttribution, *, width: float = 500.0) -> str:
    """Return the error stage by stage of one block: what each injects, what stands there."""
    stages = block.stages
    slot = min((width - _LEFT - 8) / max(len(stages), 1), 96.0)
    right, bottom = _LEFT + slot * len(stages), 210.0
    told = [v for s in stages for v in (s.injected_db, s.accumulated_db, s.end_db, s.floor_db)]
    axis = Levels.over(told, 54.0, bottom)
    entries = [
        (box(CANDIDATE), "injected here"),
        (box(REFERENCE), "accumulated in the block"),
        (line("ink"), "end to end"),
        (box("floor"), "floor"),
    ]
    parts = [opened(width, bottom + 22, f"Error by stage of {where(block)}")]
    parts += [*legend(entries, _LEFT - 36, 9.0), text(2.0, 34.0, _AXIS, "dim")]
    parts += axis.grid(_LEFT, right)
    for i, stage in enumerate(stages):
        parts += _stage(axis, stage, _LEFT + slot * (i + 0.5), slot)
        label = fitted(stage.stage, slot - 4)
        parts.append(text(_LEFT + slot * (i + 0.5), bottom + 16, label, "mid"))
    return "".join([*parts, "</svg>"])


def _stage(axis: Levels, stage: StageError, x: float, slot: float) -> list[str]:
    bar = slot * 0.3
    parts = _zone(axis, stage.floor_db, x, slot)
    parts += _bar(axis, stage.injected_db, x - bar * 0.55, bar, CANDIDATE)
    parts += _bar(axis, stage.accumulated_db, x + bar * 0.55, bar, REFERENCE)
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
    return [*parts, _cover(x, slot, axis, words)]


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
    low, high = _ends([v for _, value in rows for v in _numbers(value)], share=share)
    bottom = 6 + step * len(rows)

    def x_of(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = [opened(width, bottom + 40, title)]
    for mark in _marks(low, high):
        x = x_of(mark)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{bottom}" class="grid"/>')
        parts.append(text(x, bottom + 15, mark_text(mark), "mid dim"))
    parts.append(text((left + right) / 2, bottom + 33, unit, "mid dim"))
    for i, (label, value) in enumerate(rows):
        y = 6 + step * i
        parts.append(text(left - 8, y + 15, fitted(label, left - 8), "end"))
        parts.append(text(right + 8, y + 15, write(value.value)))
        parts += _span(value, x_of, y, hollow=hollow)
    zero = x_of(0.0)
    axis = f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="2" y2="{bottom}" stroke="var(--ink)"/>'
    return "".join([*parts, axis, "</svg>"])


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


def _numbers(value: Interval) -> list[float]:
    return [v for v in (value.value, value.low, value.high) if math.isfinite(v)]


def _ends(values: Sequence[float], *, share: bool) -> tuple[float, float]:
    low, high = min([0.0, *values]), max([1.0 if share else 0.0, *values])
    if low == high:
        return low, low + 1.0
    pad = 0.02 * (high - low)
    return (low - pad if low < 0 else low), high + pad


def _marks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(d * power for d in (1, 2, 5, 10) if d * power >= rough)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


# ---- patches ----------------------------------------------------------------------------


def patches_svg(blocks: Sequence[BlockAttribution]) -> str:
    """Return for every block the shares of the final error that its patches move."""
    slot = min(max((_WIDTH - _LEFT - 8) / max(len(blocks), 1), _SLOT[0]), _SLOT[1])
    right, top, bottom = _LEFT + slot * len(blocks), 44.0, 204.0
    told = [v for b in blocks for p in (b.patched_back, b.patched_in) if p for v in _numbers(p)]
    low, high = _ends(told, share=True)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    entries = [
        (box(REFERENCE), "removed when the reference's block is put into the candidate"),
        (box(CANDIDATE), "created when the candidate's is put into the reference"),
    ]
    width = max(right + 8, _LEFT + sum(46 + width_of(words) for _, words in entries))
    parts = [opened(width, bottom + 44, "Share of the final error that each block moves")]
    parts += [*legend(entries, _LEFT, 9.0), text(2.0, 28.0, "share of the final error", "dim")]
    for mark in _marks(low, high):
        y = y_of(mark)
        parts.append(
            f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        parts.append(text(_LEFT - 6, y + 4, axis_percent(mark), "end dim"))
    places = [_LEFT + slot * (i + 0.5) for i in range(len(blocks))]
    bar = slot * 0.36
    for x, block in zip(places, blocks, strict=True):
        parts += _upright(block.patched_back, x - bar * 0.55, bar, y_of, REFERENCE)
        parts += _upright(block.patched_in, x + bar * 0.55, bar, y_of, CANDIDATE)
    return "".join([*parts, *_layers(blocks, places, slot, bottom), "</svg>"])


def likeness_svg(blocks: Sequence[BlockAttribution]) -> str:
    """Return the CKA of every pair of blocks by depth, for blocks that pair in no other way."""
    slot = min(max((_WIDTH - _LEFT - 8) / max(len(blocks), 1), _SLOT[0]), _SLOT[1])
    right, top, bottom = _LEFT + slot * len(blocks), 26.0, 186.0

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * min(max(value, 0.0), 1.0)

    parts = [opened(max(right + 8, 260.0), bottom + 44, "CKA of every block by depth")]
    parts.append(text(2.0, 11.0, "CKA (1: alike but for a rotation)", "dim"))
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = y_of(mark)
        parts.append(
            f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        parts.append(text(_LEFT - 6, y + 4, f"{mark:g}", "end dim"))
    places = [_LEFT + slot * (i + 0.5) for i in range(len(blocks))]
    for x, block in zip(places, blocks, strict=True):
        parts += _upright(Interval(block.cka), x, slot * 0.62, y_of, CANDIDATE)
    return "".join([*parts, *_layers(blocks, places, slot, bottom), "</svg>"])


def _upright(
    value: Interval | None, x: float, width: float, y_of: _Scale, color: str
) -> list[str]:
    if value is None or not math.isfinite(value.value):
        return []
    one, other = sorted((y_of(0.0), y_of(value.value)))
    parts = [
        (
            f'<rect x="{x - width / 2:.1f}" y="{one:.1f}" width="{width:.1f}" '
            f'height="{max(other - one, 0.5):.1f}" fill="{color}"/>'
        )
    ]
    if math.isfinite(value.low) and math.isfinite(value.high):
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y_of(value.low):.1f}" '
            f'y2="{y_of(value.high):.1f}" stroke="var(--ink)" stroke-width="1.2"/>'
        )
    return parts


# ---- pieces -----------------------------------------------------------------------------


def _zone(axis: Levels, floor: float, x: float, slot: float) -> list[str]:
    if math.isnan(floor):
        return []
    y = axis.y(floor)
    return [
        (
            f'<rect x="{x - slot / 2:.1f}" y="{y:.1f}" width="{slot:.1f}" '
            f'height="{axis.bottom - y:.1f}" class="floor"/>'
        )
    ]


def _bar(axis: Levels, level: float, x: float, width: float, color: str) -> list[str]:
    if math.isnan(level):
        return []
    y = axis.y(level)
    return [
        (
            f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{axis.bottom - y:.1f}" fill="{color}"/>'
        )
    ]


def _line(axis: Levels, points: Sequence[tuple[float, float]], style: str) -> list[str]:
    """Return a line through the points that is lifted where a level is not known."""
    path, lifted = "", True
    for x, level in points:
        if math.isnan(level):
            lifted = True
            continue
        path += f"{'M' if lifted else 'L'}{x:.1f} {axis.y(level):.1f}"
        lifted = False
    return [f'<path d="{path}" fill="none" {style}/>'] if path else []


def _cover(x: float, slot: float, axis: Levels, words: str) -> str:
    """Return what shows words when the pointer rests on a column."""
    return hover(x - slot / 2, axis.top, slot, axis.bottom - axis.top, words)
