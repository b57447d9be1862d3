"""A drift as a report: the verdict, what was compared, where it drifted, and how to tell."""

from ffn_probe.compare import Drift
from ffn_probe.report.command import rebuilding
from ffn_probe.report.drift_pictures import pictures
from ffn_probe.report.drift_tables import heatmap, settings, sites
from ffn_probe.report.paper import Banner, Note, Paper
from ffn_probe.report.section import Card, Names, Numbers, Section
from ffn_probe.report.words import counts, definitions, facts, shortened

NAME = "drift"
_PICTURES = 8
_NAMES = 400  # sites named in one list

_METHOD = (
    "A change counts when it is over its practical threshold and over the noise floor. The "
    "floor is what the two runs show against themselves: their sixteen folds of batches are "
    "split into halves many times, and the floor is the 95th percentile of the differences. "
    "Up to twice the threshold is suspicious (WARN), beyond it failed (FAIL)."
)
_READING = (
    "Times floor is the change over the floor; smallest visible the change that a comparison "
    "of this size would report four times in five. A new NaN or infinity fails at any size. "
    "Equal distributions are not equal outputs, and a drift says that values moved, not that "
    "a task suffers."
)
_DEFINITION_HEAD = "statistic, what it is, aspect, unit, threshold, where it comes from"


def drift_paper(drift: Drift, *, to: str, most: int = _PICTURES) -> Paper:
    """Return the report of a drift.

    Args:
        drift: what is told.
        to: the file that the command names, which makes the report again.
        most: how many of the worst sites have a picture.
    """
    how = "same inputs, paired fold by fold" if drift.paired else "not paired"
    names = (drift.a.name, drift.b.name)
    made = (
        _aspects(drift), heatmap(drift), sites(drift), pictures(drift, most),
        *settings(drift), _one_sided(drift), _definitions(drift), _made(drift),
        _command(drift, to),
    )  # fmt: skip
    return Paper(
        NAME,
        f"FFN drift: {shortened(names[0])} to {shortened(names[1])}",
        "FFN drift report",
        names,
        how,
        Banner.of(drift.verdict.status, drift.verdict.sentence),
        tuple(Note(note.text, note.level) for note in drift.validity),
        tuple(section for section in made if section is not None),
    )


def _aspects(drift: Drift) -> Section:
    cards = tuple(
        Card(aspect, str(failed or warned or "none"), _counted(failed, warned))
        for aspect, failed, warned in counts(drift)
    )
    return Section("By aspect", (f"Sites out of {len(drift.sites)}.",), cards=cards)


def _counted(failed: int, warned: int) -> str:
    if failed and warned:
        return f"failed, {warned} suspicious"
    return "failed" if failed else "suspicious" if warned else "drifted"


def _one_sided(drift: Drift) -> Section | None:
    lists = []
    for side, found in ((drift.a.name, drift.only_a), (drift.b.name, drift.only_b)):
        if found:
            more = f" (the first {_NAMES})" if len(found) > _NAMES else ""
            summary = f"{len(found)} sites only in {shortened(side)}{more}"
            lists.append(Names(summary, tuple(site.name for site in found[:_NAMES])))
    return Section("On one side only", lists=tuple(lists)) if lists else None


def _definitions(drift: Drift) -> Section:
    defined = Numbers.of(
        _DEFINITION_HEAD, definitions(drift), right=("threshold",), wrap=True,
        folded="Statistics and thresholds",
    )  # fmt: skip
    return Section("Definitions", (_METHOD, _READING), numbers=(defined,), general=True)


def _made(drift: Drift) -> Section:
    one, other = (facts(side.manifest, side.path) for side in (drift.a, drift.b))
    rows = tuple((key, one[key], other[key]) for key in one)
    head = ("", drift.a.name, drift.b.name)
    return Section("Versions", numbers=(Numbers(head, rows, frozenset(), wrap=True),))


def _command(drift: Drift, to: str) -> Section:
    pairs = ", ".join(f"{a} = {b}" for a, b in drift.asked.pairs)
    by_hand = f"Blocks were paired by hand, which the command does not do: {pairs}."
    return Section(
        "Make it again",
        (by_hand,) if pairs else (),
        code=rebuilding((drift.a.path, drift.b.path), to, drift),
    )
