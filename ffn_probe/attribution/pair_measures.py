"""The measures of a paired run as one table: for a person, a budget, a chart."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ffn_probe.attribution.floors import sqnr_db
from ffn_probe.attribution.pair_tables import BY_ROLE, PairedRun, PairTables
from ffn_probe.attribution.site_pair import SitePair

COLUMNS = ["layer", "block", "role", "view", "measure", "value", "unit", "floor"]

_OF_SITE: Mapping[str, tuple[str, Callable[[SitePair], float]]] = {
    "sqnr_db": ("dB", lambda site: site.sqnr_db),
    "relative_l2": ("ratio", lambda site: site.relative_l2),
    "cosine": ("cosine", lambda site: site.cosine),
    "norm_ratio": ("ratio", lambda site: site.norm_ratio),
    "max_abs": ("unit of the tensor", lambda site: site.max_abs if site.paired else math.nan),
    "ulp_share": ("share", lambda site: site.ulp_share),
    "cka": ("cka", lambda site: site.cka),
    "nonfinite_a": ("values", lambda site: float(site.nonfinite[0])),
    "nonfinite_b": ("values", lambda site: float(site.nonfinite[1])),
}

PAIR_MEASURES: tuple[str, ...] = (
    *_OF_SITE, "cosine_standardised", "gain_slope_median", "gain_slope_min", "gain_slope_max",
    "ks", "w1_asinh", "psi", "kl", "top1", "loss_difference",
)  # fmt: skip
"""Every measure by name; `ks` to `psi` are distances between the distributions of values that
are not paired, and the last three are of the model's output (role "logits")."""


def pair_measures(run: PairedRun) -> pd.DataFrame:
    """Return one row a site, view and measure of a paired run; what cannot be is NaN.

    `floor` is the same measure of the reference against itself; that of `sqnr_db` (and of
    `relative_l2`, which follows) is at most what another order of the same sums allows. Views
    are those of the table `paired` but "noise"; the model's output is layer -1, role "logits".
    Sites whose values were not paired have a `cka`, and where they were measured the distances
    of their distributions. Experts are added up.
    """
    return measures_of(PairTables.of(run))


def measures_of(tables: PairTables) -> pd.DataFrame:
    """Return `pair_measures` of tables that were read."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lines = [row for layer, block in tables.places for row in _block(tables, layer, block)]
        lines += _output(tables)
    return pd.DataFrame(lines, columns=COLUMNS)


def _block(tables: PairTables, layer: int, block: str) -> Iterator[dict[str, Any]]:
    for view in ("end", "local", "stage", "inherited"):
        for role in tables.roles(block, view):
            floors = _site(tables, block, role, "noise")
            limit = tables.floor_db(block, role)
            floors |= {"sqnr_db": limit, "relative_l2": float(np.power(10.0, -limit / 20))}
            for measure, value in _site(tables, block, role, view).items():
                yield _line(
                    (layer, block, role, view), measure, value, floors.get(measure, math.nan)
                )


def _site(tables: PairTables, block: str, role: str, view: str) -> dict[str, float]:
    """Return measure -> value of a site in a view; of unpaired values CKA and distances."""
    site = tables.site(block, role, view)
    if site is None:
        return {}
    if site.reason:
        apart = tables.effects(BY_ROLE, block).get(role, {})
        return {"cka": site.cka} | {name: effect.mean for name, effect in apart.items()}
    found = {name: measured(site) for name, (_, measured) in _OF_SITE.items()}
    channels = tables.channels(block, role, view)
    if channels is not None:
        found["cosine_standardised"] = channels.cosine_standardised
        slopes = channels.gain_slopes
        if slopes.size:
            found["gain_slope_median"] = float(np.median(slopes))
            found["gain_slope_min"] = float(slopes.min())
            found["gain_slope_max"] = float(slopes.max())
    return found


def _output(tables: PairTables) -> Iterator[dict[str, Any]]:
    effects = tables.effects("output")
    values, floors = (_of_output(effects.get(part, {})) for part in ("candidate", "noise"))
    for measure, value in values.items():
        floor = floors.get(measure, math.nan)
        if measure == "sqnr_db":
            floor = tables.output_floor_db
        yield _line((-1, "", "logits", "end"), measure, value, floor)


def _of_output(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    if {"error", "energy"} <= metrics.keys():
        found["sqnr_db"] = sqnr_db(metrics["energy"].total, metrics["error"].total)
    found |= {name: metrics[name].mean for name in ("kl", "top1") if name in metrics}
    if {"loss_a", "loss_b"} <= metrics.keys():
        found["loss_difference"] = metrics["loss_b"].mean - metrics["loss_a"].mean
    return found


_UNITS: Mapping[str, str] = {
    **{name: unit for name, (unit, _) in _OF_SITE.items()},
    "cosine_standardised": "cosine",
    "gain_slope_median": "ratio",
    "gain_slope_min": "ratio",
    "gain_slope_max": "ratio",
    "ks": "share",
    "w1_asinh": "asinh of robust sigmas",
    "psi": "nats",
    "kl": "nats a token",
    "top1": "share",
    "loss_difference": "nats a token",
}


def _line(
    where: tuple[int, str, str, str], measure: str, value: float, floor: float
) -> dict[str, Any]:
    return dict(zip(COLUMNS, (*where, measure, value, _UNITS[measure], floor), strict=True))
