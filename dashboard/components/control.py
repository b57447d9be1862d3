"""Controls whose state is the page's address: selects, chips, switches."""

from collections.abc import Sequence

from dash import dcc, html

from dashboard.components.page import Content, Query, attrs, href

Option = tuple[str, str]
"""What stands in the address, and the text that is shown."""


def select(label: str, key: str, options: Sequence[Option], chosen: str) -> Content:
    """Return a labelled drop-down; a choice sets `key` in the address, the rest stays.

    `assets/navigate.js` listens to it.
    """
    listed = [
        html.Option(text, value=value, selected=True)
        if value == chosen
        else html.Option(text, value=value)
        for value, text in options
    ]
    return html.Label(
        [
            html.Span(label),
            html.Select(
                listed, key=f"{key}={chosen}", **attrs(data_key=key, data_chosen=chosen)
            ),
        ],
        className="control",
    )


def chips(
    label: str, key: str, options: Sequence[Option], chosen: str, path: str, query: Query
) -> Content:
    """Return few choices side by side, as links to `path` with `key` set."""
    links = [
        dcc.Link(
            text,
            href=href(path, **({**query, key: value})),
            className="chip" + " here" * (value == chosen),
        )
        for value, text in options
    ]
    return html.Div(
        [html.Span(label, className="dim"), *links],
        className="chips control",
        role="group",
        **attrs(aria_label=label),
    )


def controls(*parts: Content) -> Content:
    """Return controls in one line, which breaks where it must."""
    return html.Div([part for part in parts if part is not None], className="controls")
