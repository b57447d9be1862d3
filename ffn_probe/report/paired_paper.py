"""A paired run as a report: what made the candidate drift."""

from ffn_probe.report.command import rebuilding
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_sections import sections
from ffn_probe.report.paired_words import MARKS, sentences
from ffn_probe.report.paper import Banner, Note, Paper
from ffn_probe.report.section import Section
from ffn_probe.report.words import shortened

NAME = "attribution"

_METHOD = (
    "Both models saw the same batches. An error is the squared difference of candidate and "
    "reference, summed; SQNR is the reference's energy over it, in dB, so that a larger number "
    "is a smaller error. The noise floor is the reference against itself; what lies under it "
    "reads `indistinguishable`. Shares are of energies, which add; intervals (95 %) resample "
    "whole sequences and are left out where there were too few. `Expected` means within the "
    "stated tolerance of theory, `unexplained` outside of it."
)


def paired_paper(story: Story, *, to: str) -> Paper:
    """Return the report of a paired run, or of its attribution alone.

    Args:
        story: what is told.
        to: the file that the command names, which makes the report again.
    """
    told = story.attribution
    sign, kind = MARKS.get(told.status, ("", "WARN"))
    made = [*sections(story), Section("How to read this", (_METHOD,), general=True)]
    if story.path:
        made.append(Section("Make it again", code=rebuilding((story.path,), to)))
    return Paper(
        NAME,
        f"FFN attribution: {shortened(told.reference)} to {shortened(told.candidate)}",
        "Why did it drift?",
        (told.reference, told.candidate),
        "same inputs",
        Banner(sign, kind, told.status.upper(), tuple(sentences(told.verdict))),
        tuple(Note(note) for note in story.notes),
        tuple(made),
    )
