"""Stored: the sketches of one table of a run, by site and fold, parsed when asked for."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ffn_probe.anatomy import Site
from ffn_probe.errors import SchemaError, SketchError
from ffn_probe.runs.parts import rows_of
from ffn_probe.runs.reader import Reader
from ffn_probe.runs.schema import KEYS, TABLES
from ffn_probe.sketches.summary import merged_dtype

_KEPT = 32 << 20  # bytes of parsed sketches that are kept, unless all are read at once
_OBJECT = 500  # bytes of a sketch beside its arrays


@runtime_checkable
class Sketch(Protocol):
    """What a row of a table becomes."""

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> Any:
        """Return the sketch of a row."""

    def merge(self, other: Any) -> Any:
        """Return the sketch of both."""


@dataclass(frozen=True, slots=True)
class RowCount:
    """Rows that were seen and that were sampled, and the dtype of the tensors."""

    seen: int
    sampled: int
    dtype: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "RowCount":
        """Return the counts of a row of `moments`."""
        return cls(row["seen_rows"], row["sampled_rows"], row["dtype"])

    def merge(self, other: "RowCount") -> "RowCount":
        """Return the counts of both."""
        dtype = merged_dtype(self.dtype, other.dtype)
        return RowCount(self.seen + other.seen, self.sampled + other.sampled, dtype)


class Stored:
    """A mapping of site -> fold -> sketch, windows and ranks merged. Threads may share it.

    A site is read when it is asked for and a few are kept; a table that is not fit for that
    (many parts, as while it is recorded, or large row groups) is read whole, once, and kept.
    """

    def __init__(self, reader: Reader, kind: type[Sketch]) -> None:
        self.reader, self._kind = reader, kind
        self._sites: OrderedDict[Site, tuple[int, dict[int, Any]]] = OrderedDict()
        self._whole: dict[Site, dict[int, Any]] | None = None
        self._size = 0
        self._lock = threading.RLock()

    def __iter__(self) -> Iterator[Site]:
        return iter(self.reader.places)

    def __len__(self) -> int:
        return len(self.reader.places)

    def __contains__(self, site: object) -> bool:
        return site in self.reader.places

    def __getitem__(self, site: Site) -> dict[int, Any]:
        """Return fold -> sketch of a site.

        Raises:
            KeyError: the table holds nothing of the site.
            RunError, SchemaError: a part cannot be read; the message names it.
        """
        if site not in self.reader.places:
            raise KeyError(site)
        with self._lock:
            if self._whole is None and not self.reader.by_site:
                self._whole = self._read()
            if self._whole is not None:
                return self._whole[site]
            if site not in self._sites:
                self._keep(site, *self._parse(site))
            self._sites.move_to_end(site)
            return self._sites[site][1]

    def get(self, site: Site, default: Mapping[int, Any]) -> Mapping[int, Any]:
        """Return fold -> sketch of a site, or the default; raises as `[site]`."""
        return self[site] if site in self.reader.places else default

    def items(self) -> Iterator[tuple[Site, Mapping[int, Any]]]:
        """Yield every site with its sketches by fold; raises as `[site]`."""
        return ((site, self[site]) for site in self)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept in memory, about."""
        return self._size + self.reader.nbytes

    def _keep(self, site: Site, size: int, folds: dict[int, Any]) -> None:
        self._sites[site] = size, folds
        self._size += size
        while self._size > _KEPT and len(self._sites) > 1:
            self._size -= self._sites.popitem(last=False)[1][0]

    def _parse(self, site: Site) -> tuple[int, dict[int, Any]]:
        wanted = [name for name in TABLES[self.reader.table].names if name not in KEYS]
        size = 0
        folds: dict[int, Any] = {}
        for path, listed, data in self.reader.pieces(site, wanted):
            size += data.nbytes + _OBJECT * data.num_rows
            for fold, row in zip(listed, rows_of(data), strict=True):
                _add(folds, fold, _parsed(self._kind, row, path), path)
        return size, folds

    def _read(self) -> dict[Site, dict[int, Any]]:
        found: dict[Site, dict[int, Any]] = {}
        for path, data in self.reader.whole():
            self._size += data.nbytes  # at most: windows are merged
            for row in rows_of(data):
                site = Site(row["layer"], row["block"], row["role"], row["expert"])
                sketch = _parsed(self._kind, row, path)
                _add(found.setdefault(site, {}), row["fold"], sketch, path)
        return found


def _add(folds: dict[int, Any], fold: int, sketch: Any, path: Path) -> None:
    try:
        folds[fold] = folds[fold].merge(sketch) if fold in folds else sketch
    except SketchError as error:
        raise SchemaError(f"{path} does not fit the parts before it: {error}") from error


def _parsed(kind: type[Sketch], row: Mapping[str, Any], path: Path) -> Any:
    try:
        return kind.from_row(row)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise SchemaError(f"{path} holds a damaged row: {error}") from error
