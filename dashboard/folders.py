"""The runs below a folder: found again each time, read again only when they changed."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ffn_probe.errors import FfnProbeError, RunError
from ffn_probe.runs import Run
from ffn_probe.runs.progress import tell

MANIFEST = "run.json"
_DEEPEST = 8  # folders below the root
_OFTEN = 100  # runs between two words on the progress

Stamp = tuple[int, ...]


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


class Folders:
    """The runs below a root, by id: the path from the root. Threads may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, tuple[Stamp, Entry]] = {}
        self._lock = threading.Lock()

    def entries(self) -> tuple[Entry, ...]:
        """Return every run, nested ones too, by id; what cannot be read with the reason."""
        with self._lock:
            found: dict[Path, tuple[Stamp, Entry]] = {}
            for number, path in enumerate(_folders(self.root, self._known)):
                if number % _OFTEN == 0:
                    tell("looking for runs", number)
                stamp, (old, entry) = listed(path), self._known.get(path, ((), None))
                kept = entry if entry is not None and old == stamp else self._entry(path)
                found[path] = stamp, kept
            self._known = found
        return tuple(sorted((entry for _, entry in found.values()), key=_id))

    def _entry(self, path: Path) -> Entry:
        name = path.name if path == self.root else path.relative_to(self.root).as_posix()
        try:
            name.encode()
            return Entry(name, path, opened(path))
        except UnicodeEncodeError:
            return Entry(ascii(name), path, None, "its name is not text; rename the folder")
        except FfnProbeError as error:
            return Entry(name, path, None, str(error))


def opened(path: Path) -> Run:
    """Return the run at `path`, whose manifest lies in it.

    Raises:
        RunError: there is no run, or its manifest cannot be read, or leads elsewhere.
    """
    manifest = path / MANIFEST
    try:
        inside = not manifest.is_symlink() or _leads_into(manifest, path)
    except OSError as error:
        raise RunError(f"cannot look into {path}: {error.strerror or error}") from error
    if not inside:
        raise RunError(f"{manifest} leads out of the run folder; a run holds plain files only")
    return Run.open(path)


def _leads_into(link: Path, folder: Path) -> bool:
    return link.resolve().is_relative_to(folder.resolve())


def listed(path: Path) -> Stamp:
    """Return what changes when the manifest does; () where there is none."""
    try:
        found = (path / MANIFEST).stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def written(path: Path) -> Stamp:
    """Return what changes when the manifest does or a part comes or goes."""
    stamp = list(listed(path))
    try:
        with os.scandir(path) as found:
            tables = sorted((e.name, e) for e in found if e.is_dir(follow_symlinks=False))
        stamp += [entry.stat(follow_symlinks=False).st_mtime_ns for _, entry in tables]
    except OSError:
        stamp.append(-1)
    return tuple(stamp)


def _folders(root: Path, known: dict[Path, tuple[Stamp, Entry]]) -> Iterator[Path]:
    """Yield what is or was a run, without following links out of the folder.

    A folder that was a run and still has its manifest is one; the others are looked into.
    """
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        if folder in known and listed(folder):
            yield folder
            continue
        try:
            with os.scandir(folder) as found:
                below = [entry for entry in found if not entry.name.startswith(".")]
                inside = [e.name for e in below if e.is_dir(follow_symlinks=False)]
        except OSError:
            yield folder
            continue
        if MANIFEST in {entry.name for entry in below} or "moments" in inside:
            yield folder
        elif depth < _DEEPEST:
            waiting += [(folder / name, depth + 1) for name in inside]


def _id(entry: Entry) -> str:
    return entry.id
