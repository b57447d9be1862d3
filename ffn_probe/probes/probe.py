"""Probe: watches the FFNs of a model while it is entered, and writes its run.

The model is not changed: outputs, gradients, random state, parameters and mode are those
of the bare model, and after the exit no hook is left. Attaching is all or nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.errors import AttachError
from ffn_probe.probes.audit import (
    missed_calls,
    rare_experts,
    silent_blocks,
    silent_taps,
    unreached,
)
from ffn_probe.probes.counting import Counting
from ffn_probe.probes.first_step import FirstStep
from ffn_probe.probes.inputs import continues, grids_of, input_hash
from ffn_probe.probes.metrics import kept, read_numbers
from ffn_probe.probes.observe import Observer, Watching
from ffn_probe.probes.options import Options
from ffn_probe.probes.port import Switch
from ffn_probe.probes.taps import install, watch_model
from ffn_probe.probes.telling import Telling
from ffn_probe.probes.watched import Watched, Wiring, recomputing
from ffn_probe.probes.weight_watch import WeightWatch
from ffn_probe.runs import TOKENS_KEPT, Manifest, Run, RunWriter, trend_rows
from ffn_probe.vigil import Sighting


class Probe:
    """Probes on a model, from `attach`. `step` ends a step; `run` is the run on disk."""

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        manifest: Manifest,
        watching: Watching,
        *,
        options: Options,
        weights: Sequence[Mapping[str, Any]] = (),
        texts: Callable[[int], str] | None = None,
        weight_watch: WeightWatch | None = None,
        telling: Telling | None = None,
    ) -> None:
        self.model = model
        self.folder = folder
        self.options = options
        self.blocks = manifest.blocks
        self.observer = Observer(watching)
        self._counting = Counting(options.every, options.window)
        self._manifest = manifest
        self._watched = [Watched(block) for block in manifest.blocks]
        self._stack = ExitStack()
        self._writer: RunWriter | None = None
        self._switch = Switch()
        self._live = False  # whether the forward that runs is watched
        self._recomputed = False  # whether what is computed again belongs to one that was
        self._windows = 0
        self._lost = False  # whether a window could not be written
        self._metrics: list[tuple[int, str, Any]] = []
        self._ever: set[tuple[str, str]] = set()
        self._notes: dict[str, None] = {}
        self._weights = list(weights)  # rows of the first window
        self._texts = texts
        self._tokens: Counter[int] = Counter()  # ids among the largest values
        self._first_step = FirstStep(model)
        self._weight_watch = weight_watch
        self._telling = telling or Telling(alarms=False)

    # Entering and leaving

    def __enter__(self) -> "Probe":
        if self._writer is not None:
            raise AttachError(f"the probe that records to {self.folder} was used before")
        with ExitStack() as stack:
            writer = RunWriter.create(self.folder, self._manifest)
            stack.callback(writer.discard)
            hooks = stack.enter_context(ExitStack())
            model = self.model
            watching, receive = self.observer.watching, self.observer.receive
            options = (watching.gradients, watching.roles)
            wiring = Wiring(receive, self._awake, hooks, self._switch, *options)
            watch_model(model, self._before, self._after, wiring)
            install(model, self._watched, wiring)
            self._stack = hooks.pop_all()
            stack.pop_all()
        self._writer = writer
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live = False
        self._stack.close()
        writer = self._writer
        if writer is None:
            return
        if self._counting.batches == 0 and not self._ever and not self._fired():
            self._telling.close()
            writer.discard()
            if error is None:
                raise AttachError(
                    f"nothing was recorded to {self.folder}: the model did not run while the "
                    "probe was attached. Call this very module; a compiled copy calls no hooks."
                )
            return
        try:
            self._flush()
        finally:  # also when the disk is full: what is complete is closed, nothing is removed
            self._telling.close()
            if self._windows:
                self._notes |= dict.fromkeys(writer.compact(last=True))
                last: dict[str, Any] = {"vocabulary": self._vocabulary()}
                last["warnings"] = (*self._manifest.warnings, *self._audit())
                state = {} if self._lost else self._state()  # as of the last window written
                writer.close(**state | last)
            else:
                writer.discard()
        if error is None and not self._ever:
            raise AttachError(
                f"no tap of {len(self.blocks)} blocks fired in {self._counting.batches} "
                "forward passes: does another path run than with the example?"
            )
        silent = silent_taps(self.blocks, self._ever, self.observer.watching.roles)
        if error is None and silent and not self.options.allow_silent:
            raise AttachError(
                f"{len(silent)} taps never fired while their blocks ran (first: {silent[0]}): "
                "another path runs than with the example. The rest was recorded to "
                f"{self.folder}. Give an example like the batches, leave the role out "
                "(roles=...), or pass allow_silent=True."
            )

    @property
    def run(self) -> Run:
        """The run as it stands on disk."""
        return Run.open(self.folder)

    @property
    def alarms(self) -> tuple[Sighting, ...]:
        """What a training was told to look at so far, in the order of the windows."""
        return self._telling.sightings

    # What the loop says

    def step(self, **metrics: float | Tensor) -> None:
        """End a step, with numbers to keep beside the telemetry (loss=..., lr=...).

        In a training call it after the optimizer's step: all forwards and backwards since the
        last call are of one step, and windows are made of such steps. Tensors are read at the
        next flush, not here. Without calls of `step`, every forward of the model is a step.
        """
        self.expect_steps()
        now = self._counting.step
        self._metrics += [(now, name, value) for name, value in kept(metrics).items()]
        self._counting.end_step()
        self._switch.live = self._counting.live  # compiled graphs without taps for the others
        if self._counting.full:
            self._flush()

    def expect_steps(self) -> None:
        """Say that `step` is going to be called: what runs until then is of step 0.

        The first call of `step` says so as well; before it, a window is filled by forwards.
        """
        if self._counting.tell(fresh=self._windows == 0):
            self.observer.rename_steps()

    # Hooks of the model

    def _awake(self) -> bool:
        if recomputing():
            return self._recomputed and self.observer.watching.gradients
        return self._live

    @property
    def _first_step_runs(self) -> bool:
        if self._windows:
            return False
        return self._first_step.may_run(self._counting.pending, self._counting.window)

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if recomputing():
            return
        if not self.options.watches(training=self.model.training):
            self._live = False
            return
        with torch._C.DisableTorchFunction():
            counting, grids = self._counting, grids_of(args, kwargs)
            starts = not any(continues(g, kwargs) for g in grids[:1])
            if starts:
                if not counting.told and counting.full and not self._first_step_runs:
                    self._flush()
                counting.batch()
            self._live = self._recomputed = counting.live
            if self._live:
                counting.watch(grids, input_hash(args, kwargs), starts=starts)
                self.observer.begin(grids, counting.fold, counting.step)

    def _after(self) -> None:
        if not recomputing():
            self.observer.end()

    # Windows

    def _flush(self) -> None:
        """Write the window: one copy of the state, one part a table."""
        if self._writer is None:
            return
        span = self._counting.new_window()
        tables = self.observer.tables(self._windows)
        trends = trend_rows(tables, self.blocks, window=self._windows, steps=span)
        self._note_silence()
        if not any(tables.values()) and not self._metrics:
            return
        metrics = self._read_metrics(span[1])
        for line in tables.get("extremes", ()):
            self._tokens.update(line["top_token"].tolist())
        rows: dict[str, Sequence[Mapping[str, Any]]]
        rows = {**tables, "trends": trends, "metrics": metrics}
        if not self._windows:
            rows["weights"] = self._weights
        try:
            self._writer.write_window(self._windows, rows)
        except BaseException:
            self._lost = True
            self._notes[
                f"window {self._windows} could not be written: its batches are lost"
            ] = None
            raise
        self._windows += 1
        self._telling.window(trends, metrics, self.observer.first_bad.known)
        self._writer.update(**self._state())
        self._notes |= dict.fromkeys(self._writer.compact())

    def _read_metrics(self, step: int) -> list[dict[str, Any]]:
        """Return the rows of the table of metrics; numbers on a device are copied at once."""
        found, self._metrics = self._metrics, []
        numbers = read_numbers([value for _, _, value in found])
        listed = [
            (at, name, value) for (at, name, _), value in zip(found, numbers, strict=True)
        ]
        if self._weight_watch is not None:
            listed += self._weight_watch.metrics(self._windows, step)
        return [
            {"window": self._windows, "step": at, "name": name, "value": value, "dp": 0}
            for at, name, value in listed
        ]

    def _state(self) -> dict[str, Any]:
        warnings = (*self._manifest.warnings, *self._telling.lines())
        return self._counting.state() | {"windows": self._windows, "warnings": warnings}

    def _vocabulary(self) -> dict[str, str]:
        """Return the texts of the tokens of the largest values, the most frequent ones."""
        if self._texts is None:
            return {}
        known = [token for token, _ in self._tokens.most_common(TOKENS_KEPT + 1) if token >= 0]
        try:
            return {str(token): self._texts(token) for token in sorted(known[:TOKENS_KEPT])}
        except Exception as error:  # a vocabulary is the user's code; the run is worth more
            self._notes[f"the texts of tokens are not known: {error!r}"[:300]] = None
            return {}

    def _fired(self) -> bool:
        return any(item.fired for item in self._watched)

    def _note_silence(self) -> None:
        """Note every role that fired less often in this window than its block ran."""
        self._notes |= dict.fromkeys(missed_calls(self._watched, self._windows))
        for item in self._watched:
            self._ever |= {(item.block.name, role) for role in item.fired}
            item.fired.clear()

    def _audit(self) -> list[str]:
        watching = self.observer.watching
        notes = [*self._notes, *self.observer.warnings, *self._telling.notes]
        if self._weight_watch is not None:
            notes += self._weight_watch.notes
        notes += silent_blocks(self.blocks, self._ever)
        if watching.gradients:
            seen = {(name, role) for name, role, _ in self.observer.sites}
            notes += unreached(self.blocks, self._ever, seen, watching.roles)
        if self._writer is not None and any(b.experts for b in self.blocks):
            notes += rare_experts(self.run, self.blocks)
        return [*notes, *self._telling.lines()]
