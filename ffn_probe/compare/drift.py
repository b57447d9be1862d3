"""Drift: what changed from one run to another, as a value."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from ffn_probe.anatomy import Site
from ffn_probe.compare.align import Pair
from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.site_drift import SiteDrift
from ffn_probe.compare.validity import Note
from ffn_probe.compare.verdict import Verdict
from ffn_probe.errors import UnknownName
from ffn_probe.runs import Manifest, Run
from ffn_probe.sketches import BitHistogram

_SITE = ("layer", "block_a", "block_b", "role", "expert")
_CHANGE = (
    "aspect", "statistic", "value", "unit", "threshold", "provenance", "floor", "times_floor",
    "repeat_floor", "mde", "folds", "status", "detail",
)  # fmt: skip
_NUMBERS = ("floor", "times_floor", "repeat_floor", "mde")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: its name, its folder and how it was made."""

    name: str
    path: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of `compare` beside the two runs, so that it can be asked again.

    `thresholds` are those given in place of defaults, `repeat` and `mapping` paths ("" for
    none); `pairs` are (block in a, block in b) of a mapping that was no file.
    """

    thresholds: tuple[tuple[str, float], ...] = ()
    repeat: str = ""
    mapping: str = ""
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """The comparison of a candidate `b` with a reference `a`.

    `sites` are in the order of depth and data flow; `only_a` and `only_b` have no
    counterpart. `paired` says that both runs saw the same inputs, fold by fold.
    `config_diff` lists (setting, in a, in b) where they differ.
    """

    a: Side
    b: Side
    sites: tuple[SiteDrift, ...]
    only_a: tuple[Site, ...]
    only_b: tuple[Site, ...]
    validity: tuple[Note, ...]
    paired: bool
    verdict: Verdict
    config_diff: tuple[tuple[str, str, str], ...]
    _pairs: Mapping[tuple[int, str, int, str, str], Pair] = field(repr=False)
    _runs: tuple[Run, Run] = field(repr=False)
    asked: Asked = Asked()

    @property
    def exit_code(self) -> int:
        """0 for PASS, 1 for WARN and FAIL."""
        return 0 if self.verdict.status == "PASS" else 1

    def worst(self, n: int = 10) -> tuple[SiteDrift, ...]:
        """Return the n worst sites, worst first; ties in the order of depth."""
        ranked = sorted(self.sites, key=lambda site: site.worst.severity, reverse=True)
        return tuple(ranked[:n])

    def histograms(self, site: SiteDrift) -> tuple[BitHistogram, BitHistogram]:
        """Return the full histograms of a site in the reference and in the candidate.

        Raises:
            UnknownName: the site is not one of this drift.
        """
        one, other = self.evidence(site)
        return one.whole, other.whole

    def evidence(self, site: SiteDrift) -> tuple[Evidence, Evidence]:
        """Return what the reference and the candidate know of a site, fold by fold.

        Raises:
            UnknownName: the site is not one of this drift.
        """
        one, other = self._runs
        a, b = self.sources(site)
        return Evidence.of(one, a), Evidence.of(other, b)

    def sources(self, site: SiteDrift) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
        """Return the sites of either run that were compared: one each, or pooled experts.

        Raises:
            UnknownName: the site is not one of this drift.
        """
        key = (site.layer, site.role, site.expert, site.block_a, site.block_b)
        if key not in self._pairs:
            raise UnknownName.of("site", site.name, [s.name for s in self.sites])
        pair = self._pairs[key]
        return pair.a, pair.b

    def table(self) -> pd.DataFrame:
        """Return one row a change, with its site; absent floors are NaN."""
        columns: dict[str, list[Any]] = {name: [] for name in (*_SITE, *_CHANGE)}
        for site in self.sites:
            for change in site.changes:
                for name in _SITE:
                    columns[name].append(getattr(site, name))
                for name in _CHANGE:
                    value = getattr(change, name)
                    missing = value is None and name in _NUMBERS
                    columns[name].append(math.nan if missing else value)
        frame = pd.DataFrame(columns)
        return frame.astype(dict.fromkeys((*_NUMBERS, "value", "threshold"), "float64"))

    def to_json(self) -> str:
        """Return everything but the histograms as JSON.

        Numbers that are not finite are their names ("nan", "inf", "-inf"); null stands for
        what there is none of, such as a floor of too few folds.
        """
        return json.dumps(_plain(self.to_dict()), indent=1, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the histograms as plain types; not finite numbers stay so."""
        return {
            "verdict": asdict(self.verdict),
            "exit_code": self.exit_code,
            "paired": self.paired,
            "a": _side(self.a),
            "b": _side(self.b),
            "validity": [asdict(note) for note in self.validity],
            "config_diff": [list(row) for row in self.config_diff],
            "only_a": [site.name for site in self.only_a],
            "only_b": [site.name for site in self.only_b],
            "sites": [asdict(site) for site in self.sites],
        }


def _side(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "path": side.path,
        "created": side.manifest.created,
        "model": side.manifest.model,
        "tokens": side.manifest.tokens,
    }


def _plain(value: Any) -> Any:
    """Return JSON types; numbers that are not finite become their names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
