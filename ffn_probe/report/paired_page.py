"""A paired run as one HTML file: no script, no request, light and dark, fit to print."""

from html import escape

from ffn_probe.report.document import document, prose, table, written_by
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_sections import sections
from ffn_probe.report.paired_words import MARKS, marked, sentences
from ffn_probe.report.section import Chart, Numbers, Section
from ffn_probe.report.words import shortened

_OPEN = 12  # rows that are shown without a click
_CLASSES = {marked(status): kind for status, (_, kind) in MARKS.items()}
_CLASSES |= {MARKS["drift"][0]: "WARN", MARKS["indistinguishable"][0]: "PASS"}

_METHOD = (
    "Both models saw the same batches. An error is the squared difference of candidate and "
    "reference, summed; SQNR is the reference's energy over it, in dB, so that a larger number "
    "is a smaller error. The noise floor is the reference against itself; what lies under it "
    "reads <em>indistinguishable</em>. Shares are of energies, which add; intervals (95 %) "
    "resample whole sequences and are left out where there were too few. <em>Expected</em> "
    "means within the stated tolerance of theory, <em>unexplained</em> outside of it."
)


def to_html(story: Story) -> str:
    """Return the report as one HTML document."""
    told = story.attribution
    parts = [_header(story), _notes(story), *map(_section, sections(story))]
    parts += [f"<h2>How to read this</h2><p>{_METHOD}</p>", written_by()]
    title = f"FFN attribution: {shortened(told.reference)} to {shortened(told.candidate)}"
    return document(title, parts)


def _header(story: Story) -> str:
    told = story.attribution
    sign, kind = MARKS.get(told.status, ("", "WARN"))
    return (
        "<h1>Why did it drift?</h1>"
        f'<p>Reference <span class="a">{escape(shortened(told.reference))}</span>, candidate '
        f'<span class="b">{escape(shortened(told.candidate))}</span>; same inputs.</p>'
        f'<div class="banner {kind}"><b class="{kind}">{sign} {escape(told.status.upper())}</b>'
        + "".join(f"<p>{prose(words)}</p>" for words in sentences(told.verdict))
        + "</div>"
    )


def _notes(story: Story) -> str:
    notes = story.notes
    return "".join(f'<div class="note">{prose(note)}</div>' for note in notes)


def _section(section: Section) -> str:
    text = "".join(f"<p>{prose(words)}</p>" for words in section.text if words)
    charts = "".join(_chart(chart, small=section.small) for chart in section.charts)
    if section.small and charts:
        charts = f'<div class="pictures">{charts}</div>'
    tables = "".join(_numbers(numbers) for numbers in section.numbers)
    return f"<h2>{escape(section.title)}</h2>{text}{charts}{tables}"


def _chart(chart: Chart, *, small: bool) -> str:
    picture = chart.svg if small else f'<div class="wide">{chart.svg}</div>'
    numbers = "".join(_numbers(numbers) for numbers in chart.numbers)
    caption = escape(shortened(chart.caption))
    return f"<figure><figcaption>{caption}</figcaption>{picture}{numbers}</figure>"


def _numbers(numbers: Numbers) -> str:
    short = len(numbers.rows) <= _OPEN
    made = table(
        numbers.head, numbers.rows, numbers.caption if short else "", numbers.right,
        wrap=numbers.wrap, classes=_CLASSES,
    )  # fmt: skip
    if short:
        return made
    title = escape(numbers.caption or "The numbers")
    return f"<details><summary>{title}: {len(numbers.rows)} rows</summary>{made}</details>"
