"""Tables on the terminal: plain enough for a log, aligned, never cut in a pipe."""

import os
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 200


class _Quiet(Console):
    """A console whose reader may go away (`| head`): the command still ends as it should."""

    def on_broken_pipe(self) -> None:
        """Write the rest to nowhere; rich itself would exit with 1, which means drift."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console(*, stderr: bool = False) -> Console:
    """Return a console; outside a terminal it is wide, so that nothing is cut."""
    probe = _Quiet(stderr=stderr)
    if probe.is_terminal or "COLUMNS" in os.environ:
        return probe
    return _Quiet(stderr=stderr, width=_WIDE)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[str] = (),
    title: str = "",
) -> Table:
    """Return a table; the columns in `right` are aligned to the right."""
    made = Table(box=SIMPLE, title=title or None, title_justify="left", pad_edge=False)
    numbers = set(right)
    for name in columns:
        made.add_column(
            name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=False
        )
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def plain(text: str) -> str:
    r"""Return text that cannot steer a terminal: control characters as their escapes.

    >>> print(plain("a" + chr(27) + "[2J"))
    a\x1b[2J
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def number(value: float | None) -> str:
    """Return a number at four significant digits; a dash for none."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return "-"
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def counted(number: int, noun: str) -> str:
    """Return "1 batch" or "2,000 batches"."""
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{ending}"
