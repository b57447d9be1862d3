"""The one door to the runs: what a folder holds, opened and compared when asked for.

What is made of runs is remembered for as long as they stay as they are on disk, and within
bounds: the sketches that runs keep, and the values made of them. Threads may share it all.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dashboard.folders import Entry, Folders, Stamp, opened, written
from dashboard.memo import Memo
from ffn_probe.attribution import Attribution
from ffn_probe.compare import Drift, compare
from ffn_probe.errors import UnknownName
from ffn_probe.measures import Measure, measure_all
from ffn_probe.runs import Run
from ffn_probe.runs.measured import inputs

T = TypeVar("T")

RUNS = 768 << 20
"""Bytes of sketches that all runs together keep; twice as many while they are being used."""
VALUES = 256 << 20
"""Bytes of remembered values: comparisons, maps, tables."""
_OPEN = 32  # runs that are remembered
_FRESH = 1.0  # seconds in which a run that was found need not be looked for again
_USED = 60.0  # seconds for which a run counts as being used


@dataclass(frozen=True, slots=True)
class Library:
    """The runs below a folder, by an id: the path from the folder.

    An id from outside is only ever looked up among those found, never made into a path.
    """

    root: Path
    _shelf: "_Shelf" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shelf", _Shelf(self.root))

    def entries(self) -> tuple[Entry, ...]:
        """Return every run, nested ones too, by id; what cannot be read with the reason."""
        return self._shelf.entries()

    def run(self, id_: str) -> Run:
        """Return a run with what was read of it so far.

        Raises:
            UnknownName: the folder has no such run.
            RunError: it cannot be read.
        """
        return self._shelf.run(self._shelf.path(id_))

    def drift(self, a: str, b: str) -> Drift:
        """Return the comparison of two runs.

        Raises:
            UnknownName: the folder has no such run.
            FfnProbeError: a run cannot be read, or the two cannot be compared.
        """
        return self.once("library drift", (a, b), lambda: compare(self.run(a), self.run(b)))

    def attribution(self, id_: str) -> Attribution:
        """Return what made the candidate of a paired run drift.

        Raises:
            UnknownName: the folder has no such run.
            FfnProbeError: the run cannot be read, or is of another kind.
        """
        return self.once("library attribution", (id_,), lambda: self.run(id_).explain())

    def once(self, name: str, ids: Sequence[str], make: Callable[[], T]) -> T:
        """Return what `make` returns, remembered while these runs stay as they are on disk.

        Args:
            name: what is remembered, with every choice that it depends on.
            ids: the runs that it is made of.
            make: called when it is not known yet, by one thread; what it raises is raised
                and not kept.

        Raises:
            UnknownName: the folder has no such run.
        """
        paths = [self._shelf.path(id_) for id_ in ids]
        key = (name, *((path, written(path)) for path in paths))
        found = self._shelf.values.get(key, make)
        self._shelf.trim()
        return found

    def measures(self, id_: str, name: str) -> list[tuple[Measure, float]]:
        """Return the measures of the site `name` of a run.

        Raises:
            UnknownName: there is no such run or site.
            RunError: the run cannot be read.
        """
        run = self.run(id_)
        site = run.site(name)
        blocks = {block.name: block for block in run.blocks}
        beside = [
            other
            for other in run.sites
            if other.block == site.block and other.expert in {-1, site.expert}
        ]
        given = dict(inputs(beside, run.summary, blocks.get(site.block)))
        return list(measure_all(given[site]))


class _Shelf:
    """What a Library remembers."""

    def __init__(self, root: Path) -> None:
        self.values = Memo(VALUES)
        self._folders = Folders(root)
        self._runs: OrderedDict[Path, tuple[Stamp, Run]] = OrderedDict()
        self._asked: dict[Path, float] = {}
        self._paths: dict[str, Path] = {}
        self._found = -_FRESH
        self._lock = threading.Lock()

    def entries(self) -> tuple[Entry, ...]:
        found = self._folders.entries()
        self._paths = {entry.id: entry.path for entry in found}
        self._found = time.monotonic()
        return found

    def path(self, id_: str) -> Path:
        """Return the folder of a run.

        Raises:
            UnknownName: there is none of that id.
        """
        if time.monotonic() - self._found > _FRESH or id_ not in self._paths:
            self.entries()
        known = self._paths
        if id_ not in known:
            raise UnknownName.of("run", id_, known)
        return known[id_]

    def run(self, path: Path) -> Run:
        stamp = written(path)
        with self._lock:
            old, run = self._runs.get(path, ((), None))
            if run is None or old != stamp:
                run = opened(path)
            self._runs[path] = stamp, run
            self._runs.move_to_end(path)
            self._asked[path] = time.monotonic()
            while len(self._runs) > _OPEN:
                del self._asked[self._runs.popitem(last=False)[0]]
        self.trim()
        return run

    def trim(self) -> None:
        """Let the runs that were not asked for longest forget what they read.

        Those that are being used are spared: they would read the same again and again.
        """
        now = time.monotonic()
        with self._lock:
            runs = [(now - self._asked[path], run) for path, (_, run) in self._runs.items()]
        size = sum(run.nbytes for _, run in runs)
        for age, run in runs[:-1]:
            if size > (RUNS if age > _USED else 2 * RUNS):
                size -= run.nbytes
                run.forget()


def is_paired(run: Run) -> bool:
    """Return whether a run is of two models on the same inputs."""
    return run.manifest.kind == "paired"


__all__ = ["Entry", "Library", "is_paired"]
