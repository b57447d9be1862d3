"""A paired run as Markdown, for a pull request."""

from ffn_probe.report.markdown import code, escape, table
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_sections import sections
from ffn_probe.report.paired_words import marked, sentences
from ffn_probe.report.section import Numbers, Section

_ROWS = 20


def to_markdown(story: Story) -> str:
    """Return GitHub-flavoured Markdown with the sections of the HTML report but pictures."""
    told = story.attribution
    parts = [
        f"## Why did it drift? {marked(told.status)}",
        *map(escape, sentences(told.verdict)),
        f"Reference {code(told.reference)}, candidate {code(told.candidate)}; same inputs.",
        "\n".join(f"- {escape(note)}" for note in story.notes),
        *(part for section in sections(story) for part in _section(section)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"### {escape(section.title)}", *map(escape, section.text)]
    for chart in section.charts:
        if chart.numbers:
            parts += [f"**{escape(chart.caption)}**", *map(_numbers, chart.numbers)]
    return [*parts, *(_numbers(numbers) for numbers in section.numbers)]


def _numbers(numbers: Numbers) -> str:
    made = table(numbers.head, numbers.rows)
    caption = f"{escape(numbers.caption)}\n\n" if numbers.caption else ""
    if len(numbers.rows) <= _ROWS:
        return caption + made
    summary = f"<details><summary>{len(numbers.rows)} rows</summary>"
    return f"{caption}{summary}\n\n{made}\n\n</details>"
