"""The one door to the runs: what a folder holds, opened and compared when asked for."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from plotly.graph_objects import Figure

from ffn_probe.attribution import Attribution
from ffn_probe.compare import Drift, compare
from ffn_probe.errors import FfnProbeError, UnknownName
from ffn_probe.figures.heatmap import measure_heatmap
from ffn_probe.measures import Measure, MeasureInput, measure_all
from ffn_probe.runs import Run

T = TypeVar("T")

_MANIFEST = "run.json"
_DEEPEST = 8  # folders below the root
_MOST = 256  # remembered values
_KEPT: dict[tuple[Any, ...], Any] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """A run of the folder; `run` is None where it cannot be read, `problem` says why."""

    id: str
    path: Path
    run: Run | None
    problem: str = ""

    @property
    def state(self) -> str:
        """Closed, open (a recorder is at work, or was killed) or broken."""
        return "broken" if self.run is None else self.run.manifest.state


@dataclass(frozen=True, slots=True)
class Library:
    """The runs below a folder, by an id: the path from the folder.

    An id from outside is only ever looked up among those found, never made into a path.
    """

    root: Path

    def entries(self) -> tuple[Entry, ...]:
        """Return every run, nested ones too, by id; what cannot be read with the reason."""
        return tuple(sorted((self._entry(p) for p in _folders(self.root)), key=lambda e: e.id))

    def _entry(self, path: Path) -> Entry:
        name = path.name if path == self.root else path.relative_to(self.root).as_posix()
        try:
            name.encode()
            return Entry(name, path, _listed(path, _stamp(path)))
        except UnicodeEncodeError:
            return Entry(ascii(name), path, None, "its name is not text; rename the folder")
        except FfnProbeError as error:
            return Entry(name, path, None, str(error))

    def run(self, id_: str) -> Run:
        """Return a run with what was read of it so far.

        Raises:
            UnknownName: the folder has no such run.
            RunError: it cannot be read.
        """
        path = self._path(id_)
        return _opened(path, _stamp(path))

    def drift(self, a: str, b: str) -> Drift:
        """Return the comparison of two runs.

        Raises:
            UnknownName: the folder has no such run.
            FfnProbeError: a run cannot be read, or the two cannot be compared.
        """
        one, other = self._path(a), self._path(b)
        return _compared(one, _stamp(one), other, _stamp(other))

    def attribution(self, id_: str) -> Attribution:
        """Return what made the candidate of a paired run drift.

        Raises:
            UnknownName: the folder has no such run.
            FfnProbeError: the run cannot be read, or is of another kind.
        """
        path = self._path(id_)
        return _explained(path, _stamp(path))

    def once(self, name: str, ids: Sequence[str], make: Callable[[], T]) -> T:
        """Return what `make` returns, remembered while these runs stay as they are on disk.

        Args:
            name: what is remembered, with every choice that it depends on.
            ids: the runs that it is made of.
            make: called when it is not known yet; what it raises is raised and not kept.

        Raises:
            UnknownName: the folder has no such run.
        """
        paths = [self._path(id_) for id_ in ids]
        key = (name, *((path, _stamp(path)) for path in paths))
        if key not in _KEPT:
            while len(_KEPT) >= _MOST:
                _KEPT.pop(next(iter(_KEPT)))
            _KEPT[key] = make()
        return cast("T", _KEPT[key])

    def measured(self, id_: str, measure: str) -> Figure:
        """Return the heatmap of a measure.

        Raises:
            UnknownName: there is no such run or measure.
            RunError: the run cannot be read.
        """
        path = self._path(id_)
        return _measured(path, _stamp(path), measure)

    def measures(self, id_: str, name: str) -> list[tuple[Measure, float]]:
        """Return the measures of the site `name` of a run.

        Raises:
            UnknownName: there is no such run or site.
            RunError: the run cannot be read.
        """
        run = self.run(id_)
        site = run.site(name)
        beside = {
            other.role: run.summary(other)
            for other in run.sites
            if other.block == site.block and other.expert in {-1, site.expert}
        }
        block = {block.name: block for block in run.blocks}.get(site.block)
        return list(measure_all(MeasureInput(beside[site.role], site.role, block, beside)))

    def _path(self, id_: str) -> Path:
        known = {entry.id: entry.path for entry in self.entries()}
        if id_ not in known:
            raise UnknownName.of("run", id_, known)
        return known[id_]


def is_paired(run: Run) -> bool:
    """Return whether a run is of two models on the same inputs."""
    return run.manifest.kind == "paired"


def _folders(root: Path) -> Iterator[Path]:
    """Yield what is or was a run, without following links out of the folder."""
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            with os.scandir(folder) as found:
                below = [entry for entry in found if not entry.name.startswith(".")]
                inside = [e.name for e in below if e.is_dir(follow_symlinks=False)]
        except OSError:
            yield folder
            continue
        names = {entry.name for entry in below}
        if _MANIFEST in names or "moments" in inside:
            yield folder
        elif depth < _DEEPEST:
            waiting += [(folder / name, depth + 1) for name in inside]


def _stamp(path: Path) -> int:
    """Return when the manifest changed last, in ns; 0 where that cannot be told."""
    try:
        return (path / _MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=4096)
def _listed(path: Path, _stamp: int) -> Run:
    return Run.open(path)


@lru_cache(maxsize=8)
def _opened(path: Path, _stamp: int) -> Run:
    return Run.open(path)


@lru_cache(maxsize=8)
def _compared(a: Path, stamp_a: int, b: Path, stamp_b: int) -> Drift:
    return compare(_opened(a, stamp_a), _opened(b, stamp_b))


@lru_cache(maxsize=16)
def _explained(path: Path, stamp: int) -> Attribution:
    return _opened(path, stamp).explain()


@lru_cache(maxsize=64)
def _measured(path: Path, stamp: int, measure: str) -> Figure:
    return measure_heatmap(_opened(path, stamp), measure)
