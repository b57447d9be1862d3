"""Every site of a comparison as rows: in the table of the page and in its machine twin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from dash import dcc

from dashboard.components.control import Option
from dashboard.components.page import Content, href
from dashboard.components.table import status, table
from dashboard.components.threshold import held
from ffn_probe.compare import Change, Drift, SiteDrift
from ffn_probe.compare.tolerance import (
    Tolerance,
    changes_of,
    multiple,
    times_noise,
    tolerance,
    worst_of,
)
from ffn_probe.compare.words import in_words
from ffn_probe.figures.grid import View
from ffn_probe.report.words import number, place, times

SORT: Sequence[Option] = (("severity", "failures first"), ("depth", "as in the heatmap"))
ONLY: Sequence[Option] = (("", "all sites"), ("fail", "what does not pass"))
ROWS: Sequence[Option] = (("", "200"), ("all", "all"))

_FEW, _MOST = 200, 2000  # rows that are drawn at first, and ever; the twin has all
_HEAD = ("status", "site", "aspect", "statistic", "value", "unit", "threshold",
         "times threshold", "floor", "times floor", "folds", "block")  # fmt: skip
_NUMBERS = (4, 6, 7, 8, 9, 10)


@dataclass(frozen=True, slots=True)
class Row:
    """A site with the worst of its changes of an aspect, and how much it tolerates."""

    site: SiteDrift
    change: Change
    tolerance: Tolerance


def listed(drift: Drift, aspect: str, sort: str) -> list[Row]:
    """Return the sites that have a change of the aspect, the worst first, or by depth."""
    found = [
        Row(site, worst, tolerance(changes_of(site, aspect)))
        for site in drift.sites
        if (worst := worst_of(site, aspect)) is not None
    ]
    if sort == "depth":
        return found
    return sorted(found, key=lambda row: row.change.severity, reverse=True)


def sites_table(
    rows: Sequence[Row], a: str, b: str, *, everything: bool, failing: bool
) -> Content:
    """Return the rows as a table; their statuses follow the slider over the thresholds.

    Where only what fails is asked for, the style sheet hides what passes at the slider's
    thresholds; the rows are then the worst ones, in the same order.
    """
    most = _MOST if everything else _FEW
    kept: Sequence[int] = range(min(most, len(rows)))
    if failing and len(rows) > most:
        ranked = sorted(
            range(len(rows)), key=lambda i: rows[i].tolerance.warns_below, reverse=True
        )
        kept = sorted(ranked[:most])
    cells = [_cells(rows[i], a, b) for i in kept]
    number_of = f"{len(rows):,} sites"
    if len(cells) < len(rows):
        number_of = f"{len(cells):,} of {number_of}"
    caption = f"{number_of}, each with its worst change."
    if failing:
        caption = f"Of {number_of}, those that do not pass, each with its worst change."
    return table(_HEAD, cells, caption=caption, right=_NUMBERS)


def _cells(row: Row, a: str, b: str) -> list[Content]:
    site, change = row.site, row.change
    where = href("/compare/site", a=a, b=b, site=site.name)
    return [
        held(status(row.tolerance.status()), row.tolerance.steps()),
        dcc.Link(f"layer {site.layer} {place(site)}", href=where),
        change.aspect,
        change.statistic,
        number(change.value, signed=True),
        change.unit,
        number(change.threshold),
        number(multiple(change)),
        number(change.floor),
        times(change),
        str(change.folds),
        site.block_b,
    ]


def sites_frame(rows: Sequence[Row], view: View) -> pd.DataFrame:
    """Return the rows with every number in full; `status` is the verdict's, at 1."""
    return pd.DataFrame([_record(row, view) for row in rows])


def _record(row: Row, view: View) -> Mapping[str, Any]:
    site, change = row.site, row.change
    return {
        "layer": site.layer, "role": site.role, "expert": site.expert,
        "block_a": site.block_a, "block_b": site.block_b,
        "status": row.tolerance.status(),
        "status_at_multiplier": row.tolerance.status(view.multiplier),
        "multiplier": view.multiplier, "aspect": change.aspect, "statistic": change.statistic,
        "value": change.value, "unit": change.unit, "threshold": change.threshold,
        "times_threshold": multiple(change), "floor": change.floor,
        "times_floor": times_noise(change), "repeat_floor": change.repeat_floor,
        "mde": change.mde, "folds": change.folds, "headline": in_words(change),
    }  # fmt: skip
