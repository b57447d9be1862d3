"""One block of a paired run: its stages, its parts, its norm, its activation."""

import math
from collections.abc import Sequence

from dash import dcc, html

from dashboard.components.control import controls, select
from dashboard.components.graph import graph
from dashboard.components.page import Content, href
from dashboard.components.table import table
from ffn_probe.attribution import BlockAttribution, Cause, Interval
from ffn_probe.figures.gate_regions import gate_regions_chart
from ffn_probe.figures.numbers import decibels, percent
from ffn_probe.figures.shares import shares_chart
from ffn_probe.figures.waterfall import culprit, waterfall_chart
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_numbers import (
    cause_numbers,
    norm_numbers,
    part_numbers,
    region_numbers,
    stage_numbers,
)
from ffn_probe.report.paired_words import marked, parted
from ffn_probe.report.section import Numbers

_STAGES = (
    "Injected is the error of a stage that is fed by the reference's stage before it: the "
    "stage that makes the error. Accumulated is what stands there when the block is fed the "
    "reference's residual stream."
)
_CAUSES = (
    "Shapley shares of the block's own error energy: every part taken from the candidate in "
    "every order. A negative share makes the error smaller."
)
_NORM = (
    "With r = mean / standard deviation of a token, LayerNorm = sqrt(1 + r\u00b2) RMSNorm - r: "
    "the change is a scale, the mean that leaks, and the bias that is lost. What the shares "
    "lack to 100 % is their cross terms."
)
_REGIONS = (
    "An activation acts on every value alone, so its error is a sum over the gate's histogram; "
    "the dotted line is what the two formulas give at these gate values."
)
_PARTS = "Share of the model's final error that goes when one part of this block is put back."


def numbered(found: Numbers, caption: str) -> Content:
    """Return a table of numbers as a component."""
    return table(
        found.head, found.rows, caption=caption or found.caption or "Numbers",
        right=found.right, wrap=found.wrap,
    )  # fmt: skip


def block_part(story: Story, block: BlockAttribution, run: str) -> list[Content]:
    """Return everything that was measured of one block, and the way to its neighbours."""
    blocks = story.attribution.blocks
    return [
        html.H2(f"Layer {block.layer}"),
        html.P([html.B(marked(block.status)), " ", html.Code(block.block), _other(block)]),
        _steps(blocks, block, run),
        *_stages(block),
        html.Div(
            [*_causes(block), *_norm(block), *_regions(story, block), *_parts(block)],
            className="pictures",
        ),
    ]


def _other(block: BlockAttribution) -> Content:
    if block.candidate in {"", block.block}:
        return ""
    return html.Span([" against ", html.Code(block.candidate)])


def _steps(blocks: Sequence[BlockAttribution], here: BlockAttribution, run: str) -> Content:
    """Return links one block up and down, and a choice of all."""
    at = blocks.index(here)

    def step(i: int, kind: str, text: str) -> Content:
        if not 0 <= i < len(blocks):
            return html.Span(text, className="dim")
        where = href("/explain", run=run, block=blocks[i].block)
        return dcc.Link(text, href=where, className=f"button {kind}")

    options = [(b.block, f"layer {b.layer}: {b.block} ({b.status})") for b in blocks]
    return controls(
        step(at - 1, "prev-layer", "\u2190 previous block"),
        select("block", "block", options, here.block),
        step(at + 1, "next-layer", "next block \u2192"),
    )


def _stages(block: BlockAttribution) -> list[Content]:
    if not block.stages or block.status == "unpaired":
        return []
    bad = culprit(block.stages)
    said = (
        f"The {bad.stage} stage injects the most: {decibels(bad.injected_db)} dB, floor "
        f"{decibels(bad.floor_db)} dB."
        if bad is not None
        else "No stage injects an error above its floor."
    )
    return [
        html.H3("Which stage makes the error"),
        html.P([html.B(said), " ", html.Span(_STAGES, className="dim")]),
        graph(waterfall_chart(block), f"Error stage by stage of layer {block.layer}. {said}",
              name=f"stages-{block.layer}", numbers=numbered(stage_numbers(block.stages), "")),
    ]  # fmt: skip


def _causes(block: BlockAttribution) -> list[Content]:
    if not block.causes:
        return []
    top = max(block.causes, key=lambda c: c.share.value)
    said = f"{parted(top.part)}: {percent(top.share.value)} of the block's own error."
    mixed = (
        ""
        if block.separable
        else f" Not separable: {percent(block.interaction)} is the parts' interaction (hollow "
        "bars). Blame the parts together."
    )
    return [
        _card(
            "Which part did it", said + mixed, _CAUSES,
            shares_chart(_rows(block.causes), unit="share of the block's own error energy",
                         hollow=not block.separable),
            numbered(cause_numbers(block), "Shares of the parts"), f"parts-{block.layer}",
        )
    ]  # fmt: skip


def _norm(block: BlockAttribution) -> list[Content]:
    if not block.norm_split:
        return []
    top = max(block.norm_split, key=lambda c: c.share.value)
    said = f"{parted(top.part)}: {percent(top.share.value)} of the norm's error."
    rows = _rows(block.norm_split)
    rest = 1 - math.fsum(c.share.value for c in block.norm_split)
    if math.isfinite(rest):
        rows.append(("cross terms", Interval(rest)))
    return [
        _card(
            "LayerNorm to RMSNorm", said, _NORM,
            shares_chart(rows, unit="share of the norm's error energy"),
            numbered(norm_numbers([block]), "Split of the norm's error"),
            f"norm-{block.layer}",
        )
    ]  # fmt: skip


def _regions(story: Story, block: BlockAttribution) -> list[Content]:
    gate = story.gates.get((block.layer, block.block))
    if not block.regions:
        return []
    top = max(block.regions, key=lambda r: r.share)
    said = (
        f"{percent(top.share)} falls into the {top.name}, on {percent(top.gate_share)} of the "
        "gate's values."
    )
    chart = (
        gate_regions_chart(gate, block.regions)
        if gate is not None
        else shares_chart([(r.name, Interval(r.share)) for r in block.regions],
                          unit="share of the activation's error")
    )  # fmt: skip
    return [
        _card(
            "Where on the gate the error falls", said, _REGIONS, chart,
            numbered(region_numbers(block), "Regions of the gate"), f"regions-{block.layer}",
        )
    ]  # fmt: skip


def _parts(block: BlockAttribution) -> list[Content]:
    if not block.patched_parts:
        return []
    top = max(block.patched_parts, key=lambda c: c.share.value)
    said = f"Putting back the {parted(top.part)} takes away {percent(top.share.value)}."
    return [
        _card(
            "One part put back", said, _PARTS,
            shares_chart(_rows(block.patched_parts), unit="share of the final error removed"),
            numbered(part_numbers(block), ""), f"patched-parts-{block.layer}",
        )
    ]  # fmt: skip


def _rows(causes: Sequence[Cause]) -> list[tuple[str, Interval]]:
    return [(parted(cause.part), cause.share) for cause in causes]


def _card(
    title: str, said: str, how: str, figure: Content, numbers: Content, name: str
) -> Content:
    said = said[:1].upper() + said[1:]
    return html.Div(
        [
            html.H3(title),
            html.P([html.B(said), " ", html.Span(how, className="dim")]),
            graph(figure, f"{title}. {said}", name=name, numbers=numbers),
        ]
    )
