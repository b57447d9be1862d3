"""Numbers of an attribution as the reports and the terminal write them."""

import math
import re
from collections.abc import Mapping

from ffn_probe.attribution.attribution import Attribution, BlockAttribution, Interval
from ffn_probe.figures.numbers import axis_percent, decibels, number, percent

__all__ = [
    "MARKS",
    "TELLING",
    "axis_percent",
    "between",
    "decibels",
    "in_short",
    "marked",
    "named",
    "output_drifts",
    "parted",
    "percent",
    "sentences",
    "where",
    "worst",
]

MARKS: Mapping[str, tuple[str, str]] = {
    "indistinguishable": ("\u2713", "PASS"), "expected": ("\u2248", "a"),
    "drift": ("!", "WARN"), "bug": ("\u2715", "FAIL"), "unexplained": ("?", "FAIL"),
    "local": ("\u2715", "FAIL"), "mixed": ("!", "WARN"), "inherited": ("\u2193", "WARN"),
    "unpaired": ("?", "b"), "fits": ("\u2715", "FAIL"), "excluded": ("-", "dim"),
}  # fmt: skip
"""A status -> its sign and the class of its colour."""

_REASON = 48  # characters of a reason in a table
_NAME = 40  # characters of a block's name in a table

TELLING = ("local", "mixed")
"""Statuses of blocks that add an error of their own."""


def marked(status: str) -> str:
    """Return a status with its sign."""
    sign, _ = MARKS.get(status, ("", ""))
    return f"{sign} {status}".strip()


def between(interval: Interval, *, share: bool = True) -> str:
    """Return the ends of an interval, a dash when there were too few folds for one."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return "-"
    write = percent if share else number
    return f"{write(interval.low)} to {write(interval.high)}"


def sentences(text: str) -> list[str]:
    """Return the sentences of a verdict.

    >>> sentences("Layer 1, stage norm: 33.3 dB (floor 120 dB). Theory expects it.")
    ['Layer 1, stage norm: 33.3 dB (floor 120 dB).', 'Theory expects it.']
    """
    return [words for words in re.split(r"(?<=\.) (?=[A-Z0-9])", text.strip()) if words]


def in_short(reason: str) -> str:
    """Return what a table has room for of the reason why a block is not paired."""
    first = reason.partition(":")[0]
    return first if len(first) <= _REASON else first[: _REASON - 1] + "\u2026"


def parted(name: str) -> str:
    """Return a part of a block in words: "up weights" for w_up."""
    if name in {"w_gate", "w_up", "w_down"}:
        return f"{name[2:]} weights"
    return name.replace("_", " ")


def named(block: str) -> str:
    """Return the name of a block; of a long one the end, which tells it from others."""
    return block if len(block) <= _NAME else "\u2026" + block[1 - _NAME :]


def where(block: BlockAttribution) -> str:
    """Return the layer and the name of a block."""
    return f"layer {block.layer} {named(block.block)}"


def output_drifts(told: Attribution) -> bool:
    """Return whether shares of the final error mean anything: it is above the floor."""
    return told.output is None or told.output.status != "indistinguishable"


def worst(attribution: Attribution, most: int) -> tuple[BlockAttribution, ...]:
    """Return the blocks with the largest error of their own; else those that drift most.

    Blocks that cannot be told from the floor or cannot be paired are left out.
    """
    told = [b for b in attribution.blocks if b.status in TELLING]
    if not told:
        told = [b for b in attribution.blocks if b.status == "inherited"]
    return tuple(sorted(told, key=_severity)[:most])


def _severity(block: BlockAttribution) -> tuple[float, float]:
    return _or_last(block.local_db), _or_last(block.end_db)


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
