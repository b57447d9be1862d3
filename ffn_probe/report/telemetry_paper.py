"""One run as a report: what is wrong with it, what stands out, and how it was made."""

from ffn_probe.measures import measure
from ffn_probe.report.command import rebuilding
from ffn_probe.report.paper import Note, Paper
from ffn_probe.report.section import Numbers, Section
from ffn_probe.report.telemetry import Telemetry
from ffn_probe.report.telemetry_sections import (
    MAPS,
    blocks,
    largest,
    maps,
    pictures,
    standing_out,
)
from ffn_probe.report.unusual import STANDOUT
from ffn_probe.report.words import facts, shortened

NAME = "telemetry"
_PICTURES = 6

_METHOD = (
    "A measure is of one site: a role of one block, over every window of the recording. Counts "
    "of what is not finite, largest magnitudes and channels are of every row, the rest of "
    "sampled rows. One run alone cannot say whether a value is as it should be: compare it "
    "with another."
)
_DEFINITION_HEAD = "measure, what it is, unit, formula, source, unusual when"
_UNUSUAL = {"high": "high", "low": "low", "both": "far from 0", "none": "-"}


def telemetry_paper(told: Telemetry, *, to: str, most: int = _PICTURES) -> Paper:
    """Return the report of one run.

    Args:
        told: what is told.
        to: the file that the command names, which makes the report again.
        most: how many of the sites that stand out have a picture.
    """
    run = told.run
    made = (
        standing_out(told), pictures(told, most), maps(told), largest(told), blocks(run),
        _definitions(told), _made(told),
        Section("Make it again", code=rebuilding((run.path,), to)),
    )  # fmt: skip
    return Paper(
        NAME,
        f"FFN telemetry: {shortened(run.name)}",
        "FFN telemetry report",
        (run.name,),
        "",
        told.banner,
        tuple(Note(problem) for problem in run.problems),
        tuple(section for section in made if section is not None),
    )


def _definitions(told: Telemetry) -> Section:
    known = set(told.measures["measure"])
    shown = [name for name in dict.fromkeys((*MAPS, *STANDOUT)) if name in known]
    rows = [
        (m.name, m.label, m.unit, m.formula, m.source, _UNUSUAL[m.direction])
        for m in map(measure, shown)
    ]
    defined = Numbers.of(_DEFINITION_HEAD, rows, wrap=True, folded="Measures")
    return Section("Definitions", (_METHOD,), numbers=(defined,), general=True)


def _made(told: Telemetry) -> Section:
    made = told.run.manifest
    rows = [*facts(made, told.run.path).items(), ("command", made.command)]
    rows.append(("tags", ", ".join(f"{key}={value}" for key, value in made.tags.items())))
    rows.append(("skipped", _skipped(told)))
    shown = tuple((key, value) for key, value in rows if value)
    return Section(
        "How it was made", numbers=(Numbers(("", "run"), shown, frozenset(), wrap=True),)
    )


def _skipped(told: Telemetry) -> str:
    """Return what discovery passed over, counted by its reason."""
    reasons = [str(entry.get("reason", "")) for entry in told.run.manifest.skipped]
    return "; ".join(f"{reasons.count(r)} modules: {r}" for r in dict.fromkeys(reasons))
