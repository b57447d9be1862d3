"""The sections of a paired report: the output, the blocks, their stages, patches, settings."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from ffn_probe.attribution.attribution import BlockAttribution, Interval
from ffn_probe.figures.depth import depth_chart, likeness_chart
from ffn_probe.figures.patching import patching_chart
from ffn_probe.figures.waterfall import waterfall_chart
from ffn_probe.report.bars import stages_svg
from ffn_probe.report.depth import depth_svg, likeness_svg, patches_svg
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_causes import causes, factorial, hypotheses, norm, regions, theory
from ffn_probe.report.paired_numbers import (
    block_numbers,
    output_numbers,
    part_numbers,
    patch_numbers,
    share_numbers,
    stage_numbers,
)
from ffn_probe.report.paired_words import (
    output_drifts,
    percent,
    where,
    worst,
)
from ffn_probe.report.section import Chart, Numbers, Section

_PICTURES = 6
_REASONS = 3

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


def sections(story: Story) -> list[Section]:
    """Return the sections that have something to say, in the order of a report."""
    return [made for build in _SECTIONS if (made := build(story)) is not None]


# ---- the output -------------------------------------------------------------------------


def output(story: Story) -> Section | None:
    """Return the drift at the model's output beside its floor."""
    found = story.attribution.output
    if found is None:
        return Section("At the model's output", ("The outputs were not compared.",))
    tokens = f"{found.tokens:,} tokens; status" if found.tokens else "Status"
    text = f"{tokens}: {found.status}."
    table = output_numbers(found)
    if table is None:
        return Section("At the model's output", (text, "Nothing could be measured there."))
    return Section("At the model's output", (text,), numbers=(table,))


# ---- the blocks -------------------------------------------------------------------------


def depth(story: Story) -> Section | None:
    """Return where in depth the error is made and where it is only inherited."""
    blocks = story.attribution.blocks
    if not blocks:
        return Section("Block by block", ("No block was paired.",))
    if all(block.status == "unpaired" for block in blocks):
        chart = Chart(
            likeness_svg(blocks), _LIKENESS, (block_numbers(blocks),), file="likeness",
            draw=lambda: likeness_chart(blocks),
        )  # fmt: skip
        return Section("Block by block", (_unpaired(blocks),), (chart,))
    chart = Chart(
        depth_svg(blocks), _LEVELS, (block_numbers(blocks),), file="depth",
        draw=lambda: depth_chart(blocks),
    )  # fmt: skip
    return Section(
        "Block by block", (_DEPTH, _unpaired(blocks)), (chart,), (share_numbers(blocks),)
    )


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


def stages(story: Story) -> Section | None:
    """Return what each stage of the worst blocks adds."""
    told = [b for b in worst(story.attribution, _PICTURES) if b.stages]
    if not told:
        return None
    charts = tuple(
        Chart(stages_svg(b), where(b), (stage_numbers(b.stages),), file=f"stages-{i}",
              draw=partial(waterfall_chart, b))
        for i, b in enumerate(told, 1)
    )  # fmt: skip
    return Section("Stage by stage", (_STAGES,), charts, small=True)


# ---- patches ----------------------------------------------------------------------------


def patches(story: Story) -> Section | None:
    """Return what happens to the final error when one block is exchanged."""
    told = [b for b in story.attribution.blocks if b.patched_back or b.patched_in]
    if not told:
        return None
    if not output_drifts(story.attribution):
        return Section("One block exchanged", (_NO_DRIFT,))
    caption = "Share of the final error that each block moves"
    table = patch_numbers(told)
    chart = Chart(
        patches_svg(told), caption, (table,), file="patches", draw=lambda: patching_chart(told)
    )
    parts = tuple(part_numbers(b) for b in told if b.patched_parts)
    text = (_PATCHES, _outside(story.attribution.patched_all))
    return Section("One block exchanged", text, (chart,), parts)


def _outside(all_back: Interval | None) -> str:
    if all_back is None or math.isnan(all_back.value):
        return ""
    return (
        f"With every block the reference's {percent(all_back.value)} of the final error goes; "
        "what stays is made outside of the blocks."
    )


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
