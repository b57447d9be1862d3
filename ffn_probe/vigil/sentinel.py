"""Sentinel: told of every window of a training, it says once what has to be looked at.

What it keeps does not grow with the training: of each number a `Line`, of each metric the
last steps that a spike is measured by, and which alarms it has raised.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ffn_probe.alarms import SPIKE_LEAST, SPIKE_STEPS, Alarm, growth, metric_alarms, nonfinite
from ffn_probe.anatomy import Site
from ffn_probe.vigil.line import Line
from ffn_probe.vigil.rules import DEAD_TOKENS, alignment, branch, dead, gain
from ffn_probe.vigil.sighting import Sighting, first_mover

WEIGHTS = "weights"
"""First part of the names of metrics that hold numbers of weights: `weights/BLOCK/cos_max`."""

SPIKY = ("loss", "grad_norm")
"""The metrics whose spikes are told: others (a learning rate) jump by design."""

_BEYOND = {"hidden": ("e4m3", "fp16")}  # role -> formats whose limits are watched
_AT_ONCE = 256  # steps of a metric
_KEPT = 256  # sightings; beyond, only their number is

Row = Mapping[str, Any]
Address = tuple[int, str]
"""The step at which a site was first not finite, and the token in words ("": unknown)."""


class Sentinel:
    """The alarms of one training, each told once.

    `sightings` holds the first 256 of them and `raised` how many there were.
    """

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self.raised = 0
        self._seen: set[tuple[str, str, str]] = set()
        self._lines: dict[tuple[str, str], Line] = {}
        self._metrics: dict[str, deque[tuple[int, float]]] = {}
        self._spike: dict[str, int] = {}  # metric -> the last step of its last spike
        self._read: dict[str, int] = {}  # metric of weights -> the step after it was last read

    def window(
        self,
        trends: Iterable[Row],
        metrics: Iterable[tuple[int, str, float]],
        *,
        addresses: Mapping[str, Address] | None = None,
    ) -> tuple[Sighting, ...]:
        """Return what is new after a window, in the order in which it happened.

        Args:
            trends: its rows of the table `trends`: one a site.
            metrics: (step, name, value) of its steps.
            addresses: site name -> where it was first not finite, where that is known.
        """
        found = [*self._of_metrics(metrics)]
        for row in trends:
            found += self._of_site(row, addresses or {})
        found.sort(key=lambda s: (s.last_step, s.first_step, s.flow))
        found = _together(found)
        self.raised += len(found)
        self.sightings += found[: max(0, _KEPT - len(self.sightings))]
        return tuple(found)

    @property
    def first(self) -> str:
        """Which alarm came first and by how many steps, or "order undetermined"."""
        return first_mover(self.sightings)

    def _new(self, alarms: Sequence[Alarm], key: str = "") -> Iterator[Alarm]:
        """Yield the alarms that were not told before."""
        for alarm in alarms:
            name = (alarm.kind, alarm.where, key)
            if name not in self._seen:
                self._seen.add(name)
                yield alarm

    # Sites

    def _of_site(self, row: Row, addresses: Mapping[str, Address]) -> Iterator[Sighting]:
        site = Site(row["layer"], row["block"], row["role"], row["expert"])
        span = row["first_step"], row["last_step"]
        for alarm in self._site_alarms(site, row):
            first, last, token = *span, ""
            if alarm.kind == "non-finite" and site.name in addresses:
                first, token = addresses[site.name]
                last = first
            yield Sighting(alarm, first, last, site.layer, site.role, token)

    def _site_alarms(self, site: Site, row: Row) -> Iterator[Alarm]:
        now = np.array([row["last_step"]])
        bad = np.array([row["nonfinite"]], np.float64)
        yield from self._new(nonfinite(site.name, now, np.nan_to_num(bad)))
        line = self._line(site, row, "absmax")
        for name in _BEYOND.get(site.role, ("fp16",)):
            if ("limit", site.name, name) not in self._seen:
                found = growth(site.name, line.steps, line.values, limits=(name,))
                yield from self._new(found, name)
        if site.role == "hidden" and row["rows"] >= DEAD_TOKENS:
            line = self._line(site, row, "dead_share")
            yield from self._new(dead(site.name, line.steps, line.values))
        if site.role == "out":
            line = self._line(site, row, "branch_ratio")
            yield from self._new(branch(site.name, line.steps, line.values))

    def _line(self, site: Site, row: Row, name: str) -> Line:
        line = self._lines.setdefault((site.name, name), Line())
        line.add(row["last_step"], row[name])
        return line

    # Metrics

    def _of_metrics(self, metrics: Iterable[tuple[int, str, float]]) -> Iterator[Sighting]:
        listed: dict[str, list[tuple[int, float]]] = {}
        for step, name, value in metrics:
            listed.setdefault(name, []).append((step, value))
        for name, new in listed.items():
            if name.startswith(WEIGHTS + "/"):
                yield from self._of_weights(name, new)
                continue
            for alarm in self._of_metric(name, new):
                yield Sighting(alarm, alarm.step, alarm.step)

    def _of_metric(self, name: str, new: Sequence[tuple[int, float]]) -> Iterator[Alarm]:
        for start in range(0, len(new), _AT_ONCE):
            yield from self._of_few(name, new[start : start + _AT_ONCE])

    def _of_few(self, name: str, new: Sequence[tuple[int, float]]) -> Iterator[Alarm]:
        held = self._metrics.setdefault(name, deque(maxlen=SPIKE_STEPS + _AT_ONCE))
        before = held[-1][0] if held else -1
        held.extend(new)
        steps = np.array([step for step, _ in held], np.int64)
        values = np.array([value for _, value in held], np.float64)
        for alarm in metric_alarms(name, steps, values):
            if alarm.kind != "spike":
                yield from self._new((alarm,))
            elif name in SPIKY and alarm.step > max(before, self._spike.get(name, -1)):
                self._spike[name] = alarm.step + SPIKE_LEAST
                yield alarm

    def _of_weights(self, name: str, new: Sequence[tuple[int, float]]) -> Iterator[Sighting]:
        """Yield the alarms of one number of a block's weights, between two readings of it."""
        where, _, what = name.removeprefix(WEIGHTS + "/").rpartition("/")
        rule = {"cos_max": alignment, "gain_spread": gain}.get(what)
        if rule is None:
            return
        for step, value in new:
            since, self._read[name] = min(self._read.get(name, 0), step), step + 1
            for alarm in self._new(rule(where, step, value)):
                yield Sighting(alarm, since, step)


def _together(found: Sequence[Sighting]) -> list[Sighting]:
    """Return sightings with those behind the first site that was not finite put into it.

    What is not finite spreads: all that comes after it in the window is not finite, too.
    """
    bad = [one for one in found if one.role and one.alarm.kind == "non-finite"]
    if len(bad) < 2:
        return list(found)
    first = bad[0]
    text = f"{first.alarm.text}; after it {len(bad) - 1} more sites of the same window"
    whole = replace(first, alarm=replace(first.alarm, text=text))
    return [whole if one is first else one for one in found if one is first or one not in bad]
