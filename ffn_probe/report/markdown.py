"""A report as Markdown that GitHub renders, for a pull request."""

import html
import re
from collections.abc import Iterable, Sequence

from ffn_probe.report.paper import Note, Paper
from ffn_probe.report.section import Chart, Names, Numbers, Section
from ffn_probe.report.words import legible, shortened, written_by

_OPEN = 20  # rows that are shown without a click
_MOST = 60  # rows of one table: a comment on GitHub holds 65,536 characters
_NAMES = 20
_STATUS = 20  # characters of a status with its sign
_EMOJI = {"PASS": "\u2705", "WARN": "\u26a0\ufe0f", "FAIL": "\u274c"}
_SPECIAL = "\\`*_{}[]#|~$"
_LINK = re.compile(r"://|(?<=www)\.", re.IGNORECASE)


def to_markdown(paper: Paper) -> str:
    """Return GitHub-flavoured Markdown with the sections of the HTML report but pictures."""
    parts = [
        f"## {_headed(paper.heading)} {_mark(paper)}",
        *_opening(paper),
        *(part for section in paper.sections for part in _section(section, "###")),
        *(_part(part, i) for i, part in enumerate(paper.parts, 1)),
        *(part for section in paper.closing for part in _section(section, "###")),
        f"<sub>Report by {escape(written_by())}.</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _mark(paper: Paper) -> str:
    """Return the verdict as one sees it from afar, and its word."""
    banner = paper.banner
    return f"{_EMOJI.get(banner.kind, banner.sign)} {escape(banner.word)}".strip()


def _headed(heading: str) -> str:
    return escape(heading) + ("" if heading.endswith("?") else ":")


def _opening(paper: Paper) -> list[str]:
    said = [prose(words) for words in paper.banner.sentences]
    words = ("Run",) if len(paper.sides) == 1 else ("Reference", "candidate")
    named = zip(words, paper.sides, strict=False)
    who = ", ".join(f"{word} {code(name)}" for word, name in named)
    how = f"; {escape(paper.how)}" if paper.how else ""
    return [*said, f"{who}{how}." if who else "", "\n".join(map(_note, paper.notes))]


def _note(note: Note) -> str:
    level = f"**{escape(note.level)}**: " if note.level else ""
    return f"- {level}{prose(note.shown)}"


def _part(paper: Paper, number: int) -> str:
    """Return a report within a report, behind one line."""
    named = " \u2192 ".join(f"<code>{_in_html(name)}</code>" for name in paper.sides)
    colon = "" if paper.heading.endswith("?") else ":"
    summary = f"{number}. {_in_html(paper.heading)}{colon} {named} {_mark(paper)}"
    told = [part for section in paper.sections for part in _section(section, "####")]
    inside = "\n\n".join(part for part in [*_opening(paper), *told] if part)
    return f"<details><summary>{summary}</summary>\n\n{inside}\n\n</details>"


# ---- sections ---------------------------------------------------------------------------


def _section(section: Section, level: str) -> list[str]:
    parts = [*map(prose, section.text)]
    if section.cards:
        rows = [(card.label, card.value, card.remark) for card in section.cards]
        parts.append(table(("", "sites", ""), rows))
    for chart in section.charts:
        parts += _chart(chart)
    parts += [_numbers(numbers) for numbers in section.numbers]
    parts += [_names(names) for names in section.lists]
    parts.append(block(section.code) if section.code else "")
    return [f"{level} {escape(section.title)}", *parts] if any(parts) else []


def _chart(chart: Chart) -> list[str]:
    """Return what a chart says in words and numbers."""
    if not chart.numbers and not chart.title:
        return []
    title = f"**{escape(chart.title)}** " if chart.title else ""
    caption = escape(chart.caption) if title else f"**{escape(chart.caption)}**"
    names = ", ".join(map(code, chart.names))
    return [f"{title}{caption} {names}".strip(), *map(_numbers, chart.numbers)]


def _numbers(numbers: Numbers) -> str:
    count = len(numbers.rows)
    made = table(numbers.head, numbers.rows[:_MOST], numbers.right)
    more = f"\n\n{count - _MOST} more rows are in the other formats." if count > _MOST else ""
    caption = f"{escape(numbers.caption)}\n\n" if numbers.caption else ""
    short = count <= _OPEN
    if (short and (numbers.map or numbers.folded is None)) or numbers.folded == "":
        return caption + made
    summary = _in_html(numbers.folded or f"{count} rows")
    before = "" if numbers.folded else caption
    return f"{before}<details><summary>{summary}</summary>\n\n{made}{more}\n\n</details>"


def _names(names: Names) -> str:
    listed = ", ".join(map(code, names.names[:_NAMES]))
    more = f" and {len(names.names) - _NAMES} more" if len(names.names) > _NAMES else ""
    return f"{escape(names.summary)}: {listed}{more}"


# ---- text -------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Return text that Markdown, HTML and GitHub take for text, on one line.

    No name becomes a link or a mention of someone, and none ends a table's cell.
    """
    return _inert(shortened(text))


def prose(text: str) -> str:
    """Return sentences, however long, with `names` in backticks as code."""
    parts = re.split(r"`([^`]+)`", legible(text))
    return "".join(f"<code>{_inert(p)}</code>" if i % 2 else _inert(p)
                   for i, p in enumerate(parts))  # fmt: skip


def _inert(line: str) -> str:
    line = "".join("\\" + c if c in _SPECIAL else c for c in line)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _LINK.sub(lambda found: "\\" + found[0], line)
    return line.replace("@", "@<!-- -->")


def _in_html(text: str) -> str:
    """Return text for a line that is HTML already, where Markdown's escapes are text."""
    return html.escape(shortened(text)).replace("@", "@<!-- -->")


def code(text: str) -> str:
    """Return a name in the type of code; HTML, as a code span takes no escapes."""
    return f"<code>{escape(text)}</code>"


def block(text: str) -> str:
    """Return a command as a block that ends where it ends, whatever it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


def _cell(text: str, *, whole: bool) -> str:
    """Return the text of a cell; what is `whole`, a number or a status, is not parted."""
    return escape(text).replace(" ", "&nbsp;") if whole else escape(text)


def _is_status(text: str) -> bool:
    return len(text) < _STATUS and text[1:2] == " "


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Return a table of text; the columns in `right` are aligned to the right."""
    numbers = set(right)
    rule = ["--:" if i in numbers else "---" for i in range(len(head))]
    body = [
        [
            _cell(text, whole=i in numbers or (i == 0 and _is_status(text)))
            for i, text in enumerate(row)
        ]
        for row in rows
    ]
    lines = [map(escape, head), rule, *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
