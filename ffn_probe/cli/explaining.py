"""What made a paired run drift, in the terminal: verdict, blocks, causes, theory, bugs."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from textwrap import fill

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffn_probe.anatomy import ROLES
from ffn_probe.attribution import (
    PAIR_MEASURES,
    Attribution,
    BlockAttribution,
    Hypothesis,
    Interval,
    Output,
)
from ffn_probe.cli.tables import console, counted, plain, table
from ffn_probe.errors import UnknownName
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
    sentences,
    worst,
)
from ffn_probe.report.words import number
from ffn_probe.runs import Run

_STYLES = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red", "a": "blue", "b": "yellow"}
_WIDE = 120  # columns; below, a table keeps the columns that fit
_BLOCKS, _BUGS, _LINES = 12, 6, 6
_LABEL = 10
_NARROW = ("status", "layer", "local", "inherited", "floor", "cause")
_BROAD = ("status", "layer", "end to end", "local", "inherited", "floor", "own share",
          "inherited share", "cause", "block")  # fmt: skip


def print_story(
    told: Attribution,
    *,
    problems: Sequence[str] = (),
    beside: Sequence[tuple[str, str]] = (),
) -> None:
    """Print the story of a pair on the terminal.

    Args:
        told: what the paired run explains.
        problems: what a reader has to know before trusting the run.
        beside: other facts, as (label, text).
    """
    screen = console()
    _, kind = MARKS.get(told.status, ("", "WARN"))
    status = marked(told.status).upper()
    first, *rest = sentences(told.verdict) or [""]
    shown = Text(wrapped(f"{status} {first}", screen.width))
    shown.stylize(_STYLES.get(kind, ""), 0, len(status))
    screen.print(shown, highlight=False, soft_wrap=True)
    for words in rest:
        _print_fact(screen, "", words)
    for label, text in (*beside, *_facts(told, problems)):
        _print_fact(screen, label, text)
    wide = screen.width >= _WIDE
    if told.blocks:
        screen.print(_blocks(told, wide=wide))
    for label, text in _why(told):
        _print_fact(screen, label, text)
    if told.hypotheses:
        screen.print(_bugs(told.hypotheses, wide=wide))


def print_pair(run: Run, *, measure: str | None, as_json: bool) -> None:
    """Print what made a paired run drift, or one measure of it as layers times roles.

    Raises:
        UnknownName: no measure of a pair has that name.
    """
    if measure is not None:
        _print_measure(run, measure, as_json=as_json)
        return
    told = run.explain()
    if as_json:
        data = {
            "manifest": json.loads(run.manifest.to_json()), "problems": list(run.problems),
            "attribution": json.loads(told.to_json()),
        }  # fmt: skip
        print(json.dumps(data, indent=1))
        return
    made = run.manifest
    size = f"{made.steps:,} batches, {made.tokens:,} tokens, {made.device}"
    problems = [p for p in run.problems if p not in told.notes]
    print_story(told, problems=problems, beside=[("run", f"{run.path} ({made.state}): {size}")])


def _print_measure(run: Run, name: str, *, as_json: bool) -> None:
    if name not in PAIR_MEASURES:
        raise UnknownName.of("measure of a pair", name, PAIR_MEASURES)
    frame = run.pair_measures()
    frame = frame[(frame["measure"] == name) & (frame["view"] == "end")]
    if as_json:
        print(frame.to_json(orient="records"))
        return
    present = set(frame["role"])
    roles = [role for role in (*ROLES, "logits") if role in present]
    rows = []
    for key, part in frame.groupby(["layer", "block"], sort=False):
        layer, block = (str(field) for field in key)
        values = dict(zip(part["role"], part["value"], strict=True))
        cells = (number(values.get(role)) for role in roles)
        place = (layer, named(block)) if block else ("-", "output")
        rows.append((*place, *cells))
    unit = frame["unit"].iloc[0] if len(frame) else ""
    title = f"{name}, end to end ({unit})"
    console().print(
        table(("layer", "block", *roles), rows, right=("layer", *roles), title=title)
    )


def wrapped(text: str, width: int, first: str = "", rest: str = "") -> str:
    """Return text in lines of a width; no number is parted from its unit.

    >>> print(wrapped("it is 99.4 % of it", 10))
    it is
    99.4 % of
    it
    """
    glued = re.sub(r"(?<=\d) (?=%|dB)", "\u00a0", plain(text))
    lines = fill(glued, width, initial_indent=first, subsequent_indent=rest,
                 break_on_hyphens=False)  # fmt: skip
    return lines.replace("\u00a0", " ")


def _print_fact(screen: Console, label: str, text: str) -> None:
    """Print a line of "label     text", broken and indented where the window ends."""
    screen.print(
        wrapped(text, screen.width, f"{label:{_LABEL}}", " " * _LABEL),
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


# ---- facts ------------------------------------------------------------------------------


def _facts(told: Attribution, problems: Sequence[str]) -> Iterable[tuple[str, str]]:
    yield "reference", told.reference
    yield "candidate", told.candidate
    if told.output is not None:
        yield "output", _output(told.output)
    if told.first_bad is not None:
        layer, block, stage = told.first_bad
        yield "first bad", f"layer {layer} {named(block)}, stage {stage}"
    if told.blocks:
        counts = Counter(block.status for block in told.blocks)
        yield "blocks", ", ".join(f"{count} {status}" for status, count in counts.items())
    for note in dict.fromkeys((*told.notes, *problems)):
        yield "note", note


def _output(found: Output) -> str:
    """Return the drift at the output; what was not measured is left out."""
    parts = [
        ("SQNR", f"{decibels(found.sqnr_db)} dB (floor {decibels(found.floor_db)})",
         found.sqnr_db),
        ("KL", f"{number(found.kl.value)} nats a token (floor {number(found.kl_floor)})",
         found.kl.value),
        ("same first choice", percent(found.top1.value), found.top1.value),
        ("loss", f"{number(found.loss_difference.value, signed=True)} nats a token",
         found.loss_difference.value),
    ]  # fmt: skip
    known = [f"{name} {text}" for name, text, value in parts if value == value]  # noqa: PLR0124
    return ", ".join(known) or "nothing could be measured"


# ---- blocks -----------------------------------------------------------------------------


def _blocks(told: Attribution, *, wide: bool) -> Table:
    """Return the blocks by depth; of many those that are worst."""
    blocks: Sequence[BlockAttribution] = told.blocks
    title = "blocks (SQNR in dB; shares of the error energy at the block's output)"
    if len(blocks) > _BLOCKS:
        chosen = {id(block) for block in worst(told, _BLOCKS)}
        shown = [b for b in blocks if id(b) in chosen] or list(blocks[:_BLOCKS])
        title = f"the worst {len(shown)} of {len(blocks)} {title}"
        blocks = shown
    if not wide:
        title = title.partition(" (")[0] + ", SQNR in dB"
        return table(_NARROW, map(_narrow_row, blocks), right=_NARROW[1:5], title=title)
    return table(_BROAD, map(_wide_row, blocks), right=_BROAD[1:8], title=title)


def _narrow_row(b: BlockAttribution) -> tuple[str, ...]:
    levels = map(decibels, (b.local_db, b.inherited_db, b.floor_db))
    return (marked(b.status), str(b.layer), *levels, _cause(b))


def _wide_row(b: BlockAttribution) -> tuple[str, ...]:
    return (
        marked(b.status), str(b.layer),
        *map(decibels, (b.end_db, b.local_db, b.inherited_db, b.floor_db)),
        percent(b.local.value), percent(b.inherited.value), _cause(b), named(b.block),
    )  # fmt: skip


def _cause(block: BlockAttribution) -> str:
    """Return the part that makes most of the block's own error, or why there is none."""
    if block.status == "unpaired":
        likeness = "" if math.isnan(block.cka) else f"; CKA {block.cka:.2f}"
        return (in_short(block.reason) or "not paired") + likeness
    if block.status not in {"local", "mixed"} or not block.causes:
        return "-"
    if not block.separable:
        return "not separable"
    first = max(block.causes, key=lambda cause: cause.share.value)
    return f"{parted(first.part)} {percent(first.share.value)}"


# ---- why --------------------------------------------------------------------------------


def _why(told: Attribution) -> Iterable[tuple[str, str]]:
    """Yield the shares of the worst block, the two factors and the theory, as lines."""
    for block in worst(told, 1):
        if block.causes and block.status != "inherited":
            yield "share", f"layer {block.layer}: {_shares(block)}"
        if block.norm_split:
            split = ", ".join(
                f"{parted(c.part)} {percent(c.share.value)}" for c in block.norm_split
            )
            yield "norm", f"layer {block.layer}: {split} of the error of the norm"
        back = block.patched_back
        if back is not None and not math.isnan(back.value) and output_drifts(told):
            yield (
                "patch",
                (
                    f"layer {block.layer}: putting the reference's block back removes "
                    f"{percent(back.value)}{_bracketed(back)} of the final error"
                ),
            )
    for found in told.factorial:
        if found.sentence not in told.verdict:
            yield "2 x 2", f"{found.metric}: {found.sentence}"
    yield from _theory(told)


def _shares(block: BlockAttribution) -> str:
    parts = [
        f"{parted(c.part)} {percent(c.share.value)}{_bracketed(c.share)}"
        for c in block.causes
        if c.energy or c.share.value
    ]
    tail = "" if block.separable else "; not separable: the parts' interaction is "
    word = percent(block.interaction) if tail else ""
    return f"{', '.join(parts) or 'none'} of the block's own error{tail}{word}"


def _bracketed(share: Interval) -> str:
    ends = between(share)
    return "" if ends == "-" else f" ({ends})"


def _theory(told: Attribution) -> Iterable[tuple[str, str]]:
    """Yield what theory does not tell, then how much it does, with the first as example."""
    found = [("the model", theory) for theory in told.theory]
    found += [(f"layer {b.layer}", theory) for b in told.blocks for theory in b.theory]
    lost = [(place, t) for place, t in found if t.verdict == "unexplained"]
    for place, theory in lost[:_LINES]:
        yield "theory", f"{marked(theory.verdict)}, {place}: {theory.sentence}"
    if len(lost) > _LINES:
        yield "", f"and {len(lost) - _LINES} more that theory does not tell"
    good = [(place, t) for place, t in found if t.verdict == "expected"]
    if good:
        examples = {theory.name: (place, theory) for place, theory in reversed(good)}
        for place, theory in list(examples.values())[::-1][:_LINES]:
            yield "theory", f"{marked('expected')}, {place}: {theory.sentence}"
        yield "", f"as theory expects: {len(good)} of {counted(len(found), 'number')}"


# ---- bugs -------------------------------------------------------------------------------


def _bugs(found: Sequence[Hypothesis], *, wide: bool) -> Table:
    """Return the hypotheses that fit, and the nearest that do not."""
    ranked = sorted(found, key=lambda h: not h.reached)[:_BUGS]
    title = "hypotheses, best first (dB)"
    if not wide:
        rows = [(*_judged(h), *map(decibels, (h.measured_db, h.after_db))) for h in ranked]
        short = ("verdict", "layer", "hypothesis", "measured", "fixed")
        return table(short, rows, right=("layer", "measured", "fixed"), title=title)
    full = [
        (*_judged(h), h.stage, *map(decibels, (h.predicted_db, h.measured_db, h.after_db,
         h.floor_db)), h.fix if h.reached else "")
        for h in ranked
    ]  # fmt: skip
    head = ("verdict", "layer", "hypothesis", "stage", "predicted", "measured", "after the fix",
            "floor", "change")  # fmt: skip
    return table(head, full, right=("layer", *head[4:8]), title=title)


def _judged(h: Hypothesis) -> tuple[str, str, str]:
    return ("\u2715 fits" if h.reached else "- excluded", str(h.layer), h.name)
