"""Write a run: part by part, each complete or absent.

A part is written under a temporary name, synced and renamed, so that a killed process
loses at most the window it was writing. One recorder a folder: a lock file says who.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ffn_probe.errors import RunError, UnknownName
from ffn_probe.runs.atomic import complete
from ffn_probe.runs.compact import compact, sweep
from ffn_probe.runs.manifest import FILE, Manifest
from ffn_probe.runs.parts import PartName
from ffn_probe.runs.schema import TABLES

_LOCK = ".lock"
_GROUP = 8 << 20  # bytes of a row group, unpacked: what reading a site costs at least


class RunWriter:
    """The one writer of a run folder. Use `create`, then `close` (or a with statement)."""

    def __init__(self, folder: Path, manifest: Manifest, *, made: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.manifest = manifest
        self._made = tuple(made)
        self._closed = False
        self._stuck: dict[str, str] = {}  # tables whose old windows cannot be merged, and why

    @staticmethod
    def check_free(path: str | os.PathLike[str]) -> None:
        """Raise RunError when something is at `path` already."""
        if os.path.lexists(path):  # a link that leads nowhere is something, too
            raise RunError(_taken(Path(path)))

    @classmethod
    def create(cls, path: str | os.PathLike[str], manifest: Manifest) -> "RunWriter":
        """Make the folder of a new run and write its manifest.

        Raises:
            RunError: the path exists, is being recorded to, or cannot be written.
        """
        folder = Path(path)
        manifest.to_json()  # what cannot be stored is refused before anything is made
        cls.check_free(folder)
        made = _missing_parents(folder)
        _make(folder, made)
        writer = cls(folder, manifest, made=made)
        try:
            with (folder / _LOCK).open("x") as file:
                json.dump({"pid": os.getpid()}, file)
            writer.update()
        except OSError as error:
            writer.discard()
            raise RunError(f"cannot write a run at {folder}: {_reason(error)}") from error
        except BaseException:
            writer.discard()
            raise
        return writer

    def write_window(
        self, window: int, rows: Mapping[str, Sequence[Mapping[str, Any]]], *, rank: str = "0"
    ) -> None:
        """Write the rows of one window, one part a table: all parts, or none.

        Args:
            window: the ordinal of the window.
            rows: table name -> rows, each the key columns and a sketch's `to_row`.
            rank: the writer's coordinates, part of the file names.

        Raises:
            UnknownName: there is no such table.
            RunError: the window was written before, or the disk is full or not writable;
                what was written before stays, of this window nothing does.
        """
        for table in rows:
            if table not in TABLES:
                raise UnknownName.of("table", table, TABLES)
        written: list[Path] = []
        try:
            for table, lines in rows.items():
                if lines:
                    name = f"part-{window:08d}-{rank}.parquet"
                    written.append(self._write(table, lines, name))
        except BaseException:  # a full disk, or an interrupt: no half of a window stays
            for path in written:
                _drop(path)
            raise

    def compact(self, *, rank: str = "0", last: bool = False) -> tuple[str, ...]:
        """Merge the parts of old windows where there are many; return what could not be.

        The sums stay what they are (`runs.compact`); windows that the manifest does not count
        are left alone. A table that could not be merged once is not tried again.

        Args:
            rank: whose parts; a writer merges its own.
            last: nothing more will be written.
        """
        windows, stuck = self.manifest.windows, self._stuck
        stuck |= compact(self.folder, windows=windows, rank=rank, last=last, skip=stuck)
        return tuple(stuck.values())

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest and replace the file on disk."""
        self.manifest = self.manifest.with_(**changes)
        _replace(self.folder / FILE, self.manifest.to_json().encode())

    def close(self, **changes: Any) -> None:
        """Mark the run as closed and give the lock back; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.update(**({"state": "closed"} | changes))
            sweep(self.folder)
        finally:
            self._release()

    def discard(self) -> None:
        """Remove a run that holds nothing, with the parents made for it."""
        self._closed = True
        shutil.rmtree(self.folder, ignore_errors=True)
        _remove_empty(self._made)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; after an error give the lock back only: the run stays marked as open."""
        if error is None:
            self.close()
        elif not self._closed:
            self._closed = True
            self._release()

    def _release(self) -> None:
        with suppress(OSError):
            (self.folder / _LOCK).unlink(missing_ok=True)

    def _write(self, table: str, rows: Iterable[Mapping[str, Any]], name: str) -> Path:
        schema = TABLES[table]
        lines = list(rows)
        columns = {f.name: pa.array([line[f.name] for line in lines], f.type) for f in schema}
        data = pa.Table.from_pydict(columns, schema=schema)
        folder = self.folder / table
        if (folder / name).exists() or _covered(folder / name):
            raise RunError(f"{folder / name} was written before; a window is written once")
        try:
            folder.mkdir(exist_ok=True)
            with complete(folder / name) as file:
                write_part(data, file)
        except OSError as error:
            raise RunError(
                f"cannot write {folder / name}: {_reason(error)}. What was written before is "
                "complete."
            ) from error
        return folder / name


def write_part(data: pa.Table, file: Any) -> None:
    """Write the rows of a part, in groups small enough to read the rows of one site."""
    pq.write_table(data, file, compression="zstd", row_group_size=group_rows(data))


def group_rows(data: pa.Table) -> int:
    """Return how many rows like these make a row group."""
    return max(1, int(_GROUP * data.num_rows / max(data.nbytes, 1)))


def _covered(path: Path) -> bool:
    """Return whether a merged part holds the window of this one."""
    name = PartName.of(path)
    merged = map(PartName.of, path.parent.glob("part-*..*.parquet"))
    return name is not None and any(other.covers(name) for other in merged if other)


def lock_owner(folder: Path) -> int | None:
    """Return the process that records into the folder, None when nobody does."""
    try:
        owner = int(json.loads((folder / _LOCK).read_text())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        os.kill(owner, 0)
    except PermissionError:  # it lives, and belongs to somebody else
        return owner
    except (OSError, OverflowError):
        return None
    return owner if owner > 0 else None


def _taken(folder: Path) -> str:
    owner = lock_owner(folder) if folder.is_dir() else None
    if owner is not None:
        return f"{folder} is being recorded by process {owner}; choose another path"
    what = "a run" if (folder / FILE).exists() else "something else"
    return f"{folder} exists already ({what}); choose another path or remove it"


def _make(folder: Path, made: Iterable[Path]) -> None:
    """Make the folder of a run, which must not exist; `made` are its parents to be made."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        _remove_empty(made)
        raise RunError(f"cannot write a run at {folder}: a parent of it is a file") from error
    except (OSError, ValueError) as error:
        _remove_empty(made)
        raise RunError(f"cannot write a run at {folder}: {_reason(error)}") from error
    try:
        folder.mkdir()
    except FileExistsError as error:  # another recorder was faster: the folder is its own
        raise RunError(_taken(folder)) from error
    except (OSError, ValueError) as error:
        _remove_empty(made)
        raise RunError(f"cannot write a run at {folder}: {_reason(error)}") from error


def _missing_parents(folder: Path) -> list[Path]:
    """Return the folders between `folder` and what exists, deepest first."""
    return [parent for parent in folder.parents if not os.path.lexists(parent)]


def _remove_empty(made: Iterable[Path]) -> None:
    """Remove the folders that were made, deepest first, where nobody put anything in."""
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def _drop(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _replace(path: Path, data: bytes) -> None:
    try:
        with complete(path) as file:
            file.write(data)
    except OSError as error:
        raise RunError(f"cannot write {path}: {_reason(error)}") from error
