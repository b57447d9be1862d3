"""Bugs around a block: what is added to what, and what the FFN reads."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ffn_probe.attribution.attribution import Hypothesis
from ffn_probe.replay.autopsy.bugs import Case
from ffn_probe.replay.autopsy.finding import Finding
from ffn_probe.replay.autopsy.stage import MARGIN_DB, sqnr_db
from ffn_probe.replay.autopsy.streams import Stream
from ffn_probe.replay.autopsy.words import explained

_NOISE_DB = {torch.bfloat16: 55.6, torch.float16: 73.6, torch.float32: 151.9}
"""SQNR of rounding Gaussian values to a dtype."""
_CALM_DB = {torch.bfloat16: 30.0, torch.float16: 45.0}
"""Below this the stream before the block itself differs; attention adds its own rounding."""

_Rule = Callable[[Stream], Tensor | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to make what leaves a layer, and how a candidate that does it is called."""

    name: str
    make: _Rule
    bug: str
    fix: str


def _plus(a: Tensor | None, b: Tensor) -> Tensor | None:
    return None if a is None else a + b


_RULES: tuple[Rule, ...] = (
    Rule(
        "stream + ffn", lambda s: _plus(s.resid, s.out),
        "residual from before the norm", "add the FFN's output to the normed stream",
    ),
    Rule(
        "normed + ffn", lambda s: _plus(s.normed, s.out),
        "residual from after the norm", "add the FFN's output to the stream, not to its norm",
    ),
    Rule(
        "ffn", lambda s: s.out,
        "residual dropped", "add the FFN's output to the stream",
    ),
    Rule(
        "stream", lambda s: s.resid,
        "FFN output dropped", "add the FFN's output to the stream",
    ),
    Rule(
        "layer input + ffn", lambda s: s.start + s.out,
        "residual from before the attention",
        "add the FFN's output to the stream after the attention",
    ),
    Rule(
        "stream + 2 ffn", lambda s: _plus(s.resid, 2 * s.out),
        "FFN output added twice", "add the FFN's output once",
    ),
)  # fmt: skip


def judged_layer(case: Case, reference: Stream, candidate: Stream) -> Iterator[Finding]:
    """Yield what is wrong around a block; nothing where the layer is as the reference's."""
    order = _order(case, reference, candidate)
    if order is not None:
        yield order
        return
    rule = next((r for r in _RULES if _fits(r.make(reference), reference)), None)
    if rule is None:
        return
    healthy = rule.make(candidate)
    if healthy is None or _fits(healthy, candidate):
        return
    measured = sqnr_db(healthy, candidate.end)
    for other in _RULES:
        made = other.make(candidate)
        if other is not rule and made is not None and _fits(made, candidate):
            after, floor = sqnr_db(made, candidate.end), _floor(made, candidate)
            yield _named(
                case, "out", other.bug, rule_fix(rule, other), measured,
                sqnr_db(healthy, made), after, floor,
            )  # fmt: skip
            return
    yield _unexplained(case, candidate, measured, _floor(healthy, candidate))


def rule_fix(right: Rule, wrong: Rule) -> str:
    """Return the line that makes of the wrong rule the right one."""
    return wrong.fix if right.name == "stream + ffn" else f"make the layer {right.name}"


# ---- what the FFN reads -----------------------------------------------------------------


def _order(case: Case, reference: Stream, candidate: Stream) -> Finding | None:
    """Return the finding of a block that stands in another place of its layer, or None."""
    if reference.resid is None:
        return None
    parallel = _same(reference.resid, reference.start)
    if candidate.resid is None:
        return _unnormed(case, reference, candidate)
    here = _same(candidate.resid, candidate.start)
    if here and not parallel:
        return _named(
            case, "resid", "parallel instead of sequential",
            f"{case.block.name} reads the stream after the attention",
            sqnr_db(reference.resid, candidate.resid),
            sqnr_db(reference.resid, reference.start),
            sqnr_db(candidate.start, candidate.resid), _NOISE_DB.get(candidate.dtype, 280.0),
        )  # fmt: skip
    if parallel and not here:
        after_attention = reference.end - reference.out
        after = sqnr_db(after_attention, candidate.resid)
        if after >= _calm(candidate):
            return _named(
                case, "resid", "sequential instead of parallel",
                f"{case.block.name} reads the stream that enters the layer",
                sqnr_db(reference.resid, candidate.resid),
                sqnr_db(reference.resid, after_attention), after, _calm(candidate),
            )  # fmt: skip
    return None


def _unnormed(case: Case, reference: Stream, candidate: Stream) -> Finding | None:
    """Return the finding of an FFN that reads the stream itself."""
    if candidate.normed is None or reference.normed is None:
        return None
    stream = candidate.end - candidate.out
    noise = _power(candidate.end) + _power(candidate.out)
    floor = _noise_floor(stream, noise, candidate.dtype)
    after = sqnr_db(stream, candidate.normed)
    if after < floor - MARGIN_DB or reference.resid is None:
        return None
    return _named(
        case, "normed", "norm missing", f"normalise before {case.block.name}",
        sqnr_db(reference.normed, candidate.normed),
        sqnr_db(reference.normed, reference.resid), after, floor,
    )  # fmt: skip


def _calm(stream: Stream) -> float:
    return _CALM_DB.get(stream.dtype, 100.0)


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.equal(a, b))


# ---- floors -----------------------------------------------------------------------------


def _fits(made: Tensor | None, stream: Stream) -> bool:
    if made is None or made.shape != stream.end.shape:
        return False
    return sqnr_db(made, stream.end) >= _floor(made, stream) - MARGIN_DB


def _floor(made: Tensor, stream: Stream) -> float:
    """Return the SQNR of a sum of rounded tensors that is rounded itself."""
    noise = _power(made) + _power(stream.out) * (stream.dtype == torch.float32)
    return _noise_floor(made, noise, stream.dtype)


def _noise_floor(made: Tensor, noise: float, dtype: torch.dtype) -> float:
    top = _NOISE_DB.get(dtype, 280.0)
    share = noise / _power(made) if _power(made) > 0 else 1.0
    return top - 10 * math.log10(share)


def _power(x: Tensor) -> float:
    return float(x.square().sum())


# ---- findings ---------------------------------------------------------------------------


def _named(
    case: Case, role: str, name: str, fix: str, measured: float, expected: float,
    after: float, floor: float,
) -> Finding:  # fmt: skip
    block = case.block
    sentence = explained(name, fix, measured, expected, after, floor)
    hypothesis = Hypothesis(
        name, "", block.layer, block.name, role, expected, measured, after, floor,
        reached=True, sentence=sentence, fix=fix,
    )  # fmt: skip
    return Finding(
        block.layer, block.name, case.candidate.name, "layer", "bug", measured, floor,
        f"Layer {block.layer} ({block.name}), {sentence}", (hypothesis,),
    )  # fmt: skip


def _unexplained(case: Case, candidate: Stream, measured: float, floor: float) -> Finding:
    block = case.block
    tried = tuple(
        (rule.bug, sqnr_db(made, candidate.end))
        for rule in _RULES
        if (made := rule.make(candidate)) is not None
    )
    sentence = (
        f"Layer {block.layer} ({block.name}), layer: unexplained, what leaves the layer is not "
        f"the reference's sum of stream and FFN ({measured:.1f} dB, floor {floor:.1f} dB)."
    )
    return Finding(
        block.layer, block.name, case.candidate.name, "layer", "unexplained", measured, floor,
        sentence, (), tried,
    )  # fmt: skip
