"""Telling: what a training has to be told while it runs, after each of its windows.

Alarms go to the log (`ffn_probe`), to the sinks and to whoever asked, and the run keeps them;
chosen numbers go to the sinks. A sink that fails is turned off: no logger ends a training.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ffn_probe.probes.series import Series, Sink
from ffn_probe.vigil import Sentinel, Sighting, first_mover

LOG = logging.getLogger("ffn_probe")
_LINES = 64  # alarms that the run's warnings hold

Row = Mapping[str, Any]


class Telling:
    """The listeners of one probe.

    Args:
        alarms: whether the windows are watched.
        sinks: what takes numbers; one with a method `alarm(step, text)` takes alarms, too.
        series: which numbers.
        on_alarm: called with every alarm.
    """

    def __init__(
        self,
        *,
        alarms: bool = True,
        sinks: Sequence[Sink] = (),
        series: Series | None = None,
        on_alarm: Callable[[Sighting], None] | None = None,
    ) -> None:
        self.sentinel = Sentinel() if alarms else None
        self.notes: dict[str, None] = {}
        self._series = series or Series()
        self._sinks = list(sinks)
        self._on_alarm = on_alarm

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """The alarms so far."""
        return tuple(self.sentinel.sightings) if self.sentinel is not None else ()

    def lines(self) -> list[str]:
        """Return the alarms in words, for the warnings of the run."""
        if self.sentinel is None or not self.sightings:
            return []
        found = [f"alarm, {sighting}" for sighting in self.sightings[:_LINES]]
        if self.sentinel.raised > len(found):
            found.append(f"{self.sentinel.raised - len(found)} more alarms")
        if len(found) > 1:
            found.append(f"alarms: {first_mover(self.sightings)}")
        return found

    def window(
        self,
        trends: Sequence[Row],
        metrics: Sequence[Row],
        addresses: Mapping[str, tuple[int, str]],
    ) -> None:
        """Tell of a window that was written: its rows of `trends` and `metrics`."""
        told = [(row["step"], row["name"], row["value"]) for row in metrics]
        new: Iterable[Sighting] = ()
        if self.sentinel is not None:
            new = self.sentinel.window(trends, told, addresses=addresses)
        for sighting in new:
            LOG.warning("%s", sighting)
            if self._on_alarm is not None:
                self._guarded(self._on_alarm, "on_alarm", sighting)
        step = max([row["last_step"] for row in trends] + [step for step, *_ in told])
        values = self._series.of(trends)
        if self.sentinel is not None:
            values[f"{self._series.prefix}/alarms"] = float(self.sentinel.raised)
        for sink in tuple(self._sinks):
            calls: list[tuple[Callable[..., object], tuple[object, ...]]]
            calls = [(sink, (step, values))]
            hears = getattr(sink, "alarm", None)
            if callable(hears):
                calls += [(hears, (one.last_step, str(one))) for one in new]
            if not all(self._guarded(call, repr(sink), *given) for call, given in calls):
                self._sinks.remove(sink)

    def _guarded(self, call: Callable[..., object], name: str, *given: object) -> bool:
        try:
            call(*given)
        except Exception as error:  # a logger's fault is not the training's
            note = f"{name[:120]} failed and is told nothing more: {error!r}"[:300]
            LOG.warning("%s", note)
            self.notes[note] = None
            if call is self._on_alarm:
                self._on_alarm = None
            return False
        return True

    def close(self) -> None:
        """Tell the sinks that can be closed that nothing more comes."""
        for sink in self._sinks:
            close = getattr(sink, "close", None)
            if callable(close):
                self._guarded(close, repr(sink))
