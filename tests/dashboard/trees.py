"""What a tree of Dash components says: its texts, its links, its charts."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from dash.development.base_component import Component

from dashboard.components.page import Page


def parts(content: Any) -> Iterator[Component | str]:
    """Yield every component and text, in the order of the page."""
    if isinstance(content, list | tuple):
        for item in content:
            yield from parts(item)
    elif isinstance(content, Component):
        yield content
        yield from parts(getattr(content, "children", None))
    elif content is not None:
        yield str(content)


def text(content: Any) -> str:
    return " ".join(part for part in parts(content) if isinstance(part, str))


def of(content: Any, kind: str) -> list[Any]:
    return [p for p in parts(content) if isinstance(p, Component) and type(p).__name__ == kind]


def links(content: Any) -> dict[str, str]:
    """Return text -> href of every link; the last of equal texts."""
    found = [*of(content, "Link"), *of(content, "A")]
    return {text(link.children): link.href for link in found}


def rows(content: Any) -> list[list[str]]:
    """Return the cells of every row of every table body, as text."""
    return [
        [text(cell) for cell in of(row, "Td")]
        for body in of(content, "Tbody")
        for row in of(body, "Tr")
    ]


def frame(page: Page, name: str) -> pd.DataFrame:
    """Return a table of the machine twin of a page."""
    made = page.data[name]
    return made() if callable(made) else made
