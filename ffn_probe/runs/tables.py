"""Tables: the tables of one run folder, as sketches by site or as frames."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ffn_probe.errors import UnknownName
from ffn_probe.runs.parts import read_parts
from ffn_probe.runs.reader import Reader
from ffn_probe.runs.schema import TABLES
from ffn_probe.runs.stored import RowCount, Stored
from ffn_probe.runs.weights import WeightGeometry
from ffn_probe.sketches import (
    BitHistogram,
    Channels,
    Extremes,
    Joint,
    Moments,
    QuantNoise,
)

_SKETCHES: Mapping[str, Any] = {
    "moments": Moments,
    "histograms": BitHistogram,
    "channels": Channels,
    "extremes": Extremes,
    "joint": Joint,
    "quant": QuantNoise,
    "weights": WeightGeometry,
}


class Tables:
    """What was read of the tables of a folder. Threads may share it.

    Of an open run only the first `windows` are read: the next one may be half written.
    """

    def __init__(self, folder: Path, windows: int | None) -> None:
        self._folder, self._windows = folder, windows
        self._loaded: dict[tuple[str, Any], Stored] = {}
        self._lock = threading.RLock()

    def sketches(self, table: str) -> Stored:
        """Return site -> fold -> sketch of one table.

        Raises:
            UnknownName: no table of sketches has that name.
        """
        if table not in _SKETCHES:
            raise UnknownName.of("table", table, _SKETCHES)
        return self._stored(table, _SKETCHES[table])

    def counts(self) -> Stored:
        """Return site -> fold -> numbers of rows."""
        return self._stored("moments", RowCount)

    def _stored(self, table: str, kind: Any) -> Stored:
        with self._lock:
            if (table, kind) not in self._loaded:
                reader = Reader(self._folder, table, windows=self._windows)
                self._loaded[table, kind] = Stored(reader, kind)
            return self._loaded[table, kind]

    def frame(self, name: str) -> pd.DataFrame:
        """Return a table as it is on disk, as a tidy frame with units.

        Raises:
            RunError, SchemaError: a part cannot be read; the message names it.
        """
        schema = TABLES[name]
        parts = [data for _, data in read_parts(self._folder, name, windows=self._windows)]
        data = pa.concat_tables(parts) if parts else schema.empty_table()
        frame: pd.DataFrame = data.to_pandas()
        frame.attrs["units"] = {
            f.name: (f.metadata or {}).get(b"unit", b"").decode() for f in schema
        }
        return frame

    @property
    def nbytes(self) -> int:
        """Bytes that are held in memory, about."""
        with self._lock:
            return sum(stored.nbytes for stored in self._loaded.values())

    def forget(self) -> None:
        """Let go of what was read; it is read again when it is asked for."""
        with self._lock:
            self._loaded = {}
