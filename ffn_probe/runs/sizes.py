"""Unpack a part, no further than a memory holds: a small file may say that it is endless.

A column of equal numbers takes no room in a file, so its size says nothing. What the file
claims is checked before anything is unpacked, and what comes out while it is.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ffn_probe.errors import SchemaError

MAX_ROWS = 50_000_000
MAX_BYTES = 4 << 30
MAX_GROUPS = 100_000
MAX_LETTERS = 65_536
"""Bytes of one text; names are far shorter."""
_BATCH = 64  # rows at a time of columns with lists of texts


def check_size(metadata: pq.FileMetaData, path: object) -> None:
    """Check what a part claims to hold.

    Not of single columns: pyarrow ends the process where their metadata is damaged.

    Raises:
        SchemaError: more than any recorder writes.
    """
    if metadata.num_row_groups > MAX_GROUPS:
        raise SchemaError(f"{path} claims {metadata.num_row_groups} row groups: refused")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    if not 0 <= metadata.num_rows <= MAX_ROWS or not 0 <= size <= MAX_BYTES:
        raise SchemaError(f"{path} claims {metadata.num_rows} rows and {size} bytes: refused")


def texts(schema: pa.Schema) -> list[str]:
    """Return the columns of texts, which are read as numbers of a dictionary first.

    A text that is repeated in a million rows is unpacked once, until its length is known.
    """
    return [field.name for field in schema if pa.types.is_string(field.type)]


def unpacked(
    file: pq.ParquetFile, schema: pa.Schema, path: object, groups: Iterable[int] | None
) -> pa.Table:
    """Return columns of some row groups (or of all); one that is not there is all NaN.

    Raises:
        SchemaError: they unpack to more than a memory holds.
    """
    chosen = list(range(file.num_row_groups) if groups is None else groups)
    known = [name for name in schema.names if name in file.schema_arrow.names]
    size = 0
    batches = []
    for batch in _batches(file, schema, path, chosen, known):
        size += batch.nbytes + sum(_grown(batch.column(n), n, path) for n in texts(schema))
        if size > MAX_BYTES:
            raise SchemaError(f"{path} unpacks to more than {MAX_BYTES >> 20:,} MiB: refused")
        none = pa.array(np.full(batch.num_rows, np.nan, np.float32))
        arrays = [batch.column(n) if n in known else none for n in schema.names]
        pairs = zip(arrays, schema, strict=True)
        batches.append(pa.record_batch([a.cast(field.type) for a, field in pairs], schema))
    return pa.Table.from_batches(batches, schema)


def _batches(
    file: pq.ParquetFile, schema: pa.Schema, path: object, groups: list[int], known: list[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows: a row group at a time, which is fast, or a few at a time."""
    if not any(_is_list_of_texts(field.type) for field in schema):
        for group in groups:
            yield from file.read_row_group(group, columns=known).to_batches()
        return
    for batch in file.iter_batches(_BATCH, row_groups=groups, columns=known):
        for name in (field.name for field in schema if _is_list_of_texts(field.type)):
            _grown(batch.column(name).flatten(), name, path)
        yield batch


def _grown(column: pa.Array, name: str, path: object) -> int:
    """Return how many bytes texts may have, written out.

    Raises:
        SchemaError: one is longer than any name.
    """
    distinct = column.dictionary if pa.types.is_dictionary(column.type) else column
    longest = pc.max(pc.binary_length(distinct)).as_py() or 0
    if longest > MAX_LETTERS:
        raise SchemaError(f"{path}: column {name!r} holds a text of {longest} letters")
    return int(longest) * len(column)


def _is_list_of_texts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_string(kind.value_type))
