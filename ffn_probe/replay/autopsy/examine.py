"""Look at one pair of blocks: which stage differs, and which bug explains it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ffn_probe.attribution.attribution import Hypothesis
from ffn_probe.replay.autopsy.bugs import Bug, Case
from ffn_probe.replay.autopsy.capture import Pair, Rows
from ffn_probe.replay.autopsy.gate_bugs import gate_bugs
from ffn_probe.replay.autopsy.layout_bugs import layout_bugs
from ffn_probe.replay.autopsy.norm_bugs import norm_bugs
from ffn_probe.replay.autopsy.search import Fit, fits, hidden_fits, pairs
from ffn_probe.replay.autopsy.stage import Stage, stage_of
from ffn_probe.replay.autopsy.words import db, explained, in_noise

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What one stage of one block shows.

    `status` is "floor" (no difference above it), "noise" (none, but a bug was found inside the
    rounding), "harmless", "bug" or "unexplained". `excluded` holds the bugs that were tried and
    explain nothing, with the dB that each leaves, the best first.
    """

    layer: int
    block: str
    candidate: str
    stage: str  # "norm", "ffn", "block" (both together) or "layer"
    status: str
    measured_db: float
    floor_db: float
    sentence: str
    hypotheses: tuple[Hypothesis, ...] = ()
    excluded: tuple[tuple[str, float], ...] = ()


def examined(case: Case, pair: Pair, rows: Rows) -> Iterator[Finding]:
    """Yield a finding for each stage of a block that can be told apart."""
    start = pair.entering
    norm = list(norm_bugs(case)) if start == "resid" else []
    ffn = [*gate_bugs(case), *layout_bugs(case)]
    whole = _stage(case, rows, start, "out", rows.given)
    inner = rows.candidate.get("normed")
    if start != "resid" or inner is None or inner.shape != rows.given.shape:
        stage = "ffn" if start == "normed" else "block"
        yield _judged(case, stage, whole, [*norm, *ffn])
        return
    first = _stage(case, rows, "resid", "normed", rows.given)
    second = _stage(case, rows, "normed", "out", inner)
    yield _judged(case, "norm", first, norm)
    yield _judged(case, "ffn", second, ffn)


def _stage(case: Case, rows: Rows, start: str, end: str, given: Tensor) -> Stage:
    captured = rows.reference.get(end)
    own = rows.reference.get(start)
    same = (
        captured is not None and own is not None and own.dtype == given.dtype
        and own.shape == given.shape and bool((own == given).all())
    )  # fmt: skip
    return stage_of(
        case.parts, start, end, given, rows.candidate[end], captured if same else None
    )


def _judged(case: Case, stage: str, seen: Stage, bugs: Sequence[Bug]) -> Finding:
    if seen.is_healthy:
        return _below(case, stage, seen, bugs)
    found = fits(seen, bugs)
    reached = [f for f in found if f.reached] or pairs(seen, found)
    excluded = tuple((f.bug.title, f.after_db) for f in found if not f.reached)
    if reached:
        hypotheses = tuple(_hypothesis(case, seen, f) for f in reached[:SHOWN])
        status = "harmless" if reached[0].bug.benign else "bug"
        sentence = f"Layer {case.block.layer} ({case.block.name}), {hypotheses[0].sentence}"
        also = [h for h in hypotheses[1:] if h.after_db >= hypotheses[0].after_db - 1]
        if also:
            sentence += " The same is explained by: " + ", ".join(_title(h) for h in also) + "."
        return _finding(case, stage, seen, status, sentence, hypotheses, excluded)
    nearest = ", ".join(f"{name} {db(after)}" for name, after in excluded[:3])
    sentence = (
        f"Layer {case.block.layer} ({case.block.name}), {stage}: unexplained, measured "
        f"{db(seen.measured_db)} (floor {db(seen.floor_db)}); {len(excluded)} bugs excluded, "
        f"nearest: {nearest or 'none applies'}."
    )
    return _finding(case, stage, seen, "unexplained", sentence, (), excluded)


def _below(case: Case, stage: str, seen: Stage, bugs: Sequence[Bug]) -> Finding:
    """Return what a stage without a difference above the floor shows inside its rounding."""
    exact = seen.best_db == float("inf")
    found = [] if exact else hidden_fits(seen, bugs)
    if not found:
        sentence = (
            f"Layer {case.block.layer} ({case.block.name}), {stage}: no difference above the "
            f"floor ({db(seen.floor_db)})."
        )
        return _finding(case, stage, seen, "floor", sentence, (), ())
    hypotheses = tuple(_hypothesis(case, seen, f) for f in found[:SHOWN])
    best = found[0]
    sentence = f"Layer {case.block.layer} ({case.block.name}), " + in_noise(
        best.bug.title, best.bug.fix, seen.best_db, best.coefficient, best.z
    )
    return _finding(case, stage, seen, "noise", sentence, hypotheses, ())


def _finding(
    case: Case, stage: str, seen: Stage, status: str, sentence: str,
    hypotheses: tuple[Hypothesis, ...], excluded: tuple[tuple[str, float], ...],
) -> Finding:  # fmt: skip
    return Finding(
        case.block.layer, case.block.name, case.candidate.name, stage, status,
        seen.measured_db, seen.floor_db, sentence, hypotheses, excluded,
    )  # fmt: skip


def _hypothesis(case: Case, seen: Stage, fit: Fit) -> Hypothesis:
    bug = fit.bug
    measured = seen.measured_db
    sentence = explained(
        bug.title, bug.fix, measured, fit.predicted_db, fit.after_db, fit.floor_db
    )
    return Hypothesis(
        name=bug.name, variant=bug.variant, layer=case.block.layer, block=case.block.name,
        stage=bug.role, predicted_db=fit.predicted_db, measured_db=measured,
        after_db=fit.after_db, floor_db=fit.floor_db, reached=True, sentence=sentence,
        fix=bug.fix,
    )  # fmt: skip


def _title(hypothesis: Hypothesis) -> str:
    extra = f" ({hypothesis.variant})" if hypothesis.variant else ""
    return hypothesis.name + extra
