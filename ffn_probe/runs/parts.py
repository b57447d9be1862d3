"""Read the Parquet parts of a table, without trusting them.

Parts are plain files inside their folder, have the columns of the schema, sane sizes and
sane values; else an error names the file. Rows come out as dicts of scalars and 1-D arrays.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ffn_probe.errors import RunError, SchemaError
from ffn_probe.runs.checks import check_values
from ffn_probe.runs.schema import TABLES

_MAX_ROWS = 50_000_000
_MAX_BYTES = 8 << 30
_BATCH = 64
_NAME = re.compile(r"part-(\d+)-[^/]*\.parquet")


def part_files(folder: Path, table: str, *, windows: int | None = None) -> list[Path]:
    """Return the complete parts of a table, by name; only of the first `windows` if given.

    Raises:
        RunError: a part is no plain file, or a link that leads out of the run.
    """
    found = []
    for path in sorted((folder / table).glob("part-*.parquet")):
        named = _NAME.fullmatch(path.name)
        if windows is not None and named and int(named[1]) >= windows:
            continue  # the recorder was stopped before every table of this window was there
        if not path.is_file():
            raise RunError(f"{path} is no plain file; remove it")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{path} leads out of the run folder; a run holds plain files only")
        found.append(path)
    return found


def read_part(path: Path, table: str) -> pa.Table:
    """Return one part as an Arrow table with exactly the columns of the schema.

    Raises:
        RunError: the file is truncated or is no Parquet file.
        SchemaError: columns are missing or have other types, or sizes or values are absurd.
    """
    schema = TABLES[table]
    try:
        with pq.ParquetFile(path) as file:
            _check_size(file.metadata, path)
            _check_columns(file.schema_arrow, schema, path)
            data = pa.Table.from_batches(_batches(file, schema, path), schema)
        data.validate(full=True)
    except (OSError, pa.ArrowException, MemoryError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is truncated or no Parquet file: {error}") from error
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
    seen: dict[tuple[int, ...], Path] = {}
    for path in part_files(folder, table, windows=windows):
        data = read_part(path, table)
        for key in _windows_of(data):
            if key in seen:
                raise SchemaError(
                    f"{path} repeats window {key[0]} of {seen[key].name}; remove the copy"
                )
            seen[key] = path
        yield path, data


def _windows_of(data: pa.Table) -> list[tuple[int, ...]]:
    names = [name for name in ("window", "dp", "tp", "pp", "ep") if name in data.column_names]
    rows = data.select(names).group_by(names).aggregate([]).to_pylist()
    return [tuple(row[name] for name in names) for row in rows]


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


def _batches(file: pq.ParquetFile, schema: pa.Schema, path: Path) -> Iterator[pa.RecordBatch]:
    """Return the rows a few at a time: a small file may unpack to more than the memory."""
    size = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=schema.names):
        size += batch.nbytes
        if size > _MAX_BYTES:
            raise SchemaError(f"{path} unpacks to more than {_MAX_BYTES >> 30} GiB: refused")
        yield pa.RecordBatch.from_arrays([batch.column(n) for n in schema.names], schema=schema)


def _check_size(metadata: pq.FileMetaData, path: Path) -> None:
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    if not 0 <= metadata.num_rows <= _MAX_ROWS or not 0 <= size <= _MAX_BYTES:
        raise SchemaError(f"{path} claims {metadata.num_rows} rows and {size} bytes: refused")


def _check_columns(found: pa.Schema, expected: pa.Schema, path: Path) -> None:
    for field in expected:
        if found.names.count(field.name) != 1:
            raise SchemaError(f"{path} has no column {field.name!r}; is it a part of a run?")
        kind = found.field(field.name).type
        if not kind.equals(field.type):
            raise SchemaError(f"{path}: column {field.name!r} is {kind}, expected {field.type}")
