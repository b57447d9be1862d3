"""The sections of a paired report that say why: causes, theory, factors, hypotheses."""

import math
from functools import partial

from ffn_probe.attribution.attribution import (
    BlockAttribution,
    Factorial,
    Hypothesis,
    Interval,
)
from ffn_probe.figures.gate_regions import gate_regions_chart
from ffn_probe.report.bars import spans_svg
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_numbers import (
    cause_numbers,
    cell_numbers,
    effect_numbers,
    effects,
    hypothesis_numbers,
    norm_numbers,
    other_cause_numbers,
    other_region_numbers,
    region_numbers,
    theory_numbers,
)
from ffn_probe.report.paired_words import (
    parted,
    where,
    worst,
)
from ffn_probe.report.regions import gate_svg
from ffn_probe.report.section import Chart, Numbers, Section

_CAUSES = (
    "Shapley shares of the block's own error energy: every part taken from the candidate in "
    "every order. A negative share makes the error smaller."
)
_NORM = (
    "With r = mean / standard deviation of a token, LayerNorm = sqrt(1 + r^2) RMSNorm - r: the "
    "change is a scale, the mean that leaks, and the bias that is lost."
)
_REGIONS = (
    "An activation acts on every value alone, so its error is a sum over the gate's histogram."
)
_FACTORIAL = (
    "Every cell is one replay of the whole model. The main effects add to the total; their "
    "interaction is what one factor changes about the other."
)
_HYPOTHESES = (
    "Each hypothesis was planted into the reference's block and replayed. It fits when what is "
    "left after its fix reaches the noise floor."
)

_PICTURES = 6
_LAYERS = 12  # layers named in a sentence
_ROWS = 40  # hypotheses in the table


# ---- shares -----------------------------------------------------------------------------


def causes(story: Story) -> Section | None:
    """Return how the parts of the worst blocks share their own error."""
    told = [b for b in worst(story.attribution, len(story.attribution.blocks)) if b.causes]
    if not told:
        return None
    text = (_CAUSES, _inseparable(told))
    charts = tuple(_causes_of(b, i) for i, b in enumerate(told[:_PICTURES], 1))
    rest = _other_causes(told[_PICTURES:])
    return Section("Which part did it", text, charts, rest, small=True)


def _inseparable(blocks: list[BlockAttribution]) -> str:
    layers = [str(layer) for layer in sorted({b.layer for b in blocks if not b.separable})]
    if not layers:
        return ""
    word = "layer" if len(layers) == 1 else "layers"
    more = f" and {len(layers) - _LAYERS} more" if len(layers) > _LAYERS else ""
    return (
        f"Not separable in {word} {', '.join(layers[:_LAYERS])}{more}: more than a fifth of "
        "the error is the parts' interaction (outlined bars). Blame the parts together, not "
        "one by one."
    )


def _causes_of(block: BlockAttribution, rank: int) -> Chart:
    rows = [(parted(c.part), c.share) for c in block.causes]
    title = f"Shares of the parts of {where(block)}"
    svg = spans_svg(rows, title=title, unit="share of the block's own error",
                    hollow=not block.separable)  # fmt: skip
    return Chart(svg, where(block), (cause_numbers(block),), file=f"parts-{rank}")


def _other_causes(blocks: list[BlockAttribution]) -> tuple[Numbers, ...]:
    """Return the shares of the blocks without a picture, in one table."""
    if not blocks:
        return ()
    return (other_cause_numbers(blocks),)


def norm(story: Story) -> Section | None:
    """Return how the error of LayerNorm to RMSNorm splits exactly."""
    told = [b for b in story.attribution.blocks if b.norm_split]
    if not told:
        return None
    shown = [b for b in worst(story.attribution, _PICTURES) if b.norm_split] or told[:1]
    charts = tuple(_norm_chart(b, i) for i, b in enumerate(shown, 1))
    table = norm_numbers(told)
    return Section("LayerNorm to RMSNorm", (_NORM,), charts, (table,), small=True)


def _norm_chart(block: BlockAttribution, rank: int) -> Chart:
    rows = [(parted(c.part), c.share) for c in block.norm_split]
    title = f"Split of the norm's error in {where(block)}"
    svg = spans_svg(rows, title=title, unit="share of the norm's error")
    return Chart(svg, where(block), file=f"norm-{rank}")


def regions(story: Story) -> Section | None:
    """Return where on the gate's axis the activation's error falls."""
    told = [b for b in worst(story.attribution, len(story.attribution.blocks)) if b.regions]
    if not told:
        return None
    charts = tuple(_regions_of(story, b, i) for i, b in enumerate(told[:_PICTURES], 1))
    rest = _other_regions(told[_PICTURES:])
    return Section(
        "Error of the activation by region of the gate", (_REGIONS,), charts, rest, small=True
    )


def _regions_of(story: Story, block: BlockAttribution, rank: int) -> Chart:
    gate = story.gates.get((block.layer, block.block))
    if gate is not None:
        svg = gate_svg(gate, block.regions)
    else:
        rows = [(r.name, Interval(r.share)) for r in block.regions]
        svg = spans_svg(
            rows, title=f"Error by region in {where(block)}", unit="share of the error"
        )
    draw = None if gate is None else partial(gate_regions_chart, gate, block.regions)
    return Chart(svg, where(block), (region_numbers(block),), file=f"regions-{rank}", draw=draw)


def _other_regions(blocks: list[BlockAttribution]) -> tuple[Numbers, ...]:
    """Return the regions of the blocks without a picture, in one table."""
    if not blocks:
        return ()
    return (other_region_numbers(blocks),)


# ---- theory -----------------------------------------------------------------------------


def theory(story: Story) -> Section | None:
    """Return what theory expects beside what was seen, the unexplained first."""
    found = [("model", t) for t in story.attribution.theory]
    found += [(str(b.layer), t) for b in story.attribution.blocks for t in b.theory]
    if not found:
        return None
    ranked = sorted(found, key=lambda pair: pair[1].verdict != "unexplained")
    lost = sum(t.verdict == "unexplained" for _, t in found)
    text = (
        f"Unexplained, that is further from theory than the tolerance: {lost} of {len(found)}.",
    )
    table = theory_numbers(ranked)
    return Section("Theory beside observation", text, numbers=(table,))


# ---- two swaps --------------------------------------------------------------------------


def factorial(story: Story) -> Section | None:
    """Return the 2 x 2 of two whole-model swaps."""
    found = story.attribution.factorial
    if not found:
        return None
    charts = tuple(_effects(f, i) for i, f in enumerate(found, 1))
    told = (f"{f.metric}: {f.sentence}" for f in found if f.sentence)
    return Section("Two factors", (_FACTORIAL, *told), charts, small=True)


def _effects(found: Factorial, rank: int) -> Chart:
    rows = effects(found)
    unit = f"{found.metric}, {found.unit}"
    svg = spans_svg(rows, title=f"Effects on {found.metric}", unit=unit, share=False,
                    hollow=not found.separable)  # fmt: skip
    word = "" if found.separable else ": not separable"
    numbers = (effect_numbers(found), cell_numbers(found))
    return Chart(svg, unit + word, numbers, file=f"factors-{rank}")


# ---- hypotheses -------------------------------------------------------------------------


def hypotheses(story: Story) -> Section | None:
    """Return the ranked table of bugs that were replayed."""
    found = story.attribution.hypotheses
    if not found:
        return None
    ranked = sorted(found, key=lambda h: (not h.reached, _left(h.after_db)))
    reached = [h for h in ranked if h.reached]
    text = (
        _HYPOTHESES,
        *map(_fits, reached[:_PICTURES]),
        "" if reached else f"None of {len(found)} hypotheses reaches the floor.",
    )
    more = len(ranked) - _ROWS
    caption = f"The best {_ROWS}; {more} more fit worse." if more > 0 else ""
    table = hypothesis_numbers(ranked[:_ROWS], caption=caption)
    return Section("Which bug it is", text, numbers=(table,))


def _fits(found: Hypothesis) -> str:
    """Return a hypothesis that fits in words, with its layer and the line to change."""
    layer = f"Layer {found.layer}"
    start = "" if found.sentence.startswith(layer) else f"{layer}: "
    fix = f" Fix: `{found.fix}`." if found.fix and found.fix not in found.sentence else ""
    return f"{start}{found.sentence}{fix}"


def _left(level: float) -> float:
    """Return what sorts the best fit first and what is not known last."""
    return math.inf if math.isnan(level) else -level
