"""Several runs and comparisons as one report: the verdicts first, then each in full."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ffn_probe.report.paper import RANK, Banner, Paper
from ffn_probe.report.section import Numbers, Section
from ffn_probe.report.words import legible

NAME = "report"
_HEAD = "verdict, no., what, reference, candidate, in words"


def several_paper(parts: Sequence[Paper], command: str) -> Paper:
    """Return the report of several: a table of the verdicts, and each behind its line.

    Args:
        parts: the reports.
        command: what makes the report again, "" when there is no such command.
    """
    general = _general(parts)
    bare = tuple(_bare(part, general, command=bool(command)) for part in parts)
    again = (Section("Make it again", code=command),) if command else ()
    shared = parts[0].sides[:1] if len({part.sides[0] for part in parts}) == 1 else ()
    return Paper(
        NAME,
        f"FFN report of {len(parts)}",
        "FFN report",
        (),
        f"against {shared[0]}" if shared else "",
        _banner(parts),
        sections=(Section("Verdicts", numbers=(_verdicts(parts),)),),
        parts=bare,
        closing=(*general, *again),
    )


def _banner(parts: Sequence[Paper]) -> Banner:
    """Return the worst verdict, with how many have it and where."""
    worst = max(parts, key=lambda part: RANK.get(part.banner.kind, 1)).banner.kind
    bad = [i for i, part in enumerate(parts, 1) if RANK.get(part.banner.kind, 1) == RANK[worst]]
    status = {"a": "PASS"}.get(worst, worst)
    if status == "PASS":
        return Banner.of("PASS", f"All {len(parts)} pass.")
    word = "failed" if status == "FAIL" else "to be looked at"
    listed = ", ".join(map(str, bad))
    verb = "" if status == "FAIL" else " are" if len(bad) > 1 else " is"
    return Banner.of(status, f"{len(bad)} of {len(parts)}{verb} {word}: no. {listed}.")


def _verdicts(parts: Sequence[Paper]) -> Numbers:
    rows = [
        (
            f"{part.banner.sign} {part.banner.word}", str(i), part.heading, part.sides[0],
            part.sides[1] if len(part.sides) > 1 else "-", legible(part.banner.sentences[0]),
        )
        for i, part in enumerate(parts, 1)
    ]  # fmt: skip
    return Numbers.of(_HEAD, rows, right=("no.",), wrap=True)


def _general(parts: Sequence[Paper]) -> tuple[Section, ...]:
    """Return what several parts say in the same words, once."""
    said = Counter(s for part in parts for s in part.sections if s.general)
    return tuple(section for section, times in said.items() if times > 1)


def _bare(paper: Paper, general: tuple[Section, ...], *, command: bool) -> Paper:
    """Return a part without what the whole says; without its command if that has one."""
    kept = (section for section in paper.sections if section not in general)
    sections = tuple(section for section in kept if not (command and section.code))
    return replace(paper, sections=sections)
