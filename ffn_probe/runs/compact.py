"""Merge the parts of old windows: a long run keeps the size of its model's shape.

Rows of the same site and fold are merged by the sketches' own `merge`, window by window in
order, as a reader would; `trends` and `metrics`, which are the history, are put one behind the
other. At no moment does a reader see a window twice or miss one: the merged part is written
whole, under a name that says which windows it covers; then readers pass over those; and only
at the next call, or when the run is closed, they are removed.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ffn_probe.errors import RunError, SketchError
from ffn_probe.runs.atomic import complete, sync
from ffn_probe.runs.parts import (
    PartName,
    Spans,
    check_new,
    opened,
    part_files,
    read_groups,
    rows_of,
)
from ffn_probe.runs.schema import KEYS, TABLES
from ffn_probe.sketches import (
    BitHistogram,
    Channels,
    Extremes,
    Joint,
    Moments,
    QuantNoise,
)
from ffn_probe.sketches.summary import merged_dtype

MOST = 8
"""Parts of a table and rank; with more, the older ones become one."""

MOST_JOINED = 64
"""The same of `trends` and `metrics`, whose parts are small."""

_MERGED: Mapping[str, Any] = {
    "moments": Moments,
    "histograms": BitHistogram,
    "channels": Channels,
    "extremes": Extremes,
    "joint": Joint,
    "quant": QuantNoise,
}
_JOINED = ("trends", "metrics")
_GROUP = 8 << 20  # bytes of a row group, unpacked; twice that is held of each part
_GROUPS_HELD = 2

Row = Mapping[str, Any]
Part = tuple[PartName, Path]


def compact(
    folder: Path,
    *,
    windows: int,
    rank: str = "0",
    last: bool = False,
    skip: Collection[str] = (),
) -> dict[str, str]:
    """Merge the older parts of every table that has too many; return why not, by table.

    Args:
        folder: the folder of the run.
        windows: how many windows are finished; only their parts are touched.
        rank: the writer whose parts are merged; a writer merges its own only.
        last: the run ends here: what was merged before becomes one part, `trends` and
            `metrics` do when they have more than `MOST`.
        skip: tables to leave alone.

    Where a part is damaged or the disk is full, its table stays as it was.
    """
    problems = {}
    for table in (*_MERGED, *_JOINED):
        if table in skip or not (folder / table).is_dir():
            continue
        try:
            _sweep(folder / table, rank)
            chosen = _too_many(_parts(folder, table, rank, windows), table, last=last)
            if chosen:
                _merge(folder, table, chosen)
        except (OSError, pa.ArrowException, RunError, SketchError) as error:
            problems[table] = f"the old windows of {table} could not be merged: {error}"
    return problems


def _too_many(parts: Sequence[Part], table: str, *, last: bool) -> Sequence[Part]:
    """Return the parts to merge, in order; none while there are few."""
    most = MOST_JOINED if table in _JOINED and not last else MOST
    again = last and any(name.merged for name, _ in parts)
    if len(parts) <= (1 if again else most):
        return ()
    return parts if last else parts[:-1]


def _parts(folder: Path, table: str, rank: str, windows: int) -> list[Part]:
    named = ((PartName.of(path), path) for path in part_files(folder, table, windows=windows))
    return [(name, path) for name, path in named if name is not None and name.rank == rank]


def sweep(folder: Path) -> None:
    """Remove every part of a run whose windows a merged part covers: nobody reads it."""
    for table in (*_MERGED, *_JOINED):
        with suppress(OSError):  # what is left is passed over
            _sweep(folder / table)


def _sweep(table: Path, rank: str | None = None) -> None:
    """Remove the parts of a table that a merged one covers; of one rank only, if given."""
    named = [(PartName.of(path), path) for path in table.glob("part-*.parquet")]
    known = [(name, path) for name, path in named if name and rank in {None, name.rank}]
    merged = [name for name, _ in known if name.merged]
    gone = [path for name, path in known if any(other.covers(name) for other in merged)]
    for path in gone:
        path.unlink()
    if gone:
        sync(table)


def _merge(folder: Path, table: str, parts: Sequence[Part]) -> None:
    """Write one part that stands for several.

    Raises:
        RunError, SchemaError, SketchError: a part is damaged, or they do not fit each other.
        OSError: the disk is full.
    """
    name = PartName(parts[0][0].first, parts[-1][0].last, parts[0][0].rank)
    seen: Spans = {}
    sources = [_Source(table, path, seen) for _, path in parts]
    groups = _joined(sources) if table in _JOINED else _summed(sources, table, name.first)
    try:
        with (
            complete(folder / table / name.text) as file,
            pq.ParquetWriter(file, TABLES[table], compression="zstd") as writer,
        ):
            for group in groups:
                writer.write_table(group)
    finally:
        for source in sources:
            source.close()


# ---- reading ----------------------------------------------------------------------------


class _Source:
    """A part that is read row group by row group, checked like any."""

    def __init__(self, table: str, path: Path, seen: Spans) -> None:
        self.table, self.path = table, path
        names = [name for name in KEYS if name in TABLES[table].names]
        with opened(path, table) as file:
            data = read_groups(file, table, path, columns=names)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        check_new(data, path, seen)
        self.keys = list(zip(*(data.column(n).to_pylist() for n in names[1:]), strict=True))
        self._ends = np.cumsum([0, *sizes])
        self._file = pq.ParquetFile(path)
        self._held: dict[int, list[Row]] = {}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def group(self, number: int) -> pa.Table:
        """Return the rows of a row group."""
        return read_groups(self._file, self.table, self.path, groups=[number])

    def groups(self) -> Iterator[pa.Table]:
        """Yield all rows."""
        return (self.group(number) for number in range(self._ends.size - 1))

    def row(self, index: int) -> Row:
        """Return one row; neighbours cost no more reading."""
        number = int(np.searchsorted(self._ends, index, side="right")) - 1
        if number not in self._held:
            while len(self._held) >= _GROUPS_HELD:
                del self._held[next(iter(self._held))]
            self._held[number] = list(rows_of(self.group(number)))
        return self._held[number][index - int(self._ends[number])]


def _joined(sources: Iterable[_Source]) -> Iterator[pa.Table]:
    """Yield all rows, part after part, in groups of a good size."""
    held: list[pa.Table] = []
    for source in sources:
        for data in source.groups():
            held.append(data)
            if sum(part.nbytes for part in held) >= _GROUP:
                yield pa.concat_tables(held)
                held = []
    if held:
        yield pa.concat_tables(held)


def _summed(sources: Sequence[_Source], table: str, window: int) -> Iterator[pa.Table]:
    """Yield the merged rows, in the order in which their sites come up."""
    places: dict[tuple[Any, ...], list[tuple[_Source, int]]] = {}
    for source in sources:
        for index, key in enumerate(source.keys):
            places.setdefault(key, []).append((source, index))
    held, size = [], 0
    for found in places.values():
        row = _merged_row([source.row(index) for source, index in found], table)
        held.append({**row, "window": window})
        size += sum(getattr(value, "nbytes", 8) for value in row.values())
        if size >= _GROUP:
            yield _table_of(held, table)
            held, size = [], 0
    if held:
        yield _table_of(held, table)


def _merged_row(rows: Sequence[Row], table: str) -> Row:
    kind = _MERGED[table]
    total = kind.from_row(rows[0])
    for row in rows[1:]:
        total = total.merge(kind.from_row(row))
    row = {name: rows[0][name] for name in KEYS}
    if table == "moments":
        row |= _counts(rows)
    own: Row = total.to_row()
    return {**row, **own}


def _counts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the columns of `moments` that are no sketch."""
    dtype = ""
    for row in rows:
        dtype = merged_dtype(dtype, row["dtype"])
    sums = {name: sum(row[name] for row in rows) for name in ("seen_rows", "sampled_rows")}
    return {**sums, "dtype": dtype}


def _table_of(rows: Sequence[Row], table: str) -> pa.Table:
    schema = TABLES[table]
    columns = {f.name: pa.array([row[f.name] for row in rows], f.type) for f in schema}
    return pa.Table.from_pydict(columns, schema=schema)
