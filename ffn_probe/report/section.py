"""Sections of a report as values: text, charts and the numbers beside them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Numbers:
    """A table of text; the columns in `right` hold numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int]
    caption: str = ""
    wrap: bool = False

    @classmethod
    def of(
        cls,
        head: str,
        rows: Iterable[Sequence[str]],
        *,
        right: Iterable[str] = (),
        caption: str = "",
        wrap: bool = False,
    ) -> "Numbers":
        """Return a table whose column names stand in `head` with commas between them."""
        names = tuple(name.strip() for name in head.split(","))
        numbers = frozenset(names.index(name) for name in right)
        return cls(names, tuple(tuple(row) for row in rows), numbers, caption, wrap)


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture as SVG, what it shows, and its numbers."""

    svg: str
    caption: str
    numbers: tuple[Numbers, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One heading of a report; `small` puts its charts beside each other."""

    title: str
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    numbers: tuple[Numbers, ...] = ()
    small: bool = False
