"""The tables of numbers of an attribution, for a report and for the pages of the dashboard."""

import math
from collections.abc import Iterable, Sequence

from ffn_probe.attribution.attribution import (
    BlockAttribution,
    Factorial,
    Hypothesis,
    Interval,
    Output,
    Region,
    StageError,
    Theory,
)
from ffn_probe.report.paired_words import (
    MARKS,
    between,
    decibels,
    in_short,
    marked,
    named,
    parted,
    percent,
    where,
)
from ffn_probe.report.section import Numbers
from ffn_probe.report.words import number

_OUTPUT_HEAD = "measure, value, 95 % interval, floor, unit, in words"
_BLOCK_HEAD = (
    "status, layer, block, end to end dB, local dB, inherited dB, floor dB, norm ratio, "
    "cosine, standardised, CKA"
)
_SHARE_HEAD = (
    "layer, block, candidate, local, local 95 %, inherited, inherited 95 %, cross, cross 95 %, "
    "remark"
)
_STAGE_HEAD = ", stage, role, injected, accumulated, end to end, floor"
_SIGNS = "All in dB; ! is above the floor, \u2713 is not."
_PATCH_HEAD = "layer, block, removed, removed 95 %, created, created 95 %"
_CAUSE_HEAD = "part, share, 95 % interval, error energy"
_SPLIT_HEAD = "layer, block, part, share, 95 % interval, error energy"
_THEORY_HEAD = "verdict, layer, what, expected, observed, unit, tolerance, source"
_REGION_HEAD = "region, from, to, share of the error, share of the gate"
_EFFECT_HEAD = "effect, value, 95 % interval, share of the total"
_HYPOTHESIS_HEAD = (
    "verdict, layer, hypothesis, stage, predicted dB, measured dB, after the fix dB, floor dB, "
    "block"
)


# ---- the output and the blocks ----------------------------------------------------------


def output_numbers(found: Output) -> Numbers | None:
    """Return what was measured at the model's output beside its floor, None for nothing."""
    rows = [row for value, row in _measured(found) if not math.isnan(value)]
    if not rows:
        return None
    return Numbers.of(_OUTPUT_HEAD, rows, right=("value", "95 % interval", "floor"))


def _measured(found: Output) -> list[tuple[float, tuple[str, ...]]]:
    """Return (value, row) of everything that may have been measured at the output."""
    kl, top1, loss = found.kl, found.top1, found.loss_difference
    return [
        (kl.value, ("KL divergence", number(kl.value), between(kl, share=False),
         number(found.kl_floor), "nats a token", "candidate against reference, per token")),
        (top1.value, ("same first choice", percent(top1.value), between(top1), "-", "of tokens",
         "both models choose the same token")),
        (loss.value, ("loss difference", number(loss.value, signed=True),
         between(loss, share=False), "-", "nats a token", "candidate less reference")),
        (found.sqnr_db, ("SQNR", decibels(found.sqnr_db), "-", decibels(found.floor_db), "dB",
         "energy of the outputs over that of their difference")),
    ]  # fmt: skip


def block_numbers(blocks: Sequence[BlockAttribution]) -> Numbers:
    """Return every block at its output: levels of error and likeness."""
    rows = [
        (
            marked(b.status), str(b.layer), named(b.block),
            *map(decibels, (b.end_db, b.local_db, b.inherited_db, b.floor_db)),
            *map(_fine, (b.gain, b.cosine, b.cosine_standardised, b.cka)),
        )
        for b in blocks
    ]  # fmt: skip
    right = set(_BLOCK_HEAD.split(", ")) - {"status", "block"}
    caption = "Every block at its output"
    return Numbers.of(_BLOCK_HEAD, rows, right=right, caption=caption)


def share_numbers(blocks: Sequence[BlockAttribution]) -> Numbers:
    """Return how local, inherited and cross error share the energy at every output."""
    rows = [
        (str(b.layer), named(b.block),
         "the same" if b.candidate == b.block else named(b.candidate),
         *_share(b.local), *_share(b.inherited), *_share(b.cross), in_short(b.reason))
        for b in blocks
    ]  # fmt: skip
    right = set(_SHARE_HEAD.split(", ")) - {"block", "candidate", "remark"}
    caption = "Shares of the error energy at the block's output, end to end"
    return Numbers.of(_SHARE_HEAD, rows, right=right, caption=caption)


def stage_numbers(found: Sequence[StageError]) -> Numbers:
    """Return the error of every stage of a block."""
    rows = [
        (MARKS.get(s.status, ("?",))[0], s.stage, s.role, *map(decibels, (s.injected_db,
         s.accumulated_db, s.end_db, s.floor_db)))
        for s in found
    ]  # fmt: skip
    right = ("injected", "accumulated", "end to end", "floor")
    return Numbers.of(_STAGE_HEAD, rows, right=right, caption=_SIGNS)


def _share(value: Interval | None) -> tuple[str, str]:
    return ("-", "-") if value is None else (percent(value.value), between(value))


def _fine(value: float) -> str:
    """Return a ratio with five decimals: cosines differ far behind the point."""
    return "-" if value != value else f"{value:.5f}"  # noqa: PLR0124 - NaN


# ---- patches ----------------------------------------------------------------------------


def patch_numbers(blocks: Sequence[BlockAttribution]) -> Numbers:
    """Return the shares of the final error that exchanging each block moves."""
    rows = [
        (str(b.layer), named(b.block), *_share(b.patched_back), *_share(b.patched_in))
        for b in blocks
    ]
    right = ("layer", "removed", "removed 95 %", "created", "created 95 %")
    return Numbers.of(_PATCH_HEAD, rows, right=right)


def part_numbers(block: BlockAttribution) -> Numbers:
    """Return the shares of the final error that go when one part of a block is put back."""
    rows = [(parted(c.part), percent(c.share.value), between(c.share))
            for c in block.patched_parts]  # fmt: skip
    caption = f"Final error that goes when one part of {where(block)} is put back"
    right = ("removed", "removed 95 %")
    return Numbers.of("part, removed, removed 95 %", rows, right=right, caption=caption)


# ---- parts of a block -------------------------------------------------------------------


def cause_numbers(block: BlockAttribution) -> Numbers:
    """Return how the parts of a block share its own error."""
    right = ("share", "95 % interval", "error energy")
    return Numbers.of(_CAUSE_HEAD, cause_rows(block), right=right)


def other_cause_numbers(blocks: Sequence[BlockAttribution]) -> Numbers:
    """Return the shares of the parts of several blocks."""
    rows = [(str(b.layer), named(b.block), *row) for b in blocks for row in cause_rows(b)]
    right = ("layer", "share", "95 % interval", "error energy")
    caption = f"The {len(blocks)} other blocks"
    return Numbers.of("layer, block, " + _CAUSE_HEAD, rows, right=right, caption=caption)


def cause_rows(block: BlockAttribution) -> list[tuple[str, ...]]:
    """Return part, share, interval and energy of each part, the interaction last."""
    rows = [
        (parted(c.part), percent(c.share.value), between(c.share), number(c.energy))
        for c in block.causes
    ]
    word = "" if block.separable else " (not separable)"
    return [*rows, ("interaction" + word, percent(block.interaction), "-", "-")]


def norm_numbers(blocks: Sequence[BlockAttribution]) -> Numbers:
    """Return how the error of LayerNorm to RMSNorm splits in every block."""
    rows = [
        (str(b.layer), named(b.block), parted(c.part), percent(c.share.value), between(c.share),
         number(c.energy))
        for b in blocks
        for c in b.norm_split
    ]  # fmt: skip
    right = ("layer", "share", "95 % interval", "error energy")
    return Numbers.of(_SPLIT_HEAD, rows, right=right)


def region_numbers(block: BlockAttribution) -> Numbers:
    """Return the regions of the gate with their shares of the activation's error."""
    right = ("from", "to", "share of the error", "share of the gate")
    return Numbers.of(_REGION_HEAD, map(_region, block.regions), right=right)


def other_region_numbers(blocks: Sequence[BlockAttribution]) -> Numbers:
    """Return the regions of several blocks."""
    rows = [(str(b.layer), named(b.block), *_region(r)) for b in blocks for r in b.regions]
    right = ("layer", "from", "to", "share of the error", "share of the gate")
    caption = f"The {len(blocks)} other blocks"
    return Numbers.of("layer, block, " + _REGION_HEAD, rows, right=right, caption=caption)


def _region(region: Region) -> tuple[str, ...]:
    return (region.name, number(region.low), number(region.high), percent(region.share),
            percent(region.gate_share))  # fmt: skip


# ---- theory, factors, hypotheses --------------------------------------------------------


def theory_numbers(found: Iterable[tuple[str, Theory]]) -> Numbers:
    """Return what theory expects beside what was seen; each with its layer, or "model"."""
    rows = [
        (marked(t.verdict), layer, t.name, number(t.expected), number(t.observed),
         t.unit, number(t.tolerance), t.source)
        for layer, t in found
    ]  # fmt: skip
    right = ("layer", "expected", "observed", "tolerance")
    return Numbers.of(_THEORY_HEAD, rows, right=right)


def effect_numbers(found: Factorial) -> Numbers:
    """Return the main effects, the interaction and the total of two factors."""
    whole = found.total.value
    rows = [
        (
            name,
            number(v.value),
            between(v, share=False),
            percent(v.value / whole) if whole else "-",
        )
        for name, v in effects(found)
    ]
    right = ("value", "95 % interval", "share of the total")
    return Numbers.of(_EFFECT_HEAD, rows, right=right)


def effects(found: Factorial) -> list[tuple[str, Interval]]:
    """Return name and value of the main effects, the interaction and the total."""
    main = zip(found.factors, found.main, strict=True)
    return [*main, ("interaction", found.interaction), ("total", found.total)]


def cell_numbers(found: Factorial) -> Numbers:
    """Return the metric of the four models."""
    one, other = found.factors
    v00, v10, v01, v11 = map(number, found.cells)
    head = (found.metric, f"{other} kept", f"{other} swapped")
    rows = ((f"{one} kept", v00, v01), (f"{one} swapped", v10, v11))
    caption = f"{found.metric} of the four models, {found.unit}"
    return Numbers(head, rows, frozenset({1, 2}), caption)


def hypothesis_numbers(ranked: Sequence[Hypothesis], *, caption: str = "") -> Numbers:
    """Return the hypotheses in the order given, with what their fix leaves."""
    rows = [
        (marked("fits" if h.reached else "excluded"), str(h.layer), h.name, h.stage,
         *map(decibels, (h.predicted_db, h.measured_db, h.after_db, h.floor_db)),
         named(h.block))
        for h in ranked
    ]  # fmt: skip
    right = ("layer", "predicted dB", "measured dB", "after the fix dB", "floor dB")
    return Numbers.of(_HYPOTHESIS_HEAD, rows, right=right, caption=caption)
