"""What a training was like over its steps: the numbers behind the charts of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int64

from ffn_probe.alarms import KINDS, Alarm, growth, metric_alarms, nonfinite
from ffn_probe.anatomy import Site
from ffn_probe.errors import UnknownName
from ffn_probe.figures.grid import ordered_roles
from ffn_probe.measures import measure
from ffn_probe.runs import QUANTILES, Run

FIRST_METRICS = ("loss", "grad_norm", "lr")
SPIKED = ("loss", "grad_norm")
"""The metrics whose spikes are alarms."""
POINTS = 1500  # of a metric in a chart; more are drawn as the least and the most of a stretch
_PLACE = ("layer", "block", "role", "expert")
_RANKS = ("dp", "tp", "pp", "ep")

Matrix = Float32[np.ndarray, "sites windows"]


@dataclass(frozen=True, slots=True)
class History:
    """One run over its windows: numbers of every site, metrics, alarms.

    `sites` are by layer, block, role in the order of the data flow, expert; `first` and
    `last` the steps that a window saw; `values` by name a row a site and a column a window,
    NaN where there is none, of several ranks the most unusual (float32, as on disk).
    """

    name: str
    sites: tuple[Site, ...]
    first: Int64[np.ndarray, " windows"]
    last: Int64[np.ndarray, " windows"]
    values: Mapping[str, Matrix]
    metrics: pd.DataFrame
    alarms: tuple[Alarm, ...] = ()

    @property
    def windows(self) -> int:
        """How many windows it has."""
        return int(self.last.size)

    @property
    def seen(self) -> Bool[np.ndarray, "sites windows"]:
        """Where a site has a finite value."""
        return np.asarray(np.isfinite(self.values["absmax"]))

    def site(self, name: str) -> Site:
        """Return the site of that name.

        Raises:
            UnknownName: the history has no such site.
        """
        known = {site.name: site for site in self.sites}
        if name not in known:
            raise UnknownName.of("site", name, known)
        return known[name]

    def like(self, site: Site) -> Site | None:
        """Return the site at the same layer, role and expert: another model's counterpart."""
        wanted = (site.layer, site.role, site.expert)
        found = (s for s in self.sites if (s.layer, s.role, s.expert) == wanted)
        return next(found, None)

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
    chosen = tuple(dict.fromkeys(("absmax", "nonfinite", *names)))
    found = history_of(run.trends(chosen), run.table("metrics"), chosen, label or run.name)
    return History(
        found.name, found.sites, found.first, found.last, found.values, found.metrics,
        alarms(found),
    )  # fmt: skip


def history_of(
    trends: pd.DataFrame, metrics: pd.DataFrame, names: Sequence[str], label: str
) -> History:
    """Return the history that two tables of a run hold, without alarms."""
    sites, row = _sites_of(trends)
    windows, column = np.unique(trends["window"].to_numpy(np.int64), return_inverse=True)
    first = np.full(windows.size, np.iinfo(np.int64).max)
    last = np.full(windows.size, np.iinfo(np.int64).min)
    np.minimum.at(first, column, trends["first_step"].to_numpy(np.int64))
    np.maximum.at(last, column, trends["last_step"].to_numpy(np.int64))
    several = any(trends[rank].nunique() > 1 for rank in _RANKS)
    values = {}
    for name in names:
        given = trends[name].to_numpy(np.float64)
        order = np.argsort(unusual(given, name), kind="stable") if several else slice(None)
        table = np.full((len(sites), windows.size), np.nan, np.float32)
        table[row[order], column[order]] = given[order]
        values[name] = table
    return History(label, sites, first, last, values, metrics)


def _sites_of(trends: pd.DataFrame) -> tuple[tuple[Site, ...], Int64[np.ndarray, " n"]]:
    """Return the sites of the lines, in order, and the site of every line."""
    codes, keys = [], []
    for name in _PLACE:
        code, distinct = pd.factorize(trends[name], use_na_sentinel=False)
        codes.append(np.asarray(code, np.int64))
        keys.append(list(distinct))
    key = np.zeros(len(trends), np.int64)
    for code, known in zip(codes, keys, strict=True):
        key = key * len(known) + code
    _, at, inverse = np.unique(key, return_index=True, return_inverse=True)
    found = [
        Site(int(layer), str(block), str(role), int(expert))
        for layer, block, role, expert in zip(
            *([k[c] for c in code[at]] for k, code in zip(keys, codes, strict=True)),
            strict=True,
        )
    ]
    ordered = in_order(found)
    place = {site: i for i, site in enumerate(ordered)}
    return ordered, np.array([place[site] for site in found], np.int64)[inverse]


def unusual(values: Float64[np.ndarray, " n"], name: str) -> Float64[np.ndarray, " n"]:
    """Return numbers that are the larger the more unusual a value is; NaN is -inf."""
    direction = "both" if name in QUANTILES else measure(name).direction
    turned: np.ndarray = {"low": -values, "both": np.abs(values)}.get(direction, values)
    return np.where(np.isnan(turned), -np.inf, turned)


def in_order(sites: Iterable[Site]) -> tuple[Site, ...]:
    """Return sites by layer, block, role in the order of the data flow, expert."""
    listed = list(sites)
    order = {role: i for i, role in enumerate(ordered_roles(s.role for s in listed))}
    return tuple(sorted(listed, key=lambda s: (s.layer, s.block, order[s.role], s.expert)))


def alarms(of: History) -> tuple[Alarm, ...]:
    """Return what has to be looked at, by step, then kind, then the order of the data flow.

    Metrics: where they are no numbers, and the spikes of loss and gradient norm. Sites: the
    first window with NaN or Inf, and the growth of the largest magnitude: beyond fp16
    everywhere, at `hidden` also beyond e4m3.
    """
    found: list[Alarm] = []
    for name in of.metric_names:
        some = metric_alarms(name, *of.metric(name))
        found += [a for a in some if a.kind != "spike" or name in SPIKED]
    for site, counts, peaks in zip(
        of.sites, of.values["nonfinite"], of.values["absmax"], strict=True
    ):
        seen = ~np.isnan(counts)  # windows that saw the site at all
        limits = ("e4m3", "fp16") if site.role == "hidden" else ("fp16",)
        count, peak = (x[seen].astype(np.float64) for x in (counts, peaks))
        found += nonfinite(site.name, of.last[seen], count)
        found += growth(site.name, of.last[seen], peak, limits=limits)
    order = list(KINDS)
    return tuple(sorted(found, key=lambda a: (a.step, order.index(a.kind))))


# ---- one site ---------------------------------------------------------------------------


def quantiles(run: Run) -> History:
    """Return the quantiles of the values of every site: a history without metrics, alarms.

    Raises:
        RunError, SchemaError: a part cannot be read.
    """
    none = pd.DataFrame({"step": [], "name": [], "value": []})
    return history_of(run.trends(QUANTILES), none, tuple(QUANTILES), run.name)


def site_lines(of: History, bands: History, site: Site | None, name: str) -> pd.DataFrame:
    """Return the steps, quantiles and a measure of one site, a row a window that saw it.

    Args:
        of: the history, which has the measure among its values.
        bands: the `quantiles` of the same run.
        site: which; of None there are no rows.
        name: the measure.
    """
    columns: dict[str, np.ndarray] = {"first_step": of.first, "last_step": of.last}
    row = of.sites.index(site) if site in of.sites else -1
    for key in QUANTILES:
        columns[key] = bands.values[key][row] if row >= 0 else of.last * np.nan
    columns[name] = of.values[name][row] if row >= 0 else of.last * np.nan
    frame = pd.DataFrame(columns)
    seen = ~np.isnan(of.values["nonfinite"][row]) if row >= 0 else np.zeros(of.windows, bool)
    return frame[seen].reset_index(drop=True)


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
