"""The numbers of one site of a comparison: as tables of the page, and as its machine twin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from dash import html

from dashboard.components.page import Content
from dashboard.components.table import status, table
from ffn_probe.compare import Change, Drift, SiteDrift
from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.fold_changes import FoldChange, fold_changes, intervals
from ffn_probe.compare.fold_table import FoldTable
from ffn_probe.compare.quantile_shift import QuantileShift, quantile_shift
from ffn_probe.compare.statistic import BY_NAME
from ffn_probe.compare.tolerance import multiple, times_noise
from ffn_probe.figures.density import Density
from ffn_probe.figures.folds import FoldRow, fold_rows
from ffn_probe.figures.numbers import number
from ffn_probe.figures.quantile_shift import percent
from ffn_probe.report.words import times

Interval = tuple[float, float]

_HEAD = ("status", "aspect", "statistic", "value", "95 % interval", "unit", "threshold",
         "\u00d7 thr.", "floor", "\u00d7 floor", "visible", "detail")  # fmt: skip
_SHOWN = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 0.9999)
_CHANNELS = 12


@dataclass(frozen=True, slots=True, eq=False)
class SiteNumbers:
    """What a site's page shows, made once for two runs."""

    a: Evidence
    b: Evidence
    moved: QuantileShift | None
    folds: Mapping[str, FoldChange]
    intervals: Mapping[str, Interval]
    rows: tuple[FoldRow, ...]


def site_numbers(drift: Drift, site: SiteDrift) -> SiteNumbers:
    """Return the numbers of a site.

    Raises:
        UnknownName: it is none of this drift.
    """
    a, b = drift.evidence(site)
    gate = site.role in BY_NAME["gate_open"].roles
    folds = FoldTable.of(a, b, gate=gate, paired=drift.paired)
    changed = fold_changes(folds) if folds else {}
    values = {c.statistic: c.value for c in site.changes}
    held = intervals(folds, values) if folds else {}
    rows = fold_rows(site.changes, changed, held)
    return SiteNumbers(a, b, quantile_shift(a, b, folds), changed, held, rows)


# ---- statistics -------------------------------------------------------------------------


def statistics_table(site: SiteDrift, numbers: SiteNumbers) -> Content:
    """Return every change of a site, the worst first."""
    held = numbers.intervals
    rows = [_statistic(change, held.get(change.statistic)) for change in _ranked(site)]
    a, b = (f"{x.whole.count:,}" for x in (numbers.a, numbers.b))
    folds = site.changes[0].folds
    caption = (
        f"{len(rows)} statistics of {a} and {b} values in {folds} folds, the worst first. "
        "The interval is a bootstrap over the folds; single largest values and channels have "
        "none. Visible: the smallest change that is reported 4 times in 5."
    )
    return table(_HEAD, rows, caption=caption, right=(3, 4, 6, 7, 8, 9, 10))


def _ranked(site: SiteDrift) -> list[Change]:
    return sorted(site.changes, key=lambda change: change.severity, reverse=True)


def _statistic(change: Change, held: Interval | None) -> list[Content]:
    return [
        status(change.status), change.aspect,
        html.Span(change.statistic, title=BY_NAME[change.statistic].label),
        number(change.value, signed=True), interval(held), change.unit,
        html.Span(number(change.threshold), title=change.provenance),
        number(multiple(change)), number(change.floor), times(change),
        number(change.mde), html.Span(change.detail, className="detail"),
    ]  # fmt: skip


def interval(held: Interval | None) -> str:
    """Return "+0.1 to +0.3"; a dash where there is none."""
    return "-" if held is None else " to ".join(number(end, signed=True) for end in held)


def statistics_frame(site: SiteDrift, held: Mapping[str, Interval]) -> pd.DataFrame:
    """Return every change of a site with every number in full."""
    none = (np.nan, np.nan)
    return pd.DataFrame([
        {
            "aspect": c.aspect, "statistic": c.statistic, "status": c.status, "value": c.value,
            "low": held.get(c.statistic, none)[0], "high": held.get(c.statistic, none)[1],
            "unit": c.unit, "threshold": c.threshold, "times_threshold": multiple(c),
            "floor": c.floor, "times_floor": times_noise(c), "repeat_floor": c.repeat_floor,
            "mde": c.mde, "folds": c.folds, "provenance": c.provenance, "detail": c.detail,
        }
        for c in _ranked(site)
    ])  # fmt: skip


# ---- distributions ----------------------------------------------------------------------


def quantile_table(moved: QuantileShift) -> Content:
    """Return the quantiles that matter, of both runs."""
    frame = quantiles_frame(moved)
    chosen = {int(np.abs(moved.shares - share).argmin()) for share in _SHOWN}
    rows = [
        [
            percent(row["quantile"]), number(row["a"]), number(row["b"]),
            number(row["shift"], signed=True), number(row["shift_in_sigmas"], signed=True),
            number(row["chance"]),
        ]
        for i, row in enumerate(frame.to_dict("records"))
        if i in chosen
    ]  # fmt: skip
    head = ("quantile", "A", "B", "B less A", "in sigmas", "chance, \u00b1")
    caption = "Quantiles in the unit of the tensor; sigma is the robust one of A."
    return table(head, rows, caption=caption, right=range(6))


def quantiles_frame(moved: QuantileShift) -> pd.DataFrame:
    """Return every quantile of both runs, and what chance moves it by."""
    band = np.full(moved.shares.size, np.nan) if moved.band is None else moved.band
    return pd.DataFrame({
        "quantile": moved.shares, "a": moved.a, "b": moved.b, "shift": moved.shift,
        "shift_in_sigmas": moved.shift / moved.sigma, "chance": band,
    })  # fmt: skip


def density_table(density: Density) -> Content:
    """Return the bins that hold values."""
    frame = density_frame(density)
    rows = [
        [number(value) for value in row]
        for row in frame[(frame.share_a > 0) | (frame.share_b > 0)].to_numpy().tolist()
    ]
    caption = "Bins of the charts: edges in the unit of the tensor, shares of the values."
    return table(("from", "to", "share of A", "share of B"), rows, caption=caption,
                 right=range(4))  # fmt: skip


def density_frame(density: Density) -> pd.DataFrame:
    """Return the bins of a density, with the share of either run in them."""
    edges, widths = density.values(density.edges), np.diff(density.edges)
    return pd.DataFrame({
        "low": edges[:-1], "high": edges[1:],
        "share_a": density.a * widths, "share_b": density.b * widths,
    })  # fmt: skip


def counts_table(numbers: SiteNumbers, names: tuple[str, str]) -> Content:
    """Return how many values either run has, and which of them are not finite."""
    rows = []
    for name, x, side in zip(names, (numbers.a, numbers.b), "ab", strict=True):
        rows.append([
            html.Span(name, className=side), f"{x.seen:,}", f"{x.nan:,}",
            f"{x.pos_inf:,}", f"{x.neg_inf:,}", f"{x.whole.count:,}", f"{x.whole.zeros:,}",
            str(len(x.folds)), x.dtype,
        ])  # fmt: skip
    head = ("run", "values seen", "NaN", "+Inf", "\u2212Inf", "finite values sampled",
            "exact zeros", "folds", "dtype")  # fmt: skip
    caption = "Non-finite values are counted over all rows; distributions are of the sample."
    return table(head, rows, caption=caption, right=range(1, 8))


# ---- folds ------------------------------------------------------------------------------


def folds_table(rows: Sequence[FoldRow]) -> Content:
    """Return what the chart of folds shows."""
    cells = [
        [
            row.change.statistic, row.change.unit, number(row.change.value, signed=True),
            interval(row.interval), number(row.change.floor), *_spread(row.folds.across),
            *_spread(row.folds.within),
        ]
        for row in rows
    ]  # fmt: skip
    head = ("statistic", "unit", "the whole", "95 % interval", "floor", "folds A to B, least",
            "median", "most", "folds of A, least", "median", "most")  # fmt: skip
    caption = "The change of the whole, of each fold, and of each fold of A by chance."
    return table(head, cells, caption=caption, right=range(2, 11))


def _spread(values: np.ndarray) -> list[str]:
    known = values[np.isfinite(values)]
    if not known.size:
        return ["-", "-", "-"]
    return [number(float(x), signed=True) for x in np.quantile(known, [0, 0.5, 1])]


def folds_frame(folds: Mapping[str, FoldChange]) -> pd.DataFrame:
    """Return one row a statistic, fold and side."""
    found: list[Mapping[str, Any]] = []
    for name, change in folds.items():
        for fold, value in zip(change.folds, change.across.tolist(), strict=True):
            found.append({"statistic": name, "of": "a to b", "fold": fold, "value": value})
        for fold, value in zip(change.own, change.within.tolist(), strict=True):
            found.append({"statistic": name, "of": "within a", "fold": fold, "value": value})
    return pd.DataFrame(found, columns=["statistic", "of", "fold", "value"])
