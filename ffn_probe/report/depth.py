"""Charts of all blocks by depth as plain SVG: levels, likeness, patches."""

import math
from collections.abc import Callable, Sequence

from ffn_probe.attribution.attribution import BlockAttribution, Interval
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.report.axes import (
    LEFT,
    LEVEL,
    Levels,
    box,
    ends,
    known,
    layer_marks,
    legend,
    line,
    marks,
    text,
    width_of,
)
from ffn_probe.report.paired_words import axis_percent, decibels, marked, where
from ffn_probe.report.svg import opened

_SLOT = (11.0, 120.0)  # px: the narrowest and the widest block
_WIDTH = 1040.0
_Scale = Callable[[float], float]


# ---- depth ------------------------------------------------------------------------------


def depth_svg(blocks: Sequence[BlockAttribution]) -> str:
    """Return the error of every block at its output, by depth.

    Bars are the block's own (local) error, the line with dots what it inherits, the dark
    line the error end to end, the grey zone what the noise floor hides.
    """
    slot = min(max((_WIDTH - LEFT - 8) / max(len(blocks), 1), _SLOT[0]), _SLOT[1])
    right, bottom = LEFT + slot * len(blocks), 242.0
    told = [v for b in blocks for v in (b.local_db, b.inherited_db, b.end_db, b.floor_db)]
    axis = Levels.over(told, 44.0, bottom)
    entries = [
        (box(CANDIDATE), "local: the block's own error"),
        (line(REFERENCE, dot=True), "inherited from the blocks before"),
        (line("ink", dash="4 2"), "end to end"),
        (box("floor"), "under the noise floor"),
    ]
    width = max(right + 8, LEFT + sum(52 + width_of(words) for _, words in entries))
    parts = [opened(width, bottom + 44, "Error of every block by depth")]
    parts += [*legend(entries, LEFT, 9.0), text(2.0, 30.0, LEVEL, "dim")]
    parts += axis.grid(LEFT, right)
    places = [LEFT + slot * (i + 0.5) for i in range(len(blocks))]
    for x, block in zip(places, blocks, strict=True):
        parts += axis.zone(block.floor_db, x, slot)
        parts += axis.bar(block.local_db, x, slot * 0.62, CANDIDATE)
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
        if math.isnan(block.local_db) and math.isnan(block.end_db):
            parts.append(text(x, bottom - 6, "?", "mid dim"))
        parts.append(axis.cover(x, slot, _depth_words(block)))
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
    shown = layer_marks([b.layer for b in blocks], slot)
    parts = [text(places[i], bottom + 17, str(blocks[i].layer), "mid") for i in shown]
    middle = max(sum(places) / max(len(places), 1), LEFT + 20)
    return [*parts, text(middle, bottom + 35, "layer", "mid dim")]


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


# ---- patches ----------------------------------------------------------------------------


def patches_svg(blocks: Sequence[BlockAttribution]) -> str:
    """Return for every block the shares of the final error that its patches move."""
    slot = min(max((_WIDTH - LEFT - 8) / max(len(blocks), 1), _SLOT[0]), _SLOT[1])
    right, top, bottom = LEFT + slot * len(blocks), 44.0, 204.0
    told = [v for b in blocks for p in (b.patched_back, b.patched_in) if p for v in known(p)]
    low, high = ends(told, share=True)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    entries = [
        (box(REFERENCE), "removed when the reference's block is put into the candidate"),
        (box(CANDIDATE), "created when the candidate's is put into the reference"),
    ]
    width = max(right + 8, LEFT + sum(46 + width_of(words) for _, words in entries))
    parts = [opened(width, bottom + 44, "Share of the final error that each block moves")]
    parts += [*legend(entries, LEFT, 9.0), text(2.0, 28.0, "share of the final error", "dim")]
    for mark in marks(low, high):
        y = y_of(mark)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(text(LEFT - 6, y + 4, axis_percent(mark), "end dim"))
    places = [LEFT + slot * (i + 0.5) for i in range(len(blocks))]
    bar = slot * 0.36
    for x, block in zip(places, blocks, strict=True):
        parts += _upright(block.patched_back, x - bar * 0.55, bar, y_of, REFERENCE)
        parts += _upright(block.patched_in, x + bar * 0.55, bar, y_of, CANDIDATE)
    return "".join([*parts, *_layers(blocks, places, slot, bottom), "</svg>"])


def likeness_svg(blocks: Sequence[BlockAttribution]) -> str:
    """Return the CKA of every pair of blocks by depth, for blocks that pair in no other way."""
    slot = min(max((_WIDTH - LEFT - 8) / max(len(blocks), 1), _SLOT[0]), _SLOT[1])
    right, top, bottom = LEFT + slot * len(blocks), 26.0, 186.0

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * min(max(value, 0.0), 1.0)

    parts = [opened(max(right + 8, 260.0), bottom + 44, "CKA of every block by depth")]
    parts.append(text(2.0, 11.0, "CKA (1: alike but for a rotation)", "dim"))
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = y_of(mark)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(text(LEFT - 6, y + 4, f"{mark:g}", "end dim"))
    places = [LEFT + slot * (i + 0.5) for i in range(len(blocks))]
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
