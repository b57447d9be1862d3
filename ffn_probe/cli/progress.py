"""How far a recording is, on stderr: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ffn_probe.cli.tables import console

LINE_SECONDS = 10.0
"""Time between two lines in a log."""


@contextmanager
def progress(name: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show the progress of `total` batches (None: not known); call the value after each."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield _lines(name, total)
        return
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        console=screen, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(name, total=total, rate="")

        def advance() -> None:
            bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, rate=_rate(speed) if speed else "")

        yield advance


def _lines(name: str, total: int | None) -> Callable[[], None]:
    screen = console(stderr=True)
    start = last = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last < LINE_SECONDS:
            return
        last = now
        speed = done / (now - start)
        text = f"{name}: {done}{f'/{total}' if total else ''} batches, {_rate(speed)}"
        if total:
            text += f", {_clock((total - done) / speed)} left"
        screen.print(text, highlight=False, markup=False)

    return advance


def _rate(speed: float) -> str:
    return f"{speed:.1f} batches/s" if speed >= 1 else f"{1 / speed:.1f} s/batch"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
