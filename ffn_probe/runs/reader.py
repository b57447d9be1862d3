"""Read a table site by site, without holding it: what is wanted, when it is wanted.

The keys of all rows are read first (they are small), so that the rows of a site are known by
their place. Then a site costs the row groups that hold it. Parts of a recorder have small
row groups; a table in many parts, or in large groups, is better read as a whole, once.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from ffn_probe.anatomy import Site
from ffn_probe.runs.parts import (
    Spans,
    check_new,
    opened,
    part_files,
    read_groups,
    read_part,
    rows_of,
)
from ffn_probe.runs.progress import told
from ffn_probe.runs.schema import KEYS, TABLES

SITE = ("layer", "block", "role", "expert")
_SMALL = 48 << 20  # bytes unpacked; of a table below, any site can be read
_GROUP = 32 << 20  # bytes unpacked; a row group above is too much for one site
_PARTS = 16  # more are not opened for one site
_KEPT = 24 << 20  # bytes of unpacked row groups that are kept
_PINNED = 8  # a row group may be kept for an eighth of its rows


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Rows of one site in one row group of one part, and the fold of each."""

    part: int
    group: int
    rows: Int64[np.ndarray, " rows"]
    folds: tuple[int, ...]


class Reader:
    """One table of a run folder: its sites, and the rows of each. Threads may share it."""

    def __init__(self, folder: Path, table: str, *, windows: int | None = None) -> None:
        self.folder, self.table = folder, table
        self.parts = part_files(folder, table, windows=windows)
        self._sizes: list[int] = []
        self._known: dict[int, tuple[tuple[int, ...], pq.FileMetaData]] = {}
        self._groups: OrderedDict[tuple[int, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._size = 0  # bytes of the groups; pyarrow takes 0.1 ms to count those of each
        self._lock = threading.RLock()

    @property
    def places(self) -> dict[Site, list[Place]]:
        """Where the rows of each site are, in the order of the parts.

        Raises:
            RunError, SchemaError: a part cannot be read, or says again what another one said.
        """
        with self._lock:
            return self._found

    @cached_property
    def _found(self) -> dict[Site, list[Place]]:
        found: dict[Site, list[Place]] = {}
        seen: Spans = {}
        self._sizes = []
        what = f"opening {self.table} of {self.folder.name}"
        for part, path in enumerate(told(what, self.parts)):
            with opened(path, self.table) as file:
                self._known[part] = _stamp(path), file.metadata
                data = read_groups(file, self.table, path, columns=KEYS)
                groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
                ends = np.cumsum([0, *(group.num_rows for group in groups)])
                self._sizes += [group.total_byte_size for group in groups]
            check_new(data, path, seen)
            folds = data.column("fold").to_numpy()
            for site, rows in _by_site(data):
                at = np.searchsorted(ends, rows, side="right") - 1
                for group in np.unique(at).tolist():
                    own = rows[at == group]
                    place = Place(part, group, own - ends[group], tuple(folds[own].tolist()))
                    found.setdefault(site, []).append(place)
        return found

    @property
    def by_site(self) -> bool:
        """Whether one site can be read without reading much of the rest."""
        with self._lock:
            small = not self.places or sum(self._sizes) <= _SMALL
            return small or (len(self.parts) <= _PARTS and max(self._sizes) <= _GROUP)

    def pieces(
        self, site: Site, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Path, tuple[int, ...], pa.Table]]:
        """Yield the rows of a site in pieces: the part, the fold of each row, the columns.

        Raises:
            RunError, SchemaError: a part cannot be read; the message names it.
        """
        chosen = tuple(TABLES[self.table].names if columns is None else columns)
        for place in self.places.get(site, ()):
            group = self._group(place.part, place.group, chosen)
            yield self.parts[place.part], place.folds, _rows(group, place.rows)

    def columns(self, site: Site, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield some columns of the rows of a site; raises as `pieces`."""
        for _, _, data in self.pieces(site, names):
            yield from rows_of(data)

    def whole(self) -> Iterator[tuple[Path, pa.Table]]:
        """Yield every part whole; raises as `pieces`."""
        what = f"reading {self.table} of {self.folder.name}"
        for path in told(what, self.parts):
            yield path, read_part(path, self.table)

    def _group(self, part: int, group: int, columns: tuple[str, ...]) -> pa.Table:
        key = (part, group, columns)
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
            path = self.parts[part]
            stamp, known = self._known[part]
            same = known if stamp == _stamp(path) else None
            with opened(path, self.table, known=same) as file:
                data = read_groups(file, self.table, path, groups=[group], columns=columns)
            self._groups[key] = data.combine_chunks()
            self._size += self._groups[key].nbytes
            while self._size > _KEPT and len(self._groups) > 1:
                self._size -= self._groups.popitem(last=False)[1].nbytes
            return self._groups[key]

    @property
    def nbytes(self) -> int:
        """Bytes of the row groups that are kept unpacked."""
        return self._size


def _rows(group: pa.Table, rows: Int64[np.ndarray, " rows"]) -> pa.Table:
    """Return some rows of a row group.

    A copy, so that what is kept of a site does not keep the whole group; but of rows that
    are a fair part of it the copy would cost more than it saves.
    """
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == rows.size and rows.size * _PINNED >= group.num_rows:
        return group.slice(first, rows.size)
    return group.take(rows)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when the file does; () where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _by_site(data: pa.Table) -> Iterator[tuple[Site, Int64[np.ndarray, " rows"]]]:
    """Yield every site with the numbers of its rows, ascending."""
    frame = data.select(list(SITE)).to_pandas()
    for (layer, block, role, expert), rows in frame.groupby(
        list(SITE), sort=False
    ).indices.items():
        yield Site(int(layer), block, role, int(expert)), np.sort(rows).astype(np.int64)
