"""How far a long reading is, told to whoever listens; nobody does by default.

with told_to(print):
    compare(a, b)
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """What is being done, and how many of its parts are; `total` is 0 where nobody knows."""

    what: str
    done: int = 0
    total: int = 0

    @property
    def share(self) -> float | None:
        """The part that is done, 0..1; None where nobody knows."""
        return min(self.done / self.total, 1.0) if self.total > 0 else None

    def __str__(self) -> str:
        return f"{self.what}: {self.done:,} of {self.total:,}" if self.total else self.what


_LISTENER: ContextVar[Callable[[Step], None] | None] = ContextVar("listener", default=None)


@contextmanager
def told_to(listener: Callable[[Step], None]) -> Iterator[None]:
    """Tell `listener` of every step that is made inside of the `with`, in this thread."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(what: str, done: int = 0, total: int = 0) -> None:
    """Tell whoever listens what is being done."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(Step(what, done, total))


def told(what: str, items: Iterable[T], *, total: int | None = None) -> Iterator[T]:
    """Yield the items, telling before each how many are done; of one alone, only that it is."""
    count = total if total is not None else len(items) if isinstance(items, Sized) else 0
    count = count if count > 1 else 0
    for done, item in enumerate(items):
        tell(what, done if count else 0, count)
        yield item
