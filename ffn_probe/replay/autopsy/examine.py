"""Look at one pair of blocks: which stage differs, and which bug explains it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ffn_probe.attribution.attribution import Hypothesis
from ffn_probe.replay.autopsy.bugs import Bug, Case
from ffn_probe.replay.autopsy.capture import Rows
from ffn_probe.replay.autopsy.differing import norm_weights, weights
from ffn_probe.replay.autopsy.finding import Finding
from ffn_probe.replay.autopsy.gate_bugs import gate_bugs
from ffn_probe.replay.autopsy.layout_bugs import layout_bugs
from ffn_probe.replay.autopsy.loading_bugs import loading_bugs
from ffn_probe.replay.autopsy.norm_bugs import norm_bugs
from ffn_probe.replay.autopsy.pairing import Pair
from ffn_probe.replay.autopsy.permuted import consistent, is_identity, orders, permuted_bugs
from ffn_probe.replay.autopsy.quantized import site_bugs, weight_bugs
from ffn_probe.replay.autopsy.search import TIE_DB, Fit, fits, hidden_fits, pairs, ranked
from ffn_probe.replay.autopsy.stage import Stage, stage_of
from ffn_probe.replay.autopsy.words import db, explained, in_noise, left_over

SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class Suspects:
    """The bugs to try in a stage.

    `likely` ones first, `later` ones when none of them fits, then pairs of all of these, and
    `last` what only says which part differs.
    """

    likely: tuple[Bug, ...]
    later: tuple[Bug, ...] = ()
    last: tuple[Bug, ...] = ()


def examined(case: Case, pair: Pair, rows: Rows) -> list[Finding]:
    """Return a finding for each stage of a block that can be told apart.

    Where typical rows show nothing, those count at which the models differ most.
    """
    found = list(_examined(case, pair, rows.typical()))
    if rows.extreme is None or any(f.status != "floor" for f in found):
        return found
    rare = list(_examined(case, pair, rows))
    if all(f.status not in {"bug", "unexplained"} for f in rare):
        return found
    note = " On few tokens: measured with those at which the models differ most."
    return [f if f.status == "floor" else replace(f, sentence=f.sentence + note) for f in rare]


def _examined(case: Case, pair: Pair, rows: Rows) -> Iterator[Finding]:
    start = pair.entering
    norm = tuple(norm_bugs(case)) if start == "resid" else ()
    ffn = _ffn_bugs(case)
    later = (*site_bugs(case),)
    inner = rows.candidate.get("normed")
    if start != "resid" or inner is None or inner.shape != rows.given.shape:
        stage = "ffn" if start == "normed" else "block"
        whole = _stage(case, rows, start, "out", rows.given)
        yield _judged(case, stage, whole, Suspects((*norm, *ffn), later, weights(case)))
        return
    first = _stage(case, rows, "resid", "normed", rows.given)
    second = _stage(case, rows, "normed", "out", inner)
    if not first.is_healthy and not second.is_healthy:
        whole = _stage(case, rows, start, "out", rows.given)
        if whole.is_healthy:
            yield _compensated(case, whole)
            return
    yield _judged(case, "norm", first, Suspects(norm, last=norm_weights(case)))
    found = _judged(case, "ffn", second, Suspects(ffn, later, weights(case)))
    yield _reordered(case, found) if found.status == "floor" else found


def _ffn_bugs(case: Case) -> tuple[Bug, ...]:
    sources = (gate_bugs, layout_bugs, loading_bugs, permuted_bugs, weight_bugs)
    return tuple(bug for source in sources for bug in source(case))


def examined_norm(case: Case, rows: Rows) -> Finding:
    """Return the finding of the norm before a mixture of experts."""
    stage = _stage(case, rows, "resid", "normed", rows.given)
    return _judged(
        case, "norm", stage, Suspects(tuple(norm_bugs(case)), last=norm_weights(case))
    )


def examined_expert(case: Case, rows: Rows) -> Finding:
    """Return the finding of one expert, from its normed rows to its output."""
    ffn = _ffn_bugs(case)
    stage = _stage(case, rows, "normed", "out", rows.given)
    return _judged(case, "ffn", stage, Suspects(ffn, tuple(site_bugs(case)), weights(case)))


def _stage(case: Case, rows: Rows, start: str, end: str, given: Tensor) -> Stage:
    device = case.parts.gate.weight.device
    captured = rows.reference.get(end)
    own = rows.reference.get(start)
    same = (
        captured is not None and own is not None and own.dtype == given.dtype
        and own.shape == given.shape and bool((own == given).all())
    )  # fmt: skip
    own = captured.to(device) if same and captured is not None else None
    return stage_of(
        case.parts, start, end, given.to(device), rows.candidate[end].to(device), own
    )


def _judged(case: Case, stage: str, seen: Stage, suspects: Suspects) -> Finding:
    if seen.is_healthy:
        return _below(case, stage, seen, suspects.likely)
    found, reached = _searched(seen, suspects)
    rest = [f for f in found if not f.reached]
    excluded = tuple((f.bug.title, f.after_db) for f in rest)
    fits_it = tuple(_hypothesis(case, seen, f) for f in reached[:SHOWN])
    told = (*fits_it, *(_hypothesis(case, seen, f) for f in rest[:SHOWN]))
    if not reached:
        sentence = f"{_place(case)}, {stage}: {_unexplained(seen, excluded)}"
        return _finding(case, stage, seen, "unexplained", sentence, told, excluded)
    status = "harmless" if reached[0].bug.benign else "bug"
    broken = _broken(seen)
    sentence = f"{_place(case)}, {broken}{fits_it[0].sentence}"
    also = [_title(h) for h in fits_it[1:] if h.after_db >= fits_it[0].after_db - TIE_DB]
    if also:
        sentence += f" The same is explained by: {', '.join(also)}."
    return _finding(case, stage, seen, status, sentence, told, excluded)


def _place(case: Case) -> str:
    return f"Layer {case.block.layer} ({case.block.name})"


def _unexplained(seen: Stage, excluded: tuple[tuple[str, float], ...]) -> str:
    broken = _broken(seen)
    if broken:
        return f"{broken}{len(excluded)} bugs excluded."
    nearest = ", ".join(f"{name} {db(after)}" for name, after in excluded[:3])
    return (
        f"unexplained, measured {db(seen.measured_db)} (floor {db(seen.floor_db)}); "
        f"{len(excluded)} bugs excluded, nearest: {nearest or 'none applies'}."
    )


def _broken(seen: Stage) -> str:
    """Return what to say of values that only the candidate has as NaN or infinite."""
    count = int((~seen.seen.isfinite() & seen.base.isfinite()).sum())
    if not count:
        return ""
    return (
        f"{count} of {seen.seen.numel()} values are not finite in the candidate and finite in "
        "the reference; "
    )


def _searched(seen: Stage, suspects: Suspects) -> tuple[list[Fit], list[Fit]]:
    """Return how well all bugs that were tried fit, and those that explain the stage."""
    found = fits(seen, suspects.likely)
    if found and found[0].reached:
        return found, [f for f in found if f.reached]
    found = ranked([*found, *fits(seen, suspects.later)])
    reached = [f for f in found if f.reached] or pairs(seen, found)
    return found, reached or [f for f in fits(seen, suspects.last) if f.reached]


def _compensated(case: Case, whole: Stage) -> Finding:
    """Return the finding of a norm and an FFN that each differ and together do not."""
    sentence = (
        f"{_place(case)}: harmless, the norm and the projections "
        f"differ but what leaves the block does not ({db(whole.best_db)}, floor "
        f"{db(whole.floor_db)}): a gain folded into the weights."
    )
    return _finding(case, "block", whole, "harmless", sentence, (), ())


def _reordered(case: Case, found: Finding) -> Finding:
    """Return the finding of an FFN without a difference, saying that its neurons moved."""
    order = orders(case)
    if not order or is_identity(order) or not consistent(order):
        return found
    sentence = (
        f"{_place(case)}: harmless, the neurons are in another "
        "order in all of its matrices alike; what leaves the block is the same."
    )
    return replace(found, status="harmless", sentence=sentence)


def _below(case: Case, stage: str, seen: Stage, bugs: Sequence[Bug]) -> Finding:
    """Return what a stage without a difference above the floor shows inside its rounding."""
    exact = seen.best_db == float("inf")
    found = [] if exact else hidden_fits(seen, bugs)
    if not found:
        sentence = (
            f"{_place(case)}, {stage}: no difference above the floor ({db(seen.floor_db)})."
        )
        return _finding(case, stage, seen, "floor", sentence, (), ())
    hypotheses = tuple(_hypothesis(case, seen, f) for f in found[:SHOWN])
    best = found[0]
    sentence = f"{_place(case)}, " + in_noise(
        best.bug.title, best.bug.fix, seen.best_db, best.after_db, (best.coefficient, best.z)
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
    shown = fit.reached or seen.is_healthy
    tell = explained if shown else left_over
    sentence = tell(bug.title, bug.fix, measured, fit.predicted_db, fit.after_db, fit.floor_db)
    return Hypothesis(
        name=bug.name, variant=bug.variant, layer=case.block.layer, block=case.block.name,
        stage=bug.role, predicted_db=fit.predicted_db, measured_db=measured,
        after_db=fit.after_db, floor_db=fit.floor_db, reached=shown, sentence=sentence,
        fix=bug.fix,
    )  # fmt: skip


def _title(hypothesis: Hypothesis) -> str:
    extra = f" ({hypothesis.variant})" if hypothesis.variant else ""
    return hypothesis.name + extra
