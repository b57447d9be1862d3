"""A page: its title, the way back, its content, the numbers behind it; and what went wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pandas as pd
from dash import dcc, html

from dashboard.work import Progress

Content = Any  # what dash takes for children
Query = Mapping[str, str]
Numbers = pd.DataFrame | Callable[[], pd.DataFrame]


@dataclass(frozen=True, slots=True)
class Page:
    """What a route shows: the title of the window and the content.

    `data` are the numbers behind it by name, the main table first: its machine twin.
    `command` tells the same on a command line, `report` is where the page is a file
    (both "" where there is none). A page with a `version` is looked at again every few
    seconds and drawn anew when it changed.
    """

    title: str
    content: Content
    data: Mapping[str, Numbers] = field(default_factory=dict)
    command: str = ""
    report: str = ""
    version: str = ""
    error: bool = False


def page(
    title: str,
    crumbs: Sequence[tuple[str, str]],
    *content: Content,
    data: Mapping[str, Numbers] | None = None,
    command: str = "",
    report: str = "",
    version: str = "",
) -> Page:
    """Return a page below a line of links (text, href) that lead back."""
    trail: list[Content] = []
    for text, link in crumbs:
        trail += [dcc.Link(text, href=link), html.Span(" / ", className="dim")]
    nav = (
        html.Nav([*trail, html.Span(title)], className="crumbs", **attrs(aria_label="Path"))
        if crumbs
        else None
    )
    return Page(f"{title} - ffn-probe", [nav, *content], data or {}, command, report, version)


def problem(title: str, text: str) -> Page:
    """Return the page that says what went wrong and leads back to the runs."""
    body = [
        html.H1(title),
        html.P(text),
        html.P(dcc.Link("To the runs", href="/", className="button")),
    ]
    return Page(f"{title} - ffn-probe", [html.Div(body, className="empty")], error=True)


def working(progress: Progress) -> Page:
    """Return the page that stands until the one asked for is made, and says how far it is."""
    share = progress.share
    bar = html.Progress(max="1") if share is None else html.Progress(value=str(share), max="1")
    body = [
        html.H1("One moment"),
        bar,
        html.P(f"{progress.text[:1].upper()}{progress.text[1:]}, {progress.seconds:.0f} s."),
    ]
    shown = html.Div(body, className="empty working", **attrs(aria_busy="true"))
    version = f"working {progress.text} {progress.seconds:.1f}"
    return Page("One moment - ffn-probe", shown, version=version, error=True)


def href(path: str, **query: str) -> str:
    """Return a link within the dashboard; names of runs and sites only in its query."""
    kept = {key: value for key, value in query.items() if value}
    return path + ("?" + urlencode(kept) if kept else "")


def nothing(title: str, *text: Content, command: str = "") -> Content:
    """Return what stands where a page has nothing to show: why, and what to do."""
    how = [html.Pre(command, className="command")] if command else []
    said = [html.P(line) for line in text]
    return html.Div([html.H2(title), *said, *how], className="empty")


def prose(text: str) -> list[Content]:
    """Return text with `names` in backticks as code."""
    return [html.Code(part) if i % 2 else part for i, part in enumerate(text.split("`"))]


def attrs(**named: str) -> Any:
    """Return attributes of HTML that Python has no name for: `aria_label` is aria-label."""
    return {name.replace("_", "-"): value for name, value in named.items()}
