"""How far a job of several phases is, on stderr: a bar a phase, or lines in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from ffn_probe.cli.progress import LINE_SECONDS
from ffn_probe.cli.tables import console

Say = Callable[[str, int, int | None], None]
"""Is told the phase, how much of it is done, and of how much in all (None: not known)."""


@contextmanager
def phases(name: str, total: int | None) -> Iterator[Say]:
    """Show how far each phase is; `total` is that of the first one when it does not know."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield _lines(name, total)
        return
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
        TextColumn("{task.fields[count]}"), TimeElapsedColumn(), console=screen, transient=True,
    )  # fmt: skip
    tasks: dict[str, tuple[TaskID, int | None]] = {}
    with bar:
        waiting = bar.add_task(f"{name}: starting", total=None, count="")

        def say(phase: str, done: int, of: int | None) -> None:
            bar.update(waiting, visible=False)
            if phase not in tasks:
                whole = total if of is None and not tasks else of
                tasks[phase] = bar.add_task(f"{name}: {phase}", total=whole, count=""), whole
            task, whole = tasks[phase]
            bar.update(task, completed=done, count=_count(done, whole), refresh=True)

        yield say


def _lines(name: str, total: int | None) -> Say:
    screen = console(stderr=True)
    start = last = time.monotonic()
    first: list[str] = []

    def say(phase: str, done: int, of: int | None) -> None:
        nonlocal last
        first.append(phase) if not first else None
        now = time.monotonic()
        if now - last < LINE_SECONDS:
            return
        last = now
        whole = total if of is None and phase == first[0] else of
        count = f" {_count(done, whole)}" if done else ""
        text = f"{name}: {phase}{count} after {now - start:.0f} s"
        screen.print(text, highlight=False, markup=False)

    return say


def _count(done: int, of: int | None) -> str:
    return f"{done}/{of}" if of else str(done)
