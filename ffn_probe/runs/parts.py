"""Read the Parquet parts of a table, without trusting them.

Parts stay inside their folder, have the columns of the schema, sane sizes and no negative
counts; else an error names the file. Rows come out as dicts of scalars and 1-D arrays.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ffn_probe.errors import RunError, SchemaError
from ffn_probe.runs.schema import TABLES

_MAX_ROWS = 50_000_000
_MAX_BYTES = 64 << 30
_COUNTS = {"count", "counts", "nan", "pos_inf", "neg_inf", "rows", "seen_rows", "sampled_rows",
           "active", "grid", "clipped", "zeroed", "k", "window"}  # fmt: skip


def part_files(folder: Path, table: str) -> list[Path]:
    """Return the complete parts of a table, by name.

    Raises:
        RunError: a part is a link that leads out of the run.
    """
    home = folder.resolve()
    found = sorted((folder / table).glob("part-*.parquet"))
    for path in found:
        if not path.resolve().is_relative_to(home):
            raise RunError(f"{path} leads out of the run folder; a run holds plain files only")
    return found


def read_part(path: Path, table: str) -> pa.Table:
    """Return one part as an Arrow table with exactly the columns of the schema.

    Raises:
        RunError: the file is truncated or is no Parquet file.
        SchemaError: columns are missing or have other types, or sizes are absurd.
    """
    schema = TABLES[table]
    try:
        with pq.ParquetFile(path) as file:
            _check_size(file.metadata, path)
            _check_columns(file.schema_arrow, schema, path)
            data = file.read(columns=schema.names)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} is truncated or no Parquet file: {error}") from error
    for name in schema.names:
        _check_column(data, name, path)
    return data


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


def _check_size(metadata: pq.FileMetaData, path: Path) -> None:
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if not 0 <= metadata.num_rows <= _MAX_ROWS or not 0 <= size <= _MAX_BYTES:
        raise SchemaError(f"{path} claims {metadata.num_rows} rows and {size} bytes: refused")


def _check_columns(found: pa.Schema, expected: pa.Schema, path: Path) -> None:
    for field in expected:
        if field.name not in found.names:
            raise SchemaError(f"{path} has no column {field.name!r}; is it a part of a run?")
        kind = found.field(field.name).type
        if not kind.equals(field.type):
            raise SchemaError(f"{path}: column {field.name!r} is {kind}, expected {field.type}")


def _check_column(data: pa.Table, name: str, path: Path) -> None:
    column = data.column(name)
    if column.null_count:
        raise SchemaError(f"{path}: column {name!r} holds {column.null_count} missing values")
    leaf = name.rsplit("_", 1)[-1] if name.startswith("token_") else name
    if leaf not in _COUNTS:
        return
    for chunk in column.chunks:
        flat = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        values = flat.to_numpy(zero_copy_only=False)
        if values.size and np.min(values) < 0:
            raise SchemaError(
                f"{path}: column {name!r} holds the negative count {values.min()}"
            )
