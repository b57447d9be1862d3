"""A table of text and links, and a status as sign, word and colour."""

from collections.abc import Iterable, Sequence

from dash import html

from dashboard.components.page import Content
from ffn_probe.figures.theme import SIGN
from ffn_probe.report.words import shortened


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Content]],
    *,
    caption: str = "",
    right: Iterable[int] = (),
    wrap: bool = False,
) -> Content:
    """Return a table that scrolls sideways where it is too wide; `right` are numbers.

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

    top = html.Tr([html.Th(t, scope="col", className=kind(i)) for i, t in enumerate(head)])
    body = [html.Tr([cell(i, item) for i, item in enumerate(row)]) for row in rows]
    title = [html.Caption(caption)] if caption else []
    made = html.Table(
        [*title, html.Thead(top), html.Tbody(body)], className="" if wrap else "dense"
    )
    return html.Div(made, className="wide")


def status(name: str) -> Content:
    """Return PASS, WARN or FAIL with its sign and colour."""
    return html.B(f"{SIGN[name]} {name}", className=name)
