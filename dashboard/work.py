"""Long work: a page that takes its time is made beside the answer, and says how far it is.

    found = work.get(("/compare", query), lambda: compared(library, query))

is the page when it is made within the `wait`, else a Progress: ask again with the same key.
"""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ffn_probe.runs.progress import Step, told_to

T = TypeVar("T")

WORKERS = 2
PATIENCE = 15.0
"""Seconds after which nobody waits any more for what nobody asked for again."""
KEPT = 8
"""Results that wait for being asked for, or for being asked for again at once."""
AGAIN = 1.0
"""Seconds for which a result is handed out again: a browser may have let go of the first."""
_STARTING = Step("starting")
_QUEUED = Step("waiting for other pages")


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done for a page, and for how many seconds it has been in the making."""

    step: Step
    seconds: float

    @property
    def text(self) -> str:
        """The step in words: "reading channels of base: 240 of 560"."""
        return str(self.step)

    @property
    def share(self) -> float | None:
        """The part of the step that is done, 0..1; None where nobody knows."""
        return self.step.share


@dataclass(slots=True, eq=False)
class _Job:
    key: Hashable
    make: Callable[[], Any]
    began: float
    asked: float
    step: Step = _QUEUED
    result: Any = None
    error: BaseException | None = None
    taken: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        self.step = _STARTING
        try:
            with told_to(self._hear):
                self.result = self.make()
        except BaseException as error:
            self.error = error
        self.done.set()

    def _hear(self, step: Step) -> None:
        self.step = step


class Work(Generic[T]):
    """A few threads that make pages. One job a key, whoever asks; the last asked for first.

    What is in the making is finished. What is waiting and was not asked for again in
    PATIENCE seconds, as a page that was left, is dropped.
    """

    def __init__(
        self, workers: int = WORKERS, *, patience: float = PATIENCE, again: float = AGAIN
    ) -> None:
        self._workers, self._patience, self._again = workers, patience, again
        self._jobs: dict[Hashable, _Job] = {}  # waiting, in the making, or done and not taken
        self._waiting: list[_Job] = []
        self._threads = 0
        self._changed = threading.Condition()

    def get(self, key: Hashable, make: Callable[[], T], *, wait: float = 0.4) -> T | Progress:
        """Return what `make` returns, or how far it is after `wait` seconds.

        Raises:
            BaseException: what `make` raised, once; the next call makes it anew.
        """
        job = self._job(key, make)
        if not job.done.wait(wait):
            return Progress(job.step, time.monotonic() - job.began)
        with self._changed:
            job.taken = job.taken or time.monotonic()
            if job.error is not None and self._jobs.get(key) is job:
                del self._jobs[key]
        if job.error is not None:
            raise job.error
        found: T = job.result
        return found

    def _job(self, key: Hashable, make: Callable[[], T]) -> _Job:
        now = time.monotonic()
        with self._changed:
            job = self._jobs.get(key)
            if job is None or (job.taken and now - job.taken > self._again):
                job = self._jobs[key] = _Job(key, make, now, now)
                self._waiting.append(job)
                self._grow()
            job.asked = now
            self._forget(now)
            self._changed.notify()
        return job

    def _grow(self) -> None:
        if self._threads < self._workers:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True, name="page").start()

    def _forget(self, now: float) -> None:
        """Drop what nobody waits for, what was taken, and of what is done all but KEPT."""
        for job in [j for j in self._waiting if now - j.asked > self._patience]:
            self._waiting.remove(job)
            del self._jobs[job.key]
        for job in [j for j in self._jobs.values() if j.taken]:
            if now - job.taken > self._again:
                del self._jobs[job.key]
        done = sorted((j for j in self._jobs.values() if j.done.is_set()), key=_asked)
        for job in done[:-KEPT]:
            del self._jobs[job.key]

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = max(self._waiting, key=_asked)
                self._waiting.remove(job)
            job.run()
            del job  # a result must not live for as long as nobody asks for another page


def _asked(job: _Job) -> float:
    return job.asked
