"""Reports read back: the tags, texts and tables of HTML, the tables of Markdown."""

import re
from html import unescape
from html.parser import HTMLParser

from ffn_probe.report.words import MINUS


class Page(HTMLParser):
    """The tags, links, texts and tables of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.rows and self.rows[-1] and self.tags[-1][0] in {"td", "th"}:
            self.rows[-1][-1] += data.strip("\n")

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def markdown_rows(text: str) -> list[list[str]]:
    """Return the cells of every row of every table, as GitHub would show them."""
    rows = []
    for line in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        rows.append([_shown(cell) for cell in cells])
    return [row for row in rows if set("".join(row)) - set("-: ")]


def _shown(cell: str) -> str:
    plain = re.sub(r"<!-- -->|</?(?:code|sub)>", "", cell.strip())
    return unescape(re.sub(r"\\(.)", r"\1", plain)).replace("\xa0", " ")


def read(shown: str) -> float:
    """Return a number as it is shown in a table."""
    return float(shown.replace(MINUS, "-").replace("\u221e", "inf").rstrip("\u00d7"))
