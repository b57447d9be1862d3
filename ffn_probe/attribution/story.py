"""The verdict in words: where it starts, what only inherits, who did it, and is it a bug."""

import math
from collections.abc import Iterator, Mapping, Sequence

from ffn_probe.attribution.attribution import (
    EXPECTED,
    INDISTINGUISHABLE,
    UNEXPLAINED,
    BlockAttribution,
    Theory,
)
from ffn_probe.attribution.floors import DRIFT
from ffn_probe.attribution.found import Found, NotFinite, first_stage, told

ELSEWHERE = 0.1
"""Above this share of the final error what is made outside the blocks is said."""

_MOST_NAMES = 5
_PARTS: Mapping[str, str] = {
    "norm": "the norm", "activation": "the activation", "w_gate": "the gate's weights",
    "w_up": "the up projection's weights", "w_down": "the down projection's weights",
}  # fmt: skip


def verdict(found: Found, status: str) -> str:
    """Return the story of a paired run in a few short sentences."""
    if found.not_finite is not None:
        sentences = [_not_finite(found.not_finite), *_hypotheses(found)]
    elif status == INDISTINGUISHABLE:
        sentences = [_alike(found), *_in_noise(found)]
    else:
        sentences = [
            *_where(found), *_inherited(found), *_who(found), *_theory(found, status),
            *_elsewhere(found), *_hypotheses(found), *_in_noise(found), *_unpaired(found),
        ]  # fmt: skip
        if not found.own:
            sentences += _at_output(found)
    return " ".join(sentences)


# Sentences


def _not_finite(site: NotFinite) -> str:
    side = "candidate" if site.candidate else "reference"
    count = site.candidate or site.reference
    values = _number(count, "value")
    verb = "is" if count == 1 else "are"
    return (
        f"Layer {site.layer}, stage {site.stage}: the {side} has {values} that {verb} not "
        f"finite at {site.block}/{site.role}, the other model has none; no site before it "
        "differs so."
    )


def _alike(found: Found) -> str:
    output, own = found.output, found.own
    differing = [b for b in found.blocks if b.status not in {INDISTINGUISHABLE, "unpaired"}]
    if output is None and not found.blocks:
        return "No block of one model was compared with one of the other."
    if output is None:
        return f"Nothing is above the noise floor in {_number(len(found.blocks), 'block')}."
    level = _db(output.sqnr_db)
    level = f"The outputs cannot be told apart: {level} (floor {_db(output.floor_db)})"
    if not differing:
        return f"{level}, and no block is above its floor."
    first = (own or tuple(differing))[0]
    verb = "differs" if len(differing) == 1 else "differ"
    lowest = _db(min(first.local_db, first.end_db))
    return (
        f"{level}. Inside, {_layers(differing)} {verb} (first {lowest} in layer "
        f"{first.layer}), which the output does not see: another form of the same function, "
        "or too little to matter."
    )


def _where(found: Found) -> Iterator[str]:
    own, paired = found.own, [b for b in found.blocks if b.status != "unpaired"]
    if not own:
        if paired:
            yield from _from_outside(paired, found)
        return
    first = own[0]
    where = _level_of(first)
    if len(own) == 1:
        rest = "the own error of every other block is within its floor"
        rest = rest if len(paired) > 1 else ""
        yield f"Layer {first.layer}, {where}{'; ' + rest if rest else ''}."
    else:
        yield (
            f"{len(own)} of {_number(len(paired), 'block')} add error of their own, first "
            f"layer {first.layer}, {where}."
        )


def _level_of(block: BlockAttribution) -> str:
    levels = f"local {_db(block.local_db)} (floor {_db(block.floor_db)})"
    return f"stage {first_stage(block)}: {levels}"


def _from_outside(paired: Sequence[BlockAttribution], found: Found) -> Iterator[str]:
    given = [b for b in paired if b.status == "inherited"]
    if not given:
        if len(paired) < len(found.blocks):
            yield "No block that could be paired is above its floor."
        elif found.output is not None:
            yield (
                "No block is above its floor, yet the output drifts: the cause lies behind the "
                "last block (final norm or head)."
            )
        return
    first = given[0]
    before = [b for b in paired if b.layer < first.layer]
    where = f"between layers {before[-1].layer} and {first.layer}" if before else (
        f"before layer {first.layer}")  # fmt: skip
    source = "attention" if before else "embeddings or attention"
    adding = any(b.local_db < math.inf for b in before)
    tail = ", or what adds up from errors within the floor" if adding else ""
    yield (
        f"No feed-forward block adds error of its own: the drift comes in {where} "
        f"({_db(first.end_db)} there, floor {_db(first.floor_db)}): {source}{tail}."
    )


def _inherited(found: Found) -> Iterator[str]:
    only = [b for b in found.blocks if b.status == "inherited"]
    if found.own and only:
        yield f"The drift of {_layers(only)} is inherited."


def _who(found: Found) -> Iterator[str]:
    """Yield the shares of the factors of a 2 x 2, else of the parts of the blocks."""
    known = {f.metric: f for f in found.factorial}
    combined = next((known[m] for m in ("kl", "error", "loss") if m in known), None)
    if combined is not None:
        yield f"2 x 2 at the output ({combined.metric}): {combined.sentence}"
        return
    shared = found.causes
    if not shared.causes:
        return
    if not shared.separable:
        yield (
            "The parts are not separable: changed one at a time they make "
            f"{100 * (1 - shared.interaction):.0f} % of what they make together."
        )
        return
    major = [c for c in shared.causes if c.share.value >= 0.005][:3]
    if len(major) == 1 and major[0].share.value > 0.995:
        yield f"All of the blocks' own error is made by {_PARTS[major[0].part]}."
        return
    named = [f"{_PARTS.get(c.part, c.part)} makes {_percent(c.share.value)}" for c in major]
    yield f"Of the blocks' own error {_and(named)}."


def _elsewhere(found: Found) -> Iterator[str]:
    removed = found.patched_all
    if found.own and removed is not None and removed.value < 1 - ELSEWHERE:
        yield (
            f"With every block put back {_percent(1 - removed.value)} of the final error "
            "stays: it is made outside the feed-forward blocks."
        )


def _theory(found: Found, status: str) -> Iterator[str]:
    items = [(b, t) for b in found.own for t in b.theory if t.unit == "dB"]
    wrong = [(b, t) for b, t in items if t.verdict == UNEXPLAINED]
    if wrong and status != EXPECTED:
        block, theory = wrong[0]
        more = f" (and {_number(len(wrong) - 1, 'more level')})" if len(wrong) > 1 else ""
        yield f"Theory does not tell layer {block.layer}'s {_beside(theory)}{more}."
        return
    said = [_beside(t) for b, t in items if b is found.own[0] and t.verdict == EXPECTED]
    if not said or status not in {EXPECTED, DRIFT}:
        return
    start = "Theory expects it" if status == EXPECTED else "Formulas of both models tell it"
    rest = _number(len(found.own) - 1, "other block")
    same = f", and so in {rest}" if len(found.own) > 1 and status == EXPECTED else ""
    yield f"{start}: {_and(said)} in layer {found.own[0].layer}{same}."


def _hypotheses(found: Found) -> Iterator[str]:
    if all(h.reached and not told(h) for h in found.hypotheses):
        return
    reached = [h for h in found.hypotheses if told(h)]
    names = list(dict.fromkeys(h.name for h in found.hypotheses if not h.reached))
    names = [name for name in names if name not in {h.name for h in reached}]
    rejected = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    if not reached:
        yield f"No hypothesis reaches the floor; excluded: {rejected}."
        return
    for h in reached[:3]:
        variant = f" ({h.variant})" if h.variant and h.variant not in h.name else ""
        after = "it is exact" if h.after_db == math.inf else f"{_db(h.after_db)} are left"
        yield (
            f"Layer {h.layer} matches '{h.name}'{variant}: {_db(h.predicted_db)} expected, "
            f"{_db(h.measured_db)} measured; replayed with the fix {after}. Fix: {h.fix}."
        )
    if len(reached) > 3:
        yield f"{len(reached) - 3} more fit."
    if rejected:
        yield f"Rejected: {rejected}."


def _in_noise(found: Found) -> Iterator[str]:
    """Yield the hypotheses that fit a difference which is not above the floor."""
    for h in [h for h in found.hypotheses if h.reached and not told(h)][:2]:
        yield (
            f"Inside the rounding ({_db(h.measured_db)}, floor {_db(h.floor_db)}) layer "
            f"{h.layer} fits '{h.name}'. Fix: {h.fix}."
        )


def _unpaired(found: Found) -> Iterator[str]:
    apart = [b for b in found.blocks if b.status == "unpaired"]
    if not apart:
        return
    alike = [b.cka for b in apart if math.isfinite(b.cka)]
    told = f"; their CKA is {min(alike):.2f} to {max(alike):.2f}" if alike else ""
    yield (
        f"{_number(len(apart), 'block')} cannot be paired value by value "
        f"({apart[0].reason}){told}."
    )
    if found.farthest is not None:
        layer, role, distance = found.farthest
        yield (
            f"Their distributions differ most at layer {layer}'s {role}: KS {distance:.2g}, of "
            "which the difference of two trainings is a part."
        )


def _at_output(found: Found) -> Iterator[str]:
    output = found.output
    if output is None:
        return
    said = [f"{_db(output.sqnr_db)}"] if not math.isnan(output.sqnr_db) else []
    if not math.isnan(output.kl.value):
        said.append(f"KL {output.kl.value:.2g} nats a token")
    if not math.isnan(output.top1.value):
        said.append(f"{_percent(output.top1.value)} of first choices agree")
    if said:
        yield f"At the output: {', '.join(said)}."


# Words


def _beside(theory: Theory) -> str:
    name = theory.name.replace("_", " ")
    return f"{name} {_db(theory.expected)}, {_db(theory.observed)} seen"


def _db(value: float) -> str:
    if math.isnan(value):
        return "unknown dB"
    return "inf dB" if value == math.inf else f"{value:.1f} dB"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _layers(blocks: Sequence[BlockAttribution]) -> str:
    """Return "layer 2", "layers 2 and 3", "layers 2-7"."""
    layers = sorted({block.layer for block in blocks})
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]}-{layers[-1]}"
    shown = [str(layer) for layer in layers[:_MOST_NAMES]]
    if len(layers) > _MOST_NAMES:
        return f"layers {', '.join(shown)}, ..."
    return f"layers {_and(shown)}"
