"""Ctrl-C and kill: stop between two batches, so that nothing half-seen is kept."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal asked to stop; `code` is the exit code of a shell, 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def stopping(say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Yield a function to call between two batches: it raises Stopped after a signal.

    A signal before its first call, and every second one, raises at once. A signal that was
    ignored before (nohup) stays ignored. Outside the main thread nothing is changed.
    """
    asked: list[int] = []
    started = False

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if asked or not started:
            raise Stopped(number)
        asked.append(number)
        with suppress(RuntimeError):  # it came in the middle of another write to the terminal
            say("stopping after this batch; once more stops at once")

    def check() -> None:
        nonlocal started
        started = True
        if asked:
            raise Stopped(asked[0])

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
