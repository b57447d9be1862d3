"""Read a run: lazily, from any complete part, on a machine without torch.

The tables are plain Parquet, so any engine can query them too. With DuckDB:

    SELECT layer, role, max(greatest(-min, max)) AS absmax
    FROM 'runs/base/extremes/*.parquet' GROUP BY layer, role ORDER BY absmax DESC;
"""

import os
from collections.abc import Iterable
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import pandas as pd

from ffn_probe.anatomy import ROLES, Block, Site
from ffn_probe.attribution import Attribution, explain, pair_measures
from ffn_probe.errors import UnknownName
from ffn_probe.runs.channel_map import COLUMNS, ChannelMap, channel_map
from ffn_probe.runs.late import LateSummary
from ffn_probe.runs.manifest import Manifest
from ffn_probe.runs.measured import measured
from ffn_probe.runs.paired import check_paired
from ffn_probe.runs.schema import EVEN, FOLDS, ODD, TABLES, WHOLE
from ffn_probe.runs.stored import RowCount, Stored
from ffn_probe.runs.tables import Tables
from ffn_probe.runs.trends import read_trends
from ffn_probe.runs.weights import WeightGeometry
from ffn_probe.sketches import BitHistogram, Channels, Extremes, Moments, QuantNoise, Summary


class Run:
    """One recorded run. Opening reads the manifest only; tables are read when asked for."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._tables = Tables(folder, self._windows)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """Return the run at `path`.

        Raises:
            RunError: there is no run, or its manifest cannot be read.
            SchemaError: it was written by a newer version.
        """
        folder = Path(path)
        return cls(folder, Manifest.read(folder))

    # What it holds

    @property
    def path(self) -> str:
        """The folder's path."""
        return str(self.folder)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name or self.folder.resolve().name

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that were probed."""
        return self.manifest.blocks

    @property
    def closed(self) -> bool:
        """Whether the recorder finished."""
        return self.manifest.state == "closed"

    @property
    def problems(self) -> tuple[str, ...]:
        """What a reader has to know before trusting the run."""
        found = list(self.manifest.warnings)
        if not self.closed:
            found.insert(0, "the run was not closed: its last window may be missing")
        flagged = [block.name for block in self.blocks if block.flags]
        if flagged:
            found.append(f"{len(flagged)} blocks are flagged (first: {flagged[0]})")
        return tuple(found)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site with data, by layer, block, role and expert."""
        order = {role: i for i, role in enumerate(ROLES)}
        found = self.load("moments")
        return tuple(
            sorted(
                found, key=lambda s: (s.layer, s.block, order.get(s.role, 99), s.role, s.expert)
            )
        )

    @cached_property
    def _by_name(self) -> dict[str, Site]:
        return {site.name: site for site in self.sites}

    def site(self, name: str | Site) -> Site:
        """Return the site of that name ("block/role", "#3" behind it for expert 3).

        Raises:
            UnknownName: the run has no such site.
        """
        if isinstance(name, Site):
            if name in self.load("moments"):
                return name
            name = name.name
        if name not in self._by_name:
            raise UnknownName.of("site", name, self._by_name, "See run.sites.")
        return self._by_name[name]

    # Sketches

    def load(self, table: str) -> Stored:
        """Return site -> fold -> sketch of one table, windows merged; read as it is used.

        Raises:
            UnknownName: no table has that name.
            RunError, SchemaError: a part cannot be read; the message names it.
        """
        return self._tables.sketches(table)

    @property
    def _windows(self) -> int | None:
        """How many windows can be read: of an open run, those that are finished."""
        return None if self.closed else self.manifest.windows

    @property
    def nbytes(self) -> int:
        """Bytes of tables that are held in memory, about."""
        return self._tables.nbytes

    def forget(self) -> None:
        """Let go of what was read; it is read again when it is asked for."""
        self._tables.forget()

    def rows(self, site: str | Site) -> tuple[int, int, str]:
        """Return (rows seen, rows sampled, dtype) of a site."""
        counted = self._tables.counts()[self.site(site)]
        total = reduce(RowCount.merge, counted.values())
        return total.seen, total.sampled, total.dtype

    def summary(self, site: str | Site) -> Summary:
        """Return the merged summary of one site over all windows and folds.

        Each of its parts is read when it is looked at, and raises then what `load` raises.

        Raises:
            UnknownName: the run has no such site.
        """
        where = self.site(site)

        def merged(table: str, folds: Iterable[int], kind: Any) -> Any:
            return _merged(self._parts(table, where, folds)) or kind.empty()

        return LateSummary({
            "seen_rows": lambda: self.rows(where)[0],
            "sampled_rows": lambda: self.rows(where)[1],
            "moments": lambda: merged("moments", range(FOLDS), Moments),
            "histogram": lambda: self.histogram(where),
            "channels": lambda: (
                _merged(self._parts("channels", where, (EVEN, ODD))) or Channels.empty(0)
            ),
            "extremes": lambda: merged("extremes", range(FOLDS), Extremes),
            "joint": lambda: _merged(self._parts("joint", where, (WHOLE,))),
            "quant": lambda: merged("quant", range(FOLDS), QuantNoise),
            "dtype": lambda: self.rows(where)[2],
        })  # fmt: skip

    def histogram(self, site: str | Site) -> BitHistogram:
        """Return the histogram of a site at full resolution."""
        where = self.site(site)
        whole = self._parts("histograms", where, (WHOLE,))
        if whole:
            return whole[0]  # type: ignore[no-any-return]
        return _merged(self._parts("histograms", where, range(FOLDS))) or BitHistogram.empty()

    def fold_histograms(self, site: str | Site) -> list[BitHistogram | None]:
        """Return the coarse histogram of each of the 16 folds, None where a fold is empty."""
        folds = self.load("histograms").get(self.site(site), {})
        return [folds.get(k) for k in range(FOLDS)]

    def weights(self, block: str, expert: int = -1) -> WeightGeometry | None:
        """Return the directions and norms of a block's weights; None where they are not kept.

        Args:
            block: the block's name.
            expert: of a mixture, which expert.
        """
        layers = {known.name: known.layer for known in self.blocks}
        where = Site(layers.get(block, -1), block, "hidden", expert)
        return next(iter(self._parts("weights", where, (WHOLE,))), None)

    def _parts(self, table: str, site: Site, folds: Iterable[int]) -> list[Any]:
        found = self.load(table).get(site, {})
        return [found[fold] for fold in folds if fold in found]

    # Tables

    def table(self, name: str) -> pd.DataFrame:
        """Return a table as a tidy frame; `frame.attrs["units"]` holds the units.

        `measures` is one row a site and measure, `pairs` (of a paired run) one row a site,
        view and measure; the others are the tables on disk.

        Raises:
            UnknownName: no table has that name.
            RunError: `pairs` was asked of a run that is no pair.
        """
        if name == "measures":
            return self.measures()
        if name == "pairs":
            return self.pair_measures()
        if name == "trends":
            return self.trends()
        if name not in TABLES:
            raise UnknownName.of("table", name, ["measures", "pairs", *TABLES])
        return self._tables.frame(name)

    def trends(
        self, names: Iterable[str] | None = None, *, site: str | Site = ""
    ) -> pd.DataFrame:
        """Return one row a window, site and rank: steps, quantiles of the values, measures.

        A run that was recorded without trends gets them from the parts of its windows where
        it has several; the frame is empty where there is no history.

        Args:
            names: quantiles ("q001" ... "q999") and measures; all when not given.
            site: only this one.

        Raises:
            UnknownName: one of `names` is no quantile and no measure.
            RunError, SchemaError: a part cannot be read; the message names it.
        """
        closed = self.manifest.state == "closed"
        return read_trends(
            self.folder, names,
            site=site.name if isinstance(site, Site) else site,
            windows=None if closed else self.manifest.windows, blocks=self.blocks,
        )  # fmt: skip

    def measures(self, names: Iterable[str] | None = None) -> pd.DataFrame:
        """Return one row a site and measure, with its value and unit."""
        what = f"measuring {self.name}"
        found = measured(self.sites, self.summary, blocks=self.blocks, names=names, what=what)
        lines = [
            (site.layer, site.block, site.role, site.expert, entry.name, value, entry.unit)
            for site, entry, value in found
        ]
        columns = ["layer", "block", "role", "expert", "measure", "value", "unit"]
        return pd.DataFrame(lines, columns=columns)

    def channel_map(self, role: str, measure: str, columns: int = COLUMNS) -> ChannelMap:
        """Return a number of every channel of a role: absmax, rms, mean, std or active.

        A row a block, and no more than so many columns: neighbours share one.

        Raises:
            UnknownName: there is no such measure, or no channels of the role.
            RunError, SchemaError: a part cannot be read; the message names it.
        """
        return channel_map(
            self.sites,
            self.load("channels").reader.columns,
            role=role,
            measure=measure,
            columns=columns,
            what=f"reading channels of {self.name}",
        )

    # Two models

    def explain(self) -> Attribution:
        """Return what made the candidate of a paired run drift.

        Raises:
            RunError: the run is no pair of two models, or damaged.
        """
        check_paired(self.manifest, self.folder)
        return explain(self)

    def pair_measures(self) -> pd.DataFrame:
        """Return one row a site, view and measure of a paired run, with unit and floor.

        Raises:
            RunError: the run is no pair of two models.
        """
        check_paired(self.manifest, self.folder)
        return pair_measures(self)


def _merged(parts: list[Any]) -> Any:
    return reduce(lambda a, b: a.merge(b), parts) if parts else None
