"""Write a run: part by part, each complete or absent.

A part is written under a temporary name, synced and renamed, so that a killed process
loses at most the window it was writing. One recorder a folder: a lock file says who.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ffn_probe.errors import RunError
from ffn_probe.runs.manifest import FILE, Manifest
from ffn_probe.runs.schema import TABLES

_LOCK = ".lock"


class RunWriter:
    """The one writer of a run folder. Use `create`, then `close` (or a with statement)."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._closed = False

    @staticmethod
    def check_free(path: str | os.PathLike[str]) -> None:
        """Raise RunError when something is at `path` already."""
        if Path(path).exists():
            raise RunError(_taken(Path(path)))

    @classmethod
    def create(cls, path: str | os.PathLike[str], manifest: Manifest) -> "RunWriter":
        """Make the folder of a new run and write its manifest.

        Raises:
            RunError: the path exists, is being recorded to, or cannot be written.
        """
        folder = Path(path)
        cls.check_free(folder)
        made = _missing_parents(folder)
        try:
            folder.mkdir(parents=True)
            descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(descriptor, json.dumps({"pid": os.getpid()}).encode())
            os.close(descriptor)
            writer = cls(folder, manifest)
            writer.update()
        except OSError as error:
            _remove(folder, made)
            raise RunError(
                f"cannot write a run at {folder}: {error.strerror or error}"
            ) from error
        return writer

    def write_window(
        self, window: int, rows: Mapping[str, Sequence[Mapping[str, Any]]], *, rank: str = "0"
    ) -> None:
        """Write the rows of one window, one part a table.

        Args:
            window: the ordinal of the window.
            rows: table name -> rows, each the key columns and a sketch's `to_row`.
            rank: the writer's coordinates, part of the file names.

        Raises:
            RunError: the disk is full or not writable; what was written before stays.
        """
        for table, lines in rows.items():
            if lines:
                self._write(table, lines, f"part-{window:08d}-{rank}.parquet")

    def write_metrics(
        self, window: int, rows: Sequence[Mapping[str, Any]], *, rank: str = "0"
    ) -> None:
        """Write metric rows (window, step, name, value, dp) of one window."""
        if rows:
            self._write("metrics", rows, f"part-{window:08d}-{rank}.parquet")

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest and replace the file on disk."""
        self.manifest = self.manifest.with_(**changes)
        _replace(self.folder / FILE, self.manifest.to_json().encode())

    def close(self, **changes: Any) -> None:
        """Mark the run as closed and give the lock back; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.update(**({"state": "closed"} | changes))
        (self.folder / _LOCK).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove a run that holds nothing."""
        self._closed = True
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, table: str, rows: Iterable[Mapping[str, Any]], name: str) -> None:
        schema = TABLES[table]
        lines = list(rows)
        columns = {f.name: pa.array([line[f.name] for line in lines], f.type) for f in schema}
        data = pa.Table.from_pydict(columns, schema=schema)
        folder = self.folder / table
        temporary = folder / f".{name}.tmp"
        try:
            folder.mkdir(exist_ok=True)
            with temporary.open("wb") as file:
                pq.write_table(data, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / name)
            _sync(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RunError(
                f"cannot write {folder / name}: {error.strerror or error}. What was written "
                "before is complete."
            ) from error


def lock_owner(folder: Path) -> int | None:
    """Return the process that records into the folder, None when nobody does."""
    try:
        owner = int(json.loads((folder / _LOCK).read_text())["pid"])
        os.kill(owner, 0)
    except PermissionError:
        return owner
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return owner


def _taken(folder: Path) -> str:
    owner = lock_owner(folder) if folder.is_dir() else None
    if owner is not None:
        return f"{folder} is being recorded by process {owner}; choose another path"
    what = "a run" if (folder / FILE).exists() else "something else"
    return f"{folder} exists already ({what}); choose another path or remove it"


def _missing_parents(folder: Path) -> list[Path]:
    return [parent for parent in (folder, *folder.parents) if not parent.exists()]


def _remove(folder: Path, made: Iterable[Path]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for parent in made:
        if parent.exists():
            parent.rmdir()


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
