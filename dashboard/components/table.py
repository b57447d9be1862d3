"""A table of text and links, and a status as sign, word and colour."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dash import html

from dashboard.components.page import Content, attrs
from ffn_probe.figures.theme import SIGN
from ffn_probe.report.words import shortened


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a column that is more than text; `order` where the rows are sorted by it."""

    content: Content
    order: str = ""


def table(
    head: Sequence[Content | Head],
    rows: Iterable[Sequence[Content]],
    *,
    caption: str = "",
    right: Iterable[int] = (),
    wrap: bool = False,
) -> Content:
    """Return a table that scrolls sideways where it is too wide; `right` are numbers.

    The first link of a row is where Enter leads.

    A cell is text, a component, or a Td of its own, which may span columns.
    """
    numbers = set(right)

    def kind(i: int) -> str:
        return "n" if i in numbers else ""

    def cell(i: int, content: Content) -> Content:
        if isinstance(content, html.Td):
            return content
        shown = shortened(content) if isinstance(content, str) else content
        return html.Td(shown, className=kind(i))

    def top(i: int, content: Content | Head) -> Content:
        if not isinstance(content, Head):
            return html.Th(content, scope="col", className=kind(i))
        sort = attrs(aria_sort=content.order) if content.order else {}
        return html.Th(content.content, scope="col", className=kind(i), **sort)

    heads = html.Tr([top(i, content) for i, content in enumerate(head)])
    body = [html.Tr([cell(i, item) for i, item in enumerate(row)]) for row in rows]
    title = [html.Caption(caption)] if caption else []
    made = html.Table(
        [*title, html.Thead(heads), html.Tbody(body)], className="" if wrap else "dense"
    )
    return html.Div(made, className="wide")


def status(name: str) -> Content:
    """Return PASS, WARN or FAIL with its sign and colour."""
    return html.B(f"{SIGN[name]} {name}", className=name)
