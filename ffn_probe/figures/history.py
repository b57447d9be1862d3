"""What a training was like over its steps: the numbers behind the charts of it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from ffn_probe.alarms import KINDS, Alarm, growth, metric_alarms, nonfinite
from ffn_probe.anatomy import Site
from ffn_probe.errors import UnknownName
from ffn_probe.figures.grid import ordered_roles
from ffn_probe.measures import measure
from ffn_probe.runs import QUANTILES, Run

FIRST_METRICS = ("loss", "grad_norm", "lr")
POINTS = 1500  # of a metric in a chart; more are drawn as the least and the most of a stretch
PLACES = ("layer", "block", "role", "expert")


@dataclass(frozen=True, slots=True)
class History:
    """The trends and metrics of one run, with the numbers that a page needs."""

    name: str
    trends: pd.DataFrame
    metrics: pd.DataFrame
    alarms: tuple[Alarm, ...]

    @property
    def windows(self) -> int:
        """How many windows it has."""
        return int(self.trends["window"].nunique())

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site, by layer, block, role in the order of the data flow, expert."""
        keys = self.trends[list(PLACES)].drop_duplicates()
        return in_order(_site(row) for row in keys.itertuples(index=False, name=None))

    def site(self, name: str) -> Site:
        """Return the site of that name.

        Raises:
            UnknownName: the history has no such site.
        """
        for site in self.sites:
            if site.name == name:
                return site
        raise UnknownName.of("site", name, [site.name for site in self.sites])

    def like(self, site: Site) -> Site | None:
        """Return the site at the same layer, role and expert: another model's counterpart."""
        for other in self.sites:
            if (other.layer, other.role, other.expert) == (site.layer, site.role, site.expert):
                return other
        return None

    def metric(self, name: str) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Return the steps and values of a metric, by step."""
        chosen = self.metrics[self.metrics["name"] == name].sort_values("step", kind="stable")
        return chosen["step"].to_numpy(np.int64), chosen["value"].to_numpy(np.float64)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics it has: loss, grad_norm and lr first."""
        names = set(self.metrics["name"])
        first = [name for name in FIRST_METRICS if name in names]
        return (*first, *sorted(names - set(first)))


def history(run: Run, names: Sequence[str] = (), *, label: str = "") -> History:
    """Return the history of a run with these numbers of every site, and its alarms.

    Raises:
        UnknownName: one of `names` is no measure and no quantile.
        RunError, SchemaError: a part cannot be read.
    """
    trends = run.trends(dict.fromkeys(("absmax", "nonfinite", *names)))
    metrics = run.table("metrics")
    return History(label or run.name, trends, metrics, alarms(trends, metrics))


def alarms(trends: pd.DataFrame, metrics: pd.DataFrame) -> tuple[Alarm, ...]:
    """Return what has to be looked at, by step, then kind, then the order of the data flow.

    Metrics: where they are no numbers, and the spikes of loss and gradient norm. Sites: the
    first window with NaN or Inf, and the growth of the largest magnitude: beyond fp16
    everywhere, beyond e4m3 where a format's numbers are wanted, at `hidden`.
    """
    found: list[Alarm] = []
    for name, lines in metrics.groupby("name", sort=True):
        line = lines.sort_values("step", kind="stable")
        steps, values = (line[c].to_numpy(t) for c, t in (("step", np.int64), ("value", float)))
        some = metric_alarms(str(name), steps, values)
        found += [a for a in some if a.kind != "spike" or name in {"loss", "grad_norm"}]
    by_site = {
        _site(keys): lines
        for keys, lines in trends.groupby(list(PLACES), sort=False, observed=True)
    }
    for site in in_order(by_site):
        lines = by_site[site]
        steps = lines["last_step"].to_numpy(np.int64)
        counts, peaks = (lines[c].to_numpy(np.float64) for c in ("nonfinite", "absmax"))
        limits = ("e4m3", "fp16") if site.role == "hidden" else ("fp16",)
        found += nonfinite(site.name, steps, counts)
        found += growth(site.name, steps, peaks, limits=limits)
    order = list(KINDS)
    return tuple(sorted(found, key=lambda a: (a.step, order.index(a.kind))))


def in_order(sites: Iterable[Site]) -> tuple[Site, ...]:
    """Return sites by layer, block, role in the order of the data flow, expert."""
    listed = list(sites)
    order = {role: i for i, role in enumerate(ordered_roles(s.role for s in listed))}
    return tuple(sorted(listed, key=lambda s: (s.layer, s.block, order[s.role], s.expert)))


def one_site(lines: pd.DataFrame) -> Site:
    """Return the site of lines that are all of one."""
    return _site(next(lines[list(PLACES)].itertuples(index=False, name=None)))


def _site(keys: Any) -> Site:
    layer, block, role, expert = keys
    return Site(int(layer), str(block), str(role), int(expert))


# ---- one site ---------------------------------------------------------------------------


def site_lines(run: Run, site: Site | None, name: str) -> pd.DataFrame:
    """Return the quantiles and a measure of one site, a row a window; of none no rows.

    Of several ranks it is the first that is shown.

    Raises:
        RunError, SchemaError: a part cannot be read.
    """
    lines = run.trends((*QUANTILES, name), site=site or "")
    if site is None:
        lines = lines.iloc[:0]
    return lines.drop_duplicates("window")


def thinned(
    steps: Int64[np.ndarray, " n"], values: Float64[np.ndarray, " n"], most: int = POINTS
) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Return at most `most` points that keep the least and the most of every stretch."""
    if steps.size <= most:
        return steps, values
    chosen: list[int] = []
    for part in np.array_split(np.arange(steps.size), most // 2):
        known = part[np.isfinite(values[part])]
        if known.size:
            ends = known[np.argmin(values[known])], known[np.argmax(values[known])]
            chosen += sorted({int(end) for end in ends})
        else:
            chosen.append(int(part[0]))
    return steps[chosen], values[chosen]


# ---- layers over steps ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepGrid:
    """A measure over rows (layers or roles) and windows, neighbours put together.

    `edges` are the steps where columns begin and end; `values` the most unusual value of
    the windows, experts and ranks in a cell (NaN: none), `steps` the last step of its window.
    `names` are the sites of a cell.
    """

    rows: tuple[str, ...]
    names: tuple[str, ...]
    edges: Int64[np.ndarray, " edges"]
    values: Float64[np.ndarray, "rows columns"]
    steps: Int64[np.ndarray, "rows columns"]
    together: int


def step_grid(
    trends: pd.DataFrame, name: str, site: Site, *, by: str = "layer", most: int = 600
) -> StepGrid:
    """Return a measure of all layers at the role of `site`, or of all roles of its block.

    Args:
        trends: the windows of every site, with the column `name`.
        name: the measure.
        site: which role (by layer) or which block (by role).
        by: "layer" or "role".
        most: columns; of more windows, neighbours share one by the most unusual value.
    """
    same = trends["role" if by == "layer" else "block"] == (
        site.role if by == "layer" else site.block
    )
    chosen = trends[same & trends[name].notna()]
    rows = _row_sites(trends[same])
    windows = np.unique(trends["window"].to_numpy())
    together = max(1, math.ceil(windows.size / most))
    column = np.searchsorted(windows, chosen["window"].to_numpy()) // together
    known = pd.MultiIndex.from_tuples(
        [(s.block, s.role) for s in rows], names=["block", "role"]
    )
    keys = pd.MultiIndex.from_frame(chosen[["block", "role"]].astype(object))
    row = known.get_indexer(keys)
    width = math.ceil(windows.size / together)
    values = np.full((len(rows), width), np.nan)
    steps = np.zeros((len(rows), width), np.int64)
    order = np.argsort(_unusual(chosen[name].to_numpy(np.float64), name), kind="stable")
    last = chosen["last_step"].to_numpy(np.int64)
    values[row[order], column[order]] = chosen[name].to_numpy(np.float64)[order]
    steps[row[order], column[order]] = last[order]
    labels = tuple(str(s.layer) if by == "layer" else s.role for s in rows)
    edges = _edges(trends, together)
    return StepGrid(labels, tuple(s.name for s in rows), edges, values, steps, together)


def _row_sites(trends: pd.DataFrame) -> list[Site]:
    """Return one site a row: layers by depth, or roles in the order of the data flow."""
    keys = trends[list(PLACES)].drop_duplicates(["block", "role"])
    sites = [_site(row) for row in keys.itertuples(index=False, name=None)]
    return list(in_order(sites))


def _unusual(values: Float64[np.ndarray, " n"], name: str) -> Float64[np.ndarray, " n"]:
    """Return numbers that are the larger the more unusual a value is."""
    direction = "both" if name in QUANTILES else measure(name).direction
    found: np.ndarray = {"low": -values, "both": np.abs(values)}.get(direction, values)
    return found


def _edges(trends: pd.DataFrame, together: int) -> Int64[np.ndarray, " edges"]:
    """Return where the columns begin, in steps, and where the last ends."""
    windows = trends.groupby("window")
    starts = windows["first_step"].min().to_numpy(np.int64)[::together]
    end = windows["last_step"].max().to_numpy(np.int64)[-1:] + 1
    edges: np.ndarray = np.concatenate([starts, end])
    return edges
