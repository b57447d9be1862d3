"""Memo: derived values by key, made once, bounded by their bytes. Threads may share it."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from ffn_probe.runs import Run
from ffn_probe.runs.progress import tell

T = TypeVar("T")

_LOOKS = 4000  # objects of a value that are weighed; the rest is taken to be like them


@dataclass(slots=True, eq=False)
class _Made:
    """A value in the making or made; who comes later waits at the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    known: bool = False
    value: Any = None
    size: int = 0


class Memo:
    """Values by key. Those that were not asked for longest go when the bytes are too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made: OrderedDict[Hashable, _Made] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made now if it is not known; one thread makes it.

        Raises:
            Exception: what `make` raises; it is not kept.
        """
        with self._lock:
            made = self._made.setdefault(key, _Made())
            self._made.move_to_end(key)
        if not made.known and made.lock.locked():
            tell("waiting for what another page is making")
        with made.lock:
            if not made.known:
                try:
                    made.value = make()
                except BaseException:
                    with self._lock:
                        self._made.pop(key, None)
                    raise
                made.size, made.known = weight(made.value), True
                self._trim(made)
            found: T = made.value
            return found

    def __len__(self) -> int:
        return len(self._made)

    @property
    def nbytes(self) -> int:
        """Bytes of all values, about."""
        with self._lock:
            return sum(made.size for made in self._made.values())

    def _trim(self, newest: _Made) -> None:
        with self._lock:
            size = sum(made.size for made in self._made.values())
            for key, made in list(self._made.items()):
                if size <= self._limit:
                    return
                if made.known and made is not newest:
                    size -= made.size
                    del self._made[key]


def weight(value: object) -> int:
    """Return how many bytes a value takes, about. A Run counts nothing: it is counted apart.

    >>> weight(np.zeros(1000)) // 1000
    8
    """
    total, seen, waiting = 0, set[int](), [value]
    looked = 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, Run | type):
            continue
        seen.add(id(one))
        looked += 1
        total += _own(one)
        if looked >= _LOOKS:
            return total * (1 + len(waiting) // _LOOKS)
        waiting += _parts(one)
    return total


def _own(value: object) -> int:
    if isinstance(value, np.ndarray):
        return int(value.nbytes) + 100
    if isinstance(value, pd.DataFrame):
        return int(value.memory_usage(deep=False).sum()) * 2 + 1000
    return sys.getsizeof(value, 64)


def _parts(value: object) -> list[object]:
    if isinstance(value, str | bytes | int | float | np.ndarray | pd.DataFrame | None):
        return []
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, Sequence | Set):
        return list(value)
    if is_dataclass(value):
        return [getattr(value, f.name, None) for f in fields(value)]
    return list(getattr(value, "__dict__", {}).values())
