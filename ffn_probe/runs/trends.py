"""Trends: what every site was like in each window, as single numbers, for the whole history.

A recording merges the sketches of old windows (`runs.compact`), so that a long training keeps
the size of the model's shape; its trends stay, one row a window, site and rank. With DuckDB:

    SELECT last_step, absmax FROM 'runs/base/trends/*.parquet'
    WHERE role = 'hidden' AND layer = 3 ORDER BY last_step;

A run that was recorded before there were trends gets them from the parts of its windows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ffn_probe.anatomy import Block
from ffn_probe.errors import UnknownName
from ffn_probe.measures import MEASURES, MeasureInput, measure_all
from ffn_probe.runs.parts import (
    PartName,
    opened,
    part_files,
    read_groups,
    read_part,
    read_parts,
    rows_of,
    unrepeated,
)
from ffn_probe.runs.schema import KEYS, QUANTILES, TABLES, WHOLE
from ffn_probe.sketches import (
    BitHistogram,
    Channels,
    Extremes,
    Joint,
    Moments,
    QuantNoise,
    Summary,
)
from ffn_probe.sketches.summary import merged_dtype

TABLE = "trends"
NUMBERS: tuple[str, ...] = (*QUANTILES, *(entry.name for entry in MEASURES))
"""The columns that can be chosen: quantiles of the values, then every measure."""

_PLACE = ("layer", "block", "role", "expert", "dp", "tp", "pp", "ep")
_BLOCK = ("layer", "block", "dp", "tp", "pp", "ep")
_SHOWN = (*KEYS, "first_step", "last_step", "rows")
_KINDS: Mapping[str, Any] = {
    "moments": Moments,
    "histograms": BitHistogram,
    "channels": Channels,
    "extremes": Extremes,
    "joint": Joint,
    "quant": QuantNoise,
}

Row = Mapping[str, Any]
Place = tuple[Any, ...]


# ---- making them ------------------------------------------------------------------------


def trend_rows(
    tables: Mapping[str, Sequence[Row]],
    blocks: Iterable[Block],
    *,
    window: int,
    steps: tuple[int, int],
) -> list[dict[str, Any]]:
    """Return one row a site and rank of a window, from the rows of its other tables.

    Args:
        tables: table name -> rows as `RunWriter.write_window` takes them.
        blocks: the blocks that were probed; some measures depend on the activation.
        window: the window's ordinal.
        steps: the first and the last step that the window saw.
    """
    known = {block.name: block for block in blocks}
    listed: dict[Place, dict[Place, dict[str, list[Row]]]] = {}
    for table in _KINDS:
        for row in tables.get(table, ()):
            site = tuple(row[name] for name in _PLACE)
            of_block = listed.setdefault(tuple(row[name] for name in _BLOCK), {})
            of_block.setdefault(site, {}).setdefault(table, []).append(row)
    first = {"window": window, "fold": WHOLE, "first_step": steps[0], "last_step": steps[1]}
    found = []
    for sites in listed.values():
        summaries = {site: _summary(rows) for site, rows in sites.items() if "moments" in rows}
        for site, summary in summaries.items():
            keys = dict(zip(_PLACE, site, strict=True))
            beside = {
                other[2]: of for other, of in summaries.items() if other[3] in {-1, site[3]}
            }
            given = MeasureInput(summary, keys["role"], known.get(keys["block"]), beside)
            found.append(first | keys | {"rows": summary.seen_rows} | _numbers(given))
    return found


def _numbers(given: MeasureInput) -> dict[str, float]:
    values = dict.fromkeys(NUMBERS, float("nan"))
    shares = np.array(list(QUANTILES.values()))
    quantiles = given.summary.histogram.quantile(shares).tolist()
    values |= dict(zip(QUANTILES, quantiles, strict=True))
    return values | {entry.name: value for entry, value in measure_all(given)}


def _summary(tables: Mapping[str, Sequence[Row]]) -> Summary:
    """Return the summary of a site from its rows of one window."""
    own = {
        table: [_KINDS[table].from_row(row) for row in rows if _wanted(table, row, rows)]
        for table, rows in tables.items()
    }

    def merged(table: str) -> Any:
        return reduce(lambda a, b: a.merge(b), own[table]) if own.get(table) else None

    moments = tables["moments"]
    dtypes = [row["dtype"] for row in moments]
    return Summary(
        sum(row["seen_rows"] for row in moments),
        sum(row["sampled_rows"] for row in moments),
        merged("moments"),
        merged("histograms") or BitHistogram.empty(),
        merged("channels") or Channels.empty(0),
        merged("extremes") or Extremes.empty(),
        merged("joint"),
        merged("quant") or QuantNoise.empty(),
        reduce(merged_dtype, dtypes, ""),
    )


def _wanted(table: str, row: Row, rows: Sequence[Row]) -> bool:
    """Whether a row counts: the histogram of the whole window stands for those of its folds."""
    if table != "histograms" or row["fold"] == WHOLE:
        return True
    return all(other["fold"] != WHOLE for other in rows)


# ---- reading them -----------------------------------------------------------------------


def read_trends(
    folder: Path,
    names: Iterable[str] | None = None,
    *,
    site: str = "",
    windows: int | None = None,
    blocks: Iterable[Block] = (),
) -> pd.DataFrame:
    """Return the trends of a run folder, by window; `frame.attrs["units"]` holds the units.

    Columns: the keys, `first_step`, `last_step`, `rows` and the chosen numbers. A number that
    does not apply, or that the recording did not know, is NaN. A window whose steps nobody
    recorded has its ordinal in their place.

    Args:
        folder: the folder of the run.
        names: quantiles and measures (`NUMBERS`); all when not given.
        site: only this site, "block/role" with "#3" behind it for expert 3.
        windows: only the first so many.
        blocks: of the manifest, for a run that was recorded without trends.

    Raises:
        UnknownName: one of `names` is no number of the trends.
        RunError, SchemaError: a part cannot be read; the message names it.
    """
    chosen = NUMBERS if names is None else tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in NUMBERS:
            raise UnknownName.of("measure or quantile", name, NUMBERS)
    columns = [*_SHOWN, *chosen]
    schema = TABLES[TABLE]
    paths = part_files(folder, TABLE, windows=windows)
    parts = [
        _of_site(data, site).select(columns)
        for _, data in unrepeated((path, _part(path, columns)) for path in paths)
    ]
    if not parts:
        parts = [_derived(folder, windows, blocks, site).select(columns)]
    data = pa.concat_tables(parts).unify_dictionaries()
    frame: pd.DataFrame = data.to_pandas().sort_values("window", kind="stable")
    frame = frame.reset_index(drop=True)
    frame.attrs["units"] = {
        name: schema.field(name).metadata[b"unit"].decode() for name in frame.columns
    }
    return frame


def _part(path: Path, columns: Sequence[str]) -> pa.Table:
    with opened(path, TABLE) as file:
        return read_groups(file, TABLE, path, columns=columns)


def _of_site(data: pa.Table, site: str) -> pa.Table:
    """Return the rows of one site ("": all), names as dictionaries."""
    for name in ("block", "role"):
        at = data.schema.get_field_index(name)
        data = data.set_column(at, name, pc.dictionary_encode(data.column(name)))
    if not site:
        return data
    path, _, expert = site.partition("#")
    block, _, role = path.rpartition("/")
    wanted = pc.and_(
        pc.and_(pc.equal(data.column("block"), block), pc.equal(data.column("role"), role)),
        pc.equal(data.column("expert"), int(expert) if expert.isdecimal() else -1),
    )
    return data.filter(wanted)


# ---- from what there was before them ----------------------------------------------------


def _derived(folder: Path, windows: int | None, blocks: Iterable[Block], site: str) -> pa.Table:
    """Return the trends of the windows that still have parts of their own, if there are two."""
    parts = _window_parts(folder, windows)
    lines: list[dict[str, Any]] = []
    if len(parts) > 1:
        known, steps = tuple(blocks), _steps(folder, windows)
        wanted = site.partition("#")[0].rpartition("/")[0]
        for window, paths in sorted(parts.items()):
            tables = {t: list(_rows(found, t, wanted)) for t, found in paths.items()}
            span = steps.get(window) or _steps_of(tables.get("extremes", ()), window)
            lines += trend_rows(tables, known, window=window, steps=span)
    schema = TABLES[TABLE]
    columns = {f.name: pa.array([line[f.name] for line in lines], f.type) for f in schema}
    return _of_site(pa.Table.from_pydict(columns, schema=schema), site)


def _window_parts(folder: Path, windows: int | None) -> dict[int, dict[str, list[Path]]]:
    found: dict[int, dict[str, list[Path]]] = {}
    for table in _KINDS:
        for path in part_files(folder, table, windows=windows):
            named = PartName.of(path)
            if named is not None and not named.merged:
                found.setdefault(named.first, {}).setdefault(table, []).append(path)
    return found


def _rows(paths: Iterable[Path], table: str, block: str) -> Iterator[Row]:
    """Yield the rows of some parts, of one block only unless it is ""."""
    for _, data in unrepeated((path, read_part(path, table)) for path in paths):
        chosen = data.filter(pc.equal(data.column("block"), block)) if block else data
        yield from rows_of(chosen)


def _steps(folder: Path, windows: int | None) -> dict[int, tuple[int, int]]:
    """Return the first and last step of each window that has metrics."""
    found: dict[int, tuple[int, int]] = {}
    for _, data in read_parts(folder, "metrics", windows=windows):
        for window, step in zip(
            *(data.column(c).to_pylist() for c in ("window", "step")), strict=True
        ):
            first, last = found.get(window, (step, step))
            found[window] = min(first, step), max(last, step)
    return found


def _steps_of(extremes: Sequence[Row], window: int) -> tuple[int, int]:
    """Return the first and last step at which a largest value was seen, else the ordinal."""
    seen = [row["top_step"] for row in extremes if row["top_step"].size]
    steps = np.concatenate([np.zeros(0, np.int64), *seen])
    steps = steps[steps >= 0]
    return (int(steps.min()), int(steps.max())) if steps.size else (window, window)
