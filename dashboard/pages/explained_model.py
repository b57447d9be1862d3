"""The whole model of a paired run: verdict, output, hypotheses, depth, patches, factors."""

import math
from collections.abc import Mapping, Sequence

from dash import html

from dashboard.components.graph import graph
from dashboard.components.page import Content, prose
from dashboard.components.table import table
from dashboard.pages.explained_block import numbered
from ffn_probe.attribution import Attribution, BlockAttribution, Factorial
from ffn_probe.figures.depth import depth_chart, likeness_chart
from ffn_probe.figures.hypotheses import MOST, hypotheses_chart, ranked
from ffn_probe.figures.numbers import decibels, percent
from ffn_probe.figures.patching import patching_chart
from ffn_probe.figures.shares import shares_chart
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_numbers import (
    block_numbers,
    cell_numbers,
    effect_numbers,
    effects,
    hypothesis_numbers,
    output_numbers,
    patch_numbers,
    share_numbers,
    theory_numbers,
)
from ffn_probe.report.paired_words import MARKS, output_drifts, sentences

_DEPTH = (
    "Local is the error of the candidate's block on the reference's input; inherited is what "
    "the blocks before hand to it. A bar or dot further up is a larger error; what lies in "
    "the grey zone cannot be told from the reference run twice. A click leads to the block."
)
_LIKENESS = (
    "The blocks cannot be compared value by value, so only the likeness of their outputs is "
    "shown: linear CKA, which no rotation changes."
)
_PATCHING = (
    "The output of one block is exchanged and both models run to their end. The two directions "
    "differ where later blocks answer to it; the shares need not add to 100 %."
)
_HYPOTHESES = (
    "Each hypothesis was planted into the reference's block and replayed. It fits when what "
    "its fix leaves reaches the noise floor: its diamond is then right of the floor's bar."
)
_FACTORIAL = (
    "Every cell is one replay of the whole model. The main effects add to the total; the "
    "interaction is what one factor changes about the other. Over 20 % of the total the two "
    "are not separable (hollow bars)."
)


# ---- the whole model --------------------------------------------------------------------


def head(story: Story, name: str) -> list[Content]:
    """Return the verdict and what limits it."""
    told = story.attribution
    sign, kind = MARKS.get(told.status, ("", "WARN"))
    return [
        html.H1(f"Why did {name} drift?"),
        html.P([
            "Reference ", html.B(told.reference, className="a"), ", candidate ",
            html.B(told.candidate, className="b"), ", on the same inputs.",
        ]),
        html.Div(
            [
                html.B(f"{sign} {told.status.upper()}", className=kind),
                *(html.P(prose(said)) for said in sentences(told.verdict)),
            ],
            className=f"banner {kind}",
        ),
        *(html.Div(prose(note), className="note") for note in story.notes),
    ]  # fmt: skip


def output_part(told: Attribution) -> list[Content]:
    """Return the drift at the model's output beside its floor."""
    numbers = None if told.output is None else output_numbers(told.output)
    if told.output is None or numbers is None:
        return []
    tokens = f" on {told.output.tokens:,} tokens" if told.output.tokens else ""
    return [
        html.H2("At the model's output"),
        html.P(f"{told.output.status.capitalize()}{tokens}."),
        numbered(numbers, "The drift of the model's output beside its noise floor"),
    ]


def hypotheses_part(told: Attribution) -> list[Content]:
    """Return the bugs that were replayed, those that fit first."""
    found = ranked(told.hypotheses)
    if not found:
        return []
    fits = [h for h in found if h.reached]
    best = fits[0] if fits else found[0]
    label = (
        f"{len(fits)} of {len(found)} hypotheses fit. "
        f"{'Best' if fits else 'Nearest'}: {best.name} in layer {best.layer}, measured "
        f"{decibels(best.measured_db)} dB, after the fix {decibels(best.after_db)} dB, floor "
        f"{decibels(best.floor_db)} dB."
    )
    left = len(found) - MOST
    caption = "Hypotheses, those that fit first" + (
        f" (the picture leaves out the last {left})" if left > 0 else ""
    )
    return [
        html.H2("Which bug it is"),
        html.P(_HYPOTHESES, className="dim"),
        *(_fix(h.name, h.layer, h.fix) for h in fits),
        graph(hypotheses_chart(found), label, name="hypotheses"),
        numbered(hypothesis_numbers(found[:100]), caption),
    ]


def _fix(name: str, layer: int, fix: str) -> Content:
    said: list[Content] = [
        html.B("\u2715 fits: ", className="FAIL"),
        f"{name}, layer {layer}.",
    ]
    return html.P([*said, " Fix: ", html.Code(fix)] if fix else said)


def depth_part(told: Attribution, block: BlockAttribution | None) -> list[Content]:
    """Return where in depth the error is made and where it is inherited."""
    blocks = told.blocks
    if not blocks or block is None:
        return [html.H2("Block by block"), html.P("No block was paired.")]
    alike = all(b.status == "unpaired" for b in blocks)
    figure = (likeness_chart if alike else depth_chart)(blocks, chosen=block.block)
    return [
        html.H2("Block by block"),
        html.P(_LIKENESS if alike else _DEPTH, className="dim"),
        *_reasons(blocks),
        graph(figure, _depth_label(blocks, alike=alike), to="/explain", key="block",
              name="depth", numbers=numbered(share_numbers(blocks), "")),
        numbered(block_numbers(blocks), ""),
    ]  # fmt: skip


def _depth_label(blocks: Sequence[BlockAttribution], *, alike: bool) -> str:
    if alike:
        known = [b.cka for b in blocks if math.isfinite(b.cka)]
        ends = f"{min(known):.2f} to {max(known):.2f}" if known else "not known"
        return f"Likeness of {len(blocks)} blocks by depth: CKA {ends}."
    own = [b for b in blocks if b.status in {"local", "mixed"}]
    if not own:
        return f"Error of {len(blocks)} blocks by depth: none adds an error of its own."
    bad = min(own, key=lambda b: b.local_db)
    return (
        f"Error of {len(blocks)} blocks by depth: {len(own)} add an error of their own, most "
        f"in layer {bad.layer}: {decibels(bad.local_db)} dB local, {decibels(bad.end_db)} dB "
        "end to end."
    )


def _reasons(blocks: Sequence[BlockAttribution]) -> list[Content]:
    lost = [b for b in blocks if b.status == "unpaired"]
    reasons = list(dict.fromkeys(b.reason for b in lost if b.reason))
    if not lost:
        return []
    said = f"{len(lost)} of {len(blocks)} blocks cannot be paired value by value (marked ?): "
    return [html.Div(said + ("; ".join(reasons[:3]) or "not said why"), className="note")]


def patching_part(told: Attribution, block: BlockAttribution | None) -> list[Content]:
    """Return what happens to the final error when one block is exchanged."""
    found = [b for b in told.blocks if b.patched_back or b.patched_in]
    if not found:
        return []
    head = html.H2("One block exchanged")
    if not output_drifts(told):
        text = "The final error is under the noise floor: no share of it means anything."
        return [head, html.P(text)]
    top = max(found, key=lambda b: b.patched_back.value if b.patched_back else -math.inf)
    back = top.patched_back.value if top.patched_back else math.nan
    label = (
        f"Share of the final error that each of {len(found)} blocks moves; the reference's "
        f"layer {top.layer} takes away the most, {percent(back)}."
    )
    whole = told.patched_all
    outside = (
        f" With every block the reference's, {percent(whole.value)} of the final error goes; "
        "what stays is made outside of the blocks."
        if whole is not None and math.isfinite(whole.value)
        else ""
    )
    chart = patching_chart(found, chosen=block.block if block else "")
    caption = "Share of the final error that each block moves, with 95 % intervals"
    return [
        head,
        html.P(_PATCHING + outside, className="dim"),
        graph(chart, label, to="/explain", key="block", name="patching",
              numbers=numbered(patch_numbers(found), caption)),
    ]  # fmt: skip


def factorials_part(found: Sequence[Factorial]) -> list[Content]:
    """Return the 2 x 2 of two whole-model swaps."""
    if not found:
        return []
    cards = []
    for i, effect in enumerate(found):
        unit = f"{effect.metric}, {effect.unit}" if effect.unit else effect.metric
        chart = shares_chart(effects(effect), unit=unit, share=False,
                             hollow=not effect.separable)  # fmt: skip
        word = "" if effect.separable else ": not separable"
        tables = html.Div([
            numbered(effect_numbers(effect), f"Effects on {effect.metric}"),
            numbered(cell_numbers(effect), ""),
        ])  # fmt: skip
        label = f"Effects on {effect.metric}: {effect.sentence}"
        cards.append(html.Div([
            html.H3(unit + word), html.P(effect.sentence),
            graph(chart, label, name=f"factors-{i}", numbers=tables),
        ]))  # fmt: skip
    return [
        html.H2("Two factors, apart and together"),
        html.P(_FACTORIAL, className="dim"),
        html.Div(cards, className="pictures"),
    ]


def theory_part(told: Attribution) -> list[Content]:
    """Return what theory expects beside what was seen, the unexplained first."""
    found = [("model", t) for t in told.theory]
    found += [(str(b.layer), t) for b in told.blocks for t in b.theory]
    if not found:
        return []
    rank = sorted(found, key=lambda pair: pair[1].verdict != "unexplained")
    lost = sum(t.verdict == "unexplained" for _, t in found)
    said = (
        f"Unexplained, that is further from theory than the tolerance: {lost} of {len(found)}."
    )
    caption = "What theory expects beside what was seen" + (
        f"; {len(rank) - 200} more are in the data of this page" if len(rank) > 200 else ""
    )
    return [
        html.H2("Theory beside observation"),
        html.P(said),
        numbered(theory_numbers(rank[:200]), caption),
    ]


# ---- what was not recorded --------------------------------------------------------------


def missing_part(told: Attribution, options: Mapping[str, object]) -> list[Content]:
    """Return what this run lacks, each with how it is got."""
    paired = [b for b in told.blocks if b.status != "unpaired"]
    patched = any(b.patched_back or b.patched_in for b in told.blocks)
    lacks: list[tuple[str, str, bool]] = [
        ("Known bugs", "replay with --autopsy", bool(told.hypotheses)),
        ("Exchanged blocks (patching)", "replay with --patch 2 (or more)", patched),
        ("Shares of the parts of a block", "replay a pair whose blocks differ in a part",
         any(b.causes for b in told.blocks)),
        ("Two factors", "replay with --swap norm=...,activation=...", bool(told.factorial)),
        ("LayerNorm to RMSNorm split", "replay a pair whose norms are of the two kinds",
         any(b.norm_split for b in told.blocks)),
        ("Error by region of the gate", "replay a pair whose activations differ",
         any(b.regions for b in told.blocks)),
    ]  # fmt: skip
    if not paired:
        how = "replay models that share their weights: these were trained apart"
        lacks = [("Levels, stages and causes", how, False)]
    rows: list[list[Content]] = [[what, how] for what, how, there in lacks if not there]
    if not rows:
        return []
    made = "Recorded with: " + ", ".join(f"{key} {value}" for key, value in options.items())
    return [
        html.H2("Not in this run"),
        table(("what", "how to get it"), rows, wrap=True,
              caption="Nothing is shown where nothing was measured"),
        html.P(made, className="dim") if options else None,
    ]  # fmt: skip
