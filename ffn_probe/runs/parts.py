"""Read the Parquet parts of a table, without trusting them.

Parts are plain files inside their folder, have the columns of the schema, sane sizes and
sane values; else an error names the file. Whole parts, or a few row groups and columns of
one. Rows come out as dicts of scalars and 1-D arrays.

A part is named after its window and its writer's rank, `part-00000012-0.parquet`; one that was
merged of several after all windows it covers, `part-00000000..00000012-0.parquet`. Parts whose
windows a merged part covers are passed over: a recorder that was killed before it removed them
left them behind.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ffn_probe.errors import RunError, SchemaError
from ffn_probe.runs.checks import check_values
from ffn_probe.runs.progress import told
from ffn_probe.runs.schema import OPTIONAL, TABLES
from ffn_probe.runs.sizes import check_size, texts, unpacked

_NAME = re.compile(r"part-(\d+)(?:\.\.(\d+))?-([^/]*)\.parquet")

Spans = dict[tuple[int, ...], list[tuple[int, int, Path]]]
"""Ranks -> the first and last window that a part stands for, and the part."""


@dataclass(frozen=True, slots=True)
class PartName:
    """What the name of a part says: the windows it holds, first and last, and its rank."""

    first: int
    last: int
    rank: str

    @classmethod
    def of(cls, path: Path) -> "PartName | None":
        """Return what the name of a file says, None for a name of another kind."""
        named = _NAME.fullmatch(path.name)
        if named is None:
            return None
        return cls(int(named[1]), int(named[2] or named[1]), named[3])

    @property
    def merged(self) -> bool:
        """Whether the part stands for several windows."""
        return self.last > self.first

    @property
    def text(self) -> str:
        """The file's name."""
        until = f"..{self.last:08d}" if self.merged else ""
        return f"part-{self.first:08d}{until}-{self.rank}.parquet"

    def covers(self, other: "PartName") -> bool:
        """Return whether this is a merged part that holds all windows of another one."""
        inside = self.first <= other.first and other.last <= self.last
        return self != other and self.rank == other.rank and self.merged and inside


def part_files(folder: Path, table: str, *, windows: int | None = None) -> list[Path]:
    """Return the parts of a table to read, by name; only of the first `windows` if given.

    Raises:
        RunError: a part is no plain file, or a link that leads out of the run.
    """
    found: dict[Path, PartName | None] = {}
    for path in sorted((folder / table).glob("part-*.parquet")):
        named = PartName.of(path)
        if windows is not None and named and named.last >= windows:
            continue  # the recorder was stopped before every table of this window was there
        found[path] = named
    merged = [named for named in found.values() if named and named.merged]
    for path, named in tuple(found.items()):
        if named and any(other.covers(named) for other in merged):
            del found[path]
            continue
        if not path.is_file():
            raise RunError(f"{path} is no plain file; remove it")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{path} leads out of the run folder; a run holds plain files only")
    return list(found)


def read_part(path: Path, table: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return one part as an Arrow table with the columns of the schema, or some of them.

    Raises:
        RunError: the file is truncated or is no Parquet file.
        SchemaError: columns are missing or have other types, or sizes or values are absurd.
    """
    with opened(path, table) as file:
        return read_groups(file, table, path, columns=columns)


@contextmanager
def opened(
    path: Path, table: str, *, known: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a part of a table, its size and columns checked, unless its metadata is `known`.

    Raises:
        RunError: the file is truncated or is no Parquet file.
        SchemaError: columns are missing or have other types, or sizes are absurd.
    """
    try:
        if known is None:
            with pq.ParquetFile(path) as file:
                check_size(file.metadata, path)
                _check_columns(file.schema_arrow, table, path)
                known = file.metadata
        names = texts(TABLES[table])
        with pq.ParquetFile(path, metadata=known, read_dictionary=names) as file:
            yield file
    except FileNotFoundError as error:
        raise RunError(f"{path} is gone: its recorder merged it; open the run again") from error
    except (OSError, pa.ArrowException, MemoryError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is truncated or no Parquet file: {error}") from error


def read_groups(
    file: pq.ParquetFile,
    table: str,
    path: Path,
    *,
    groups: Iterable[int] | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return some row groups and columns of an opened part, values checked; all by default.

    Raises:
        SchemaError: values are absurd.
    """
    schema = TABLES[table]
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    data = unpacked(file, schema, path, groups)
    data.validate(full=True)
    check_values(data, table, path)
    return data


def read_parts(
    folder: Path, table: str, *, windows: int | None = None
) -> Iterator[tuple[Path, pa.Table]]:
    """Yield the parts of a table, none of which may say again what another one said.

    Raises:
        RunError, SchemaError: as `part_files` and `read_part`; or a part repeats a window of
            a rank, as a copy of a file does: its values would be counted twice.
    """
    paths = part_files(folder, table, windows=windows)
    listed = told(f"reading {table} of {folder.name}", paths)
    return unrepeated((path, read_part(path, table)) for path in listed)


def unrepeated(parts: Iterable[tuple[Path, pa.Table]]) -> Iterator[tuple[Path, pa.Table]]:
    """Yield parts as they come; raises as `check_new` for one that repeats another."""
    seen: Spans = {}
    for path, data in parts:
        check_new(data, path, seen)
        yield path, data


def check_new(data: pa.Table, path: Path, seen: Spans) -> None:
    """Check that a part repeats none of those `seen`, and add what it holds to them.

    Raises:
        SchemaError: it repeats a window of a rank, or holds one its name does not say.
    """
    for ranks, first, last in _spans(path, data):
        for start, end, other in seen.setdefault(ranks, []):
            if first <= end and start <= last:
                again = max(first, start)
                raise SchemaError(
                    f"{path} repeats window {again} of {other.name}; remove the copy"
                )
        seen[ranks].append((first, last, path))


def _spans(path: Path, data: pa.Table) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield (ranks, first window, last window) of what a part stands for."""
    names = [name for name in ("window", "dp", "tp", "pp", "ep") if name in data.column_names]
    named = PartName.of(path)
    ranks = set()
    for row in data.select(names).group_by(names).aggregate([]).to_pylist():
        window, *rest = (row[name] for name in names)
        if named is None or not named.merged:
            yield tuple(rest), window, window
            continue
        if not named.first <= window <= named.last:
            raise SchemaError(f"{path} holds window {window}, which its name does not say")
        ranks.add(tuple(rest))
    if named is not None:
        yield from ((rank, named.first, named.last) for rank in sorted(ranks))


def rows_of(data: pa.Table) -> Iterator[dict[str, Any]]:
    """Return the rows as dicts; list columns are 1-D arrays (lists for strings)."""
    columns = {name: _column(data.column(name).combine_chunks()) for name in data.column_names}
    for i in range(data.num_rows):
        yield {name: column[i] for name, column in columns.items()}


def _column(array: pa.Array) -> list[Any]:
    if not pa.types.is_list(array.type):
        return list(array.to_pylist())
    offsets = array.offsets.to_numpy()
    if pa.types.is_string(array.type.value_type):
        flat: Any = array.values.to_pylist()
    else:
        flat = array.values.to_numpy(zero_copy_only=False)
    pairs = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return [flat[a:b] for a, b in pairs]


def _check_columns(found: pa.Schema, table: str, path: Path) -> None:
    for field in TABLES[table]:
        if field.name in OPTIONAL.get(table, ()) and field.name not in found.names:
            continue  # recorded before there was this number
        if found.names.count(field.name) != 1:
            raise SchemaError(f"{path} has no column {field.name!r}; is it a part of a run?")
        kind = found.field(field.name).type
        if not kind.equals(field.type):
            raise SchemaError(f"{path}: column {field.name!r} is {kind}, expected {field.type}")
