"""Which sites of a run stand out, and by which measures."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ffn_probe.anatomy import Site
from ffn_probe.measures import measure

STANDOUT: tuple[str, ...] = (
    "nonfinite", "absmax", "crest", "kurtosis_fisher", "spike_ratio", "dead_share",
    "outlier_channels", "branch_ratio", "headroom_fp16", "sqnr_int8_tensor",
)  # fmt: skip
"""The measures by which a site may stand out, the most telling first."""

COUNTS = frozenset({"nonfinite", "dead_share", "outlier_channels"})
"""Measures of which 0 is as it should be."""


@dataclass(frozen=True, slots=True)
class Standout:
    """A site and the measures of which it has the most unusual value: (name, value)."""

    site: Site
    measures: tuple[tuple[str, float], ...]


def most_unusual(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the `count` most unusual sites of each measure of STANDOUT.

    Args:
        frame: as `Run.measures` returns it.
        count: sites a measure.
    """
    parts = []
    for name in STANDOUT:
        part = frame[frame["measure"] == name].sort_values(
            "value", ascending=measure(name).direction == "low", kind="stable"
        )
        if name in COUNTS:
            part = part[part["value"] > 0]
        parts.append(part.head(count))
    columns = ["measure", "value", "unit", "layer", "role", "expert", "block"]
    return pd.concat(parts)[columns]


def standouts(frame: pd.DataFrame, most: int) -> Sequence[Standout]:
    """Return the sites with the most unusual value of most measures, these first."""
    found: dict[Site, list[tuple[str, float]]] = {}
    for line in most_unusual(frame, 1).to_dict("records"):
        site = Site(line["layer"], line["block"], line["role"], line["expert"])
        found.setdefault(site, []).append((str(line["measure"]), float(line["value"])))
    ranked = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [Standout(site, tuple(names)) for site, names in ranked[:most]]
