"""Comparisons made of plain changes, of any size, without any run."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from dashboard.data import Library
from ffn_probe.anatomy import ROLES, Site
from ffn_probe.compare import Change, Drift, Note, Side, SiteDrift, Status
from ffn_probe.compare.change import judged, times
from ffn_probe.compare.statistic import STATISTICS
from ffn_probe.compare.verdict import verdict
from ffn_probe.runs import Manifest, Run

SAMPLE = Path(__file__).parents[2] / "sample_runs" / "ln-gelu"


class Made:
    """A library whose only comparison is this one, and which remembers nothing."""

    def __init__(self, comparison: Drift) -> None:
        self.comparison = comparison

    def drift(self, *_: str) -> Drift:
        return self.comparison

    def once(self, _name: str, _ids: Sequence[str], make: Callable[[], Any]) -> Any:
        return make()


def library(sites: Iterable[SiteDrift], **fields: object) -> Library:
    return cast("Library", Made(drift(tuple(sites), **fields)))


def drift(sites: tuple[SiteDrift, ...], **fields: object) -> Drift:
    sides = [Side(name, f"/runs/{name}", Manifest()) for name in "ab"]
    given = {
        "a": sides[0], "b": sides[1], "sites": sites, "only_a": (), "only_b": (),
        "validity": (), "paired": True, "verdict": verdict(sites), "config_diff": (),
        "_pairs": {}, "_runs": (Run.open(SAMPLE),) * 2,
    }  # fmt: skip
    return Drift(**(given | fields))  # type: ignore[arg-type]


def site(
    layer: int, role: str, size: float, *, expert: int = -1, floor: float | None = 0.25
) -> SiteDrift:
    """Return a site whose every statistic changed by `size` thresholds; floors likewise."""
    changes = [_change(entry.name, size, floor) for entry in STATISTICS]
    return SiteDrift.of((layer, role, expert, f"layers.{layer}", f"layers.{layer}"), changes)


def _change(name: str, size: float, floor: float | None) -> Change:
    entry = next(e for e in STATISTICS if e.name == name)
    value = size * entry.threshold
    limit = None if floor is None else floor * entry.threshold
    status: Status = "PASS" if name == "nonfinite" or name.startswith("headroom") else judged(
        entry.size(value), entry.threshold, floor=limit
    )  # fmt: skip
    value = math.nan if math.isnan(size) else value
    return Change(
        entry.aspect, name, value, entry.unit, entry.threshold, entry.provenance, limit,
        times(value, limit), None, None, 16 if floor else 3, status, "1 -> 2",
    )  # fmt: skip


def large(layers: int = 80, roles: Sequence[str] = ROLES) -> tuple[SiteDrift, ...]:
    """Return sites that drift the more, the deeper they are."""
    return tuple(
        site(i, role, 3.0 * i / layers + 0.1 * j)
        for i in range(layers)
        for j, role in enumerate(roles)
    )


def alone(layers: Iterable[int], role: str) -> tuple[Site, ...]:
    return tuple(Site(i, f"layers.{i}", role) for i in layers)


NOTES = (Note("warn", "other inputs"), Note("refuse", "other `tokens`"))
