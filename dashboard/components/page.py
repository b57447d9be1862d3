"""A page: its title, the way back, its content; and the page that says what went wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from dash import dcc, html

Content = Any  # what dash takes for children
Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """What a route shows: the title of the window and the content."""

    title: str
    content: Content


def page(title: str, crumbs: Sequence[tuple[str, str]], *content: Content) -> Page:
    """Return a page below a line of links (text, href) that lead back."""
    trail: list[Content] = []
    for text, href in crumbs:
        trail += [dcc.Link(text, href=href), html.Span(" / ", className="dim")]
    nav = html.Nav([*trail, html.Span(title)], className="crumbs") if crumbs else None
    return Page(f"{title} - ffn-probe", [nav, *content])


def problem(title: str, text: str) -> Page:
    """Return the page that says what went wrong and leads back to the runs."""
    body = [
        html.H1(title),
        html.P(text),
        html.P(dcc.Link("To the runs", href="/", className="button")),
    ]
    return page(title, (), html.Div(body, className="empty"))


def href(path: str, **query: str) -> str:
    """Return a link within the dashboard; names of runs and sites only in its query."""
    kept = {key: value for key, value in query.items() if value}
    return path + ("?" + urlencode(kept) if kept else "")


def prose(text: str) -> list[Content]:
    """Return text with `names` in backticks as code."""
    return [html.Code(part) if i % 2 else part for i, part in enumerate(text.split("`"))]
