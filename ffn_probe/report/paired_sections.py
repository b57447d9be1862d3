"""The sections of a paired report: the output, the blocks, their stages, patches, settings."""

import math
from collections.abc import Callable, Sequence

from ffn_probe.attribution.attribution import BlockAttribution, Interval, Output, StageError
from ffn_probe.report.bars import stages_svg
from ffn_probe.report.depth import depth_svg, likeness_svg, patches_svg
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_causes import causes, factorial, hypotheses, norm, regions, theory
from ffn_probe.report.paired_words import (
    MARKS,
    between,
    decibels,
    in_short,
    marked,
    named,
    output_drifts,
    parted,
    percent,
    where,
    worst,
)
from ffn_probe.report.section import Chart, Numbers, Section
from ffn_probe.report.words import number

_PICTURES = 6
_REASONS = 3

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
_DEPTH = (
    "Local is the candidate's block on the reference's input; inherited is what the blocks "
    "before hand to it. The shares are of the error energy at the block's output and add, with "
    "the cross term, to 100 %."
)
_LEVELS = (
    "SQNR at the output of every block. What is equal lies on the lowest line; ? marks what "
    "cannot be told."
)
_LIKENESS = "Linear CKA of the outputs of every pair of blocks, which no rotation changes"
_STAGES = (
    "Injected is the error of a stage that is fed by the reference's stage before it; "
    "accumulated is what stands there when the block is fed the reference's residual stream."
)
_NO_DRIFT = "The final error is under the noise floor, so that no share of it means anything."
_PATCHES = (
    "The output of one block is exchanged and both models run to their end. The two directions "
    "differ where later blocks answer to it; the shares need not add to 100 %."
)
_PATCH_HEAD = "layer, block, removed, removed 95 %, created, created 95 %"


def sections(story: Story) -> list[Section]:
    """Return the sections that have something to say, in the order of a report."""
    return [made for build in _SECTIONS if (made := build(story)) is not None]


# ---- the output -------------------------------------------------------------------------


def output(story: Story) -> Section | None:
    """Return the drift at the model's output beside its floor."""
    found = story.attribution.output
    if found is None:
        return Section("At the model's output", ("The outputs were not compared.",))
    rows = [row for value, row in _measured(found) if not math.isnan(value)]
    tokens = f"{found.tokens:,} tokens; status" if found.tokens else "Status"
    text = f"{tokens}: {found.status}."
    if not rows:
        return Section("At the model's output", (text, "Nothing could be measured there."))
    table = Numbers.of(_OUTPUT_HEAD, rows, right=("value", "95 % interval", "floor"))
    return Section("At the model's output", (text,), numbers=(table,))


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


# ---- the blocks -------------------------------------------------------------------------


def depth(story: Story) -> Section | None:
    """Return where in depth the error is made and where it is only inherited."""
    blocks = story.attribution.blocks
    if not blocks:
        return Section("Block by block", ("No block was paired.",))
    if all(block.status == "unpaired" for block in blocks):
        chart = Chart(likeness_svg(blocks), _LIKENESS, (_block_table(blocks),))
        return Section("Block by block", (_unpaired(blocks),), (chart,))
    chart = Chart(depth_svg(blocks), _LEVELS, (_block_table(blocks),))
    return Section("Block by block", (_DEPTH, _unpaired(blocks)), (chart,), (_shares(blocks),))


def _unpaired(blocks: Sequence[BlockAttribution]) -> str:
    lost = [block for block in blocks if block.status == "unpaired"]
    if not lost:
        return ""
    reasons = list(dict.fromkeys(block.reason for block in lost if block.reason))
    return (
        f"{len(lost)} of {len(blocks)} blocks cannot be compared value by value (marked ?): "
        "they are compared by their distributions and by CKA. "
        f"Why: {'; '.join(reasons[:_REASONS]) or 'not said'}."
    )


def _block_table(blocks: Sequence[BlockAttribution]) -> Numbers:
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


def _share(value: Interval | None) -> tuple[str, str]:
    return ("-", "-") if value is None else (percent(value.value), between(value))


def _shares(blocks: Sequence[BlockAttribution]) -> Numbers:
    rows = [
        (str(b.layer), named(b.block),
         "the same" if b.candidate == b.block else named(b.candidate),
         *_share(b.local), *_share(b.inherited), *_share(b.cross), in_short(b.reason))
        for b in blocks
    ]  # fmt: skip
    right = set(_SHARE_HEAD.split(", ")) - {"block", "candidate", "remark"}
    caption = "Shares of the error energy at the block's output, end to end"
    return Numbers.of(_SHARE_HEAD, rows, right=right, caption=caption)


def _fine(value: float) -> str:
    """Return a ratio with five decimals: cosines differ far behind the point."""
    return "-" if value != value else f"{value:.5f}"  # noqa: PLR0124 - NaN


def stages(story: Story) -> Section | None:
    """Return what each stage of the worst blocks adds."""
    told = [b for b in worst(story.attribution, _PICTURES) if b.stages]
    if not told:
        return None
    charts = tuple(Chart(stages_svg(b), where(b), (_stage_table(b.stages),)) for b in told)
    return Section("Stage by stage", (_STAGES,), charts, small=True)


def _stage_table(found: Sequence[StageError]) -> Numbers:
    rows = [
        (MARKS.get(s.status, ("?",))[0], s.stage, s.role, *map(decibels, (s.injected_db,
         s.accumulated_db, s.end_db, s.floor_db)))
        for s in found
    ]  # fmt: skip
    right = ("injected", "accumulated", "end to end", "floor")
    return Numbers.of(_STAGE_HEAD, rows, right=right, caption=_SIGNS)


# ---- patches ----------------------------------------------------------------------------


def patches(story: Story) -> Section | None:
    """Return what happens to the final error when one block is exchanged."""
    told = [b for b in story.attribution.blocks if b.patched_back or b.patched_in]
    if not told:
        return None
    if not output_drifts(story.attribution):
        return Section("One block exchanged", (_NO_DRIFT,))
    rows = [
        (str(b.layer), named(b.block), *_share(b.patched_back), *_share(b.patched_in))
        for b in told
    ]
    right = ("layer", "removed", "removed 95 %", "created", "created 95 %")
    caption = "Share of the final error that each block moves"
    table = Numbers.of(_PATCH_HEAD, rows, right=right)
    chart = Chart(patches_svg(told), caption, (table,))
    parts = tuple(_patched_parts(b) for b in told if b.patched_parts)
    text = (_PATCHES, _outside(story.attribution.patched_all))
    return Section("One block exchanged", text, (chart,), parts)


def _outside(all_back: Interval | None) -> str:
    if all_back is None or math.isnan(all_back.value):
        return ""
    return (
        f"With every block the reference's {percent(all_back.value)} of the final error goes; "
        "what stays is made outside of the blocks."
    )


def _patched_parts(block: BlockAttribution) -> Numbers:
    rows = [(parted(c.part), percent(c.share.value), between(c.share))
            for c in block.patched_parts]  # fmt: skip
    caption = f"Final error that goes when one part of {where(block)} is put back"
    right = ("removed", "removed 95 %")
    return Numbers.of("part, removed, removed 95 %", rows, right=right, caption=caption)


# ---- how it was made --------------------------------------------------------------------


def made(story: Story) -> Section | None:
    """Return the versions and settings of the run."""
    if not story.made:
        return None
    table = Numbers.of("setting, reference, candidate", story.made, wrap=True)
    return Section("Versions and settings", numbers=(table,))


_SECTIONS: tuple[Callable[[Story], Section | None], ...] = (
    output, hypotheses, depth, stages, causes, theory, norm, regions, factorial, patches, made,
)  # fmt: skip
