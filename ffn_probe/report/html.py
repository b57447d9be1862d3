"""A report as one HTML file: no request, no script needed, light and dark, fit to print."""

from collections.abc import Mapping
from html import escape

from ffn_probe.report.document import CLASSES, document, prose, table, text
from ffn_probe.report.paired_words import MARKS, marked
from ffn_probe.report.paper import Banner, Note, Paper
from ffn_probe.report.section import Card, Chart, Names, Numbers, Section
from ffn_probe.report.words import shortened, written_by

_OPEN = 12  # rows that are shown without a click
_CLASSES: Mapping[str, str] = {
    **{marked(status): kind for status, (_, kind) in MARKS.items()},
    **{f"{sign} {status.upper()}": kind for status, (sign, kind) in MARKS.items()},
    MARKS["drift"][0]: "WARN",
    MARKS["indistinguishable"][0]: "PASS",
    **CLASSES,
}


def to_html(paper: Paper) -> str:
    """Return the report as one HTML document."""
    return document(shortened(paper.title), pieces(paper))


def pieces(paper: Paper) -> list[str]:
    """Return what stands in the body of the document."""
    parts = [part for i, one in enumerate(paper.parts, 1) for part in _part(one, i)]
    made = f'<p class="dim">Report by {escape(written_by())}.</p>'
    closing = [_section(section, 2) for section in paper.closing]
    start = [*_opening(paper, 1), *_sections(paper, 2), _contents(paper)]
    return [*start, *parts, *closing, made]


def _contents(paper: Paper) -> str:
    """Return links to the parts of a report."""
    links = [
        f'<a href="#{anchor(i)}">{i}. {_sides(part)} '
        f'<b class="{part.banner.kind}">{part.banner.sign}</b></a>'
        for i, part in enumerate(paper.parts, 1)
    ]
    return f'<nav class="parts">{"".join(links)}</nav>' if links else ""


def anchor(number: int) -> str:
    """Return the id of a part within its report."""
    return f"part-{number}"


def _part(paper: Paper, number: int) -> list[str]:
    """Return a report within a report, behind its heading; what passed is closed."""
    shown = "" if paper.banner.kind in {"PASS", "a"} else " open"
    banner = paper.banner
    colon = "" if paper.heading.endswith("?") else ":"
    summary = (
        f"{number}. {text(paper.heading)}{colon} {_sides(paper)} "
        f'<b class="{banner.kind}">{banner.sign} {text(banner.word)}</b>'
    )
    start = f'<details class="part"{shown}><summary><h2>{summary}</h2></summary>'
    inside = [f'<div id="{anchor(number)}">', *_opening(paper, 0), *_sections(paper, 3)]
    return [start, *inside, "</div></details>"]


def _opening(paper: Paper, level: int) -> list[str]:
    """Return the heading (of a whole report), the sides, the verdict and the notes."""
    how = f"; {text(paper.how)}" if paper.how else ""
    who = f"<p>{_roles(paper)}{how}.</p>" if paper.sides else ""
    heading = f"<h1>{text(paper.heading)}</h1>" if level else ""
    return [heading, who, _banner(paper.banner), *map(_note, paper.notes)]


def _roles(paper: Paper) -> str:
    words = ("Run",) if len(paper.sides) == 1 else ("Reference", "candidate")
    named = zip(words, paper.sides, "ab", strict=False)
    return ", ".join(f'{word} <span class="{side}">{_name(name)}</span>'
                     for word, name, side in named)  # fmt: skip


def _sides(paper: Paper) -> str:
    named = zip(paper.sides, "ab", strict=False)
    return " \u2192 ".join(f'<span class="{side}">{_name(name)}</span>' for name, side in named)


def _name(name: str) -> str:
    return escape(shortened(name))


def _banner(banner: Banner) -> str:
    said = "".join(f"<p>{prose(words)}</p>" for words in banner.sentences)
    word = text(banner.word)
    return (
        f'<div class="banner {banner.kind}"><b class="{banner.kind}">{banner.sign} {word}</b>'
        f"{said}</div>"
    )


def _note(note: Note) -> str:
    level = f"<b>{text(note.level)}</b> " if note.level else ""
    return f'<div class="note">{level}{prose(note.shown)}</div>'


# ---- sections ---------------------------------------------------------------------------


def _sections(paper: Paper, level: int) -> list[str]:
    return [_section(section, level) for section in paper.sections]


def _section(section: Section, level: int) -> str:
    words = (*section.text, section.legend)
    said = "".join(f"<p>{prose(line)}</p>" for line in words if line)
    cards = "".join(map(_card, section.cards))
    cards = f'<div class="counts">{cards}</div>' if cards else ""
    charts = "".join(_chart(chart, small=section.small) for chart in section.charts)
    if section.small and charts:
        charts = f'<div class="pictures">{charts}</div>'
    tables = "".join(map(_numbers, section.numbers))
    lists = "".join(map(_names, section.lists))
    code = f"<pre><code>{escape(section.code)}</code></pre>" if section.code else ""
    heading = f"<h{level}>{text(section.title)}</h{level}>"
    return f"{heading}{said}{cards}{charts}{tables}{lists}{code}"


def _card(card: Card) -> str:
    remark = f'<span class="dim">{text(card.remark)}</span>' if card.remark else ""
    return f"<div>{text(card.label)}<b>{text(card.value)}</b>{remark}</div>"


def _chart(chart: Chart, *, small: bool) -> str:
    picture = chart.svg if small else f'<div class="wide">{chart.svg}</div>'
    if chart.plot:
        picture = (
            f'<div class="static">{picture}</div><div class="plot" id="{chart.plot}"></div>'
        )
    picture += chart.below
    numbers = "".join(map(_numbers, chart.numbers))
    title = f"<b>{text(chart.title)}</b> " if chart.title else ""
    names = ", ".join(f'<code class="dim">{_name(name)}</code>' for name in chart.names)
    below = f"<br>{names}" if names else ""
    caption = f"<figcaption>{title}{escape(shortened(chart.caption))}{below}</figcaption>"
    return f"<figure>{caption}{picture}{numbers}</figure>"


def _numbers(numbers: Numbers) -> str:
    short = len(numbers.rows) <= _OPEN if numbers.folded is None else not numbers.folded
    made = table(
        numbers.head, numbers.rows, numbers.caption if short else "", numbers.right,
        wrap=numbers.wrap, classes=_CLASSES,
    )  # fmt: skip
    if short:
        return made
    counted = f"{numbers.caption or 'The numbers'}: {len(numbers.rows)} rows"
    title = text(numbers.folded or counted)
    return f"<details><summary>{title}</summary>{made}</details>"


def _names(names: Names) -> str:
    listed = ", ".join(f"<code>{_name(name)}</code>" for name in names.names)
    return f"<details><summary>{text(names.summary)}</summary><p>{listed}</p></details>"
