"""Paper: a whole report as a value, before it is HTML, Markdown or print."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ffn_probe.figures.theme import SIGN
from ffn_probe.report.section import Chart, Section
from ffn_probe.report.words import legible

RANK: Mapping[str, int] = {"PASS": 0, "a": 0, "WARN": 1, "FAIL": 2}
"""The kinds of a banner, worst last."""


@dataclass(frozen=True, slots=True)
class Banner:
    """The verdict: a sign, a word, sentences; `kind` (of RANK) is the class of its colour."""

    sign: str
    kind: str
    word: str
    sentences: tuple[str, ...]

    @classmethod
    def of(cls, status: str, *sentences: str) -> "Banner":
        """Return the banner of PASS, WARN or FAIL."""
        return cls(SIGN[status], status, status, sentences)


MANY = 1000
"""Characters of a note that are shown."""


@dataclass(frozen=True, slots=True)
class Note:
    """What a reader has to know before believing the numbers."""

    text: str
    level: str = ""

    @property
    def shown(self) -> str:
        """The text, cut where it is beyond reading."""
        line = legible(self.text[:MANY])
        return line if len(self.text) <= MANY else line + "\u2026"


@dataclass(frozen=True, slots=True)
class Paper:
    """Everything that a report says; `parts` are reports of their own within it.

    `closing` is what follows the parts. `name` is that of its file; `sides` are the
    reference and the candidate, or the one run; `how` says how they were brought together.
    """

    name: str
    title: str
    heading: str
    sides: tuple[str, ...]
    how: str
    banner: Banner
    notes: tuple[Note, ...] = ()
    sections: tuple[Section, ...] = ()
    parts: tuple["Paper", ...] = ()
    closing: tuple[Section, ...] = ()

    @property
    def charts(self) -> Iterator[Chart]:
        """The charts that may be files of their own, the main one first."""
        for section in self.sections:
            yield from (chart for chart in section.charts if chart.file)
