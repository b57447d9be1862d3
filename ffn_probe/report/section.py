"""Sections of a report as values: text, charts and the numbers beside them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

Drawing = Callable[[], "go.Figure"]
"""Makes the interactive form of a chart, when that is asked for."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A table of text; the columns in `right` hold numbers.

    `folded` is the line that stands for the table until it is opened, "" for a table that is
    always open; None leaves it to its length. A `map` is what a picture shows: where there
    is no picture, it is open when it is short.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int]
    caption: str = ""
    wrap: bool = False
    folded: str | None = None
    map: bool = False

    @classmethod
    def of(
        cls,
        head: str,
        rows: Iterable[Sequence[str]],
        *,
        right: Iterable[str] = (),
        caption: str = "",
        wrap: bool = False,
        folded: str | None = None,
    ) -> "Numbers":
        """Return a table whose column names stand in `head` with commas between them."""
        names = tuple(name.strip() for name in head.split(","))
        numbers = frozenset(names.index(name) for name in right)
        made = tuple(tuple(row) for row in rows)
        return cls(names, made, numbers, caption, wrap, folded)


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture as SVG, what it shows, and its numbers.

    `title` stands in bold before the caption, `names` (of blocks) below it; `file` is the
    chart's name as a file of its own, "" for none; `draw` makes its interactive form, which
    has its place at the id `plot`, "" for none. `below` is a second picture of the same.
    """

    svg: str
    caption: str
    numbers: tuple[Numbers, ...] = ()
    title: str = ""
    names: tuple[str, ...] = ()
    file: str = ""
    draw: Drawing | None = None
    plot: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One number that is read at a glance, with what it counts."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """A list of names that may be long, behind one line that says what they are."""

    summary: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One heading of a report; `small` puts its charts beside each other.

    `legend` says how to read the charts. `cards` come before these, `lists` after the tables;
    `code` is a command, to be copied as it stands. What is `general` is said once where
    several reports say the same.
    """

    title: str
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    numbers: tuple[Numbers, ...] = ()
    small: bool = False
    cards: tuple[Card, ...] = ()
    lists: tuple[Names, ...] = ()
    code: str = ""
    legend: str = ""
    general: bool = False
