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

from ffn_probe.anatomy import ROLES, Block
from ffn_probe.errors import AttachError
from ffn_probe.probes.accumulate import FOLDS
from ffn_probe.probes.inputs import Grid, grids_of, input_hash, mixed
from ffn_probe.probes.observe import Observer, Watching
from ffn_probe.probes.taps import Watched, install, recomputing
from ffn_probe.runs import TOKENS_KEPT, Manifest, Run, RunWriter, trend_rows

_FEW_TOKENS = 64


class Probe:
    """Probes on a model, from `attach`. `step` ends a step; `run` is the run on disk."""

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        manifest: Manifest,
        watching: Watching,
        *,
        every: int,
        window: int,
        allow_silent: bool = False,
        weights: Sequence[Mapping[str, Any]] = (),
        texts: Callable[[int], str] | None = None,
    ) -> None:
        self.model = model
        self.folder = folder
        self.every = every
        self.window = window
        self.allow_silent = allow_silent
        self.blocks = manifest.blocks
        self.observer = Observer(watching)
        self._manifest = manifest
        self._watched = [Watched(block) for block in manifest.blocks]
        self._stack = ExitStack()
        self._writer: RunWriter | None = None
        self._live = False
        self._batches = 0  # forwards that began a batch
        self._steps: int | None = None  # calls of `step`; None until the first
        self._windows = 0
        self._lost = False  # whether a window could not be written
        self._pending = 0  # watched steps since the last flush
        self._span: tuple[int, int] | None = None  # the first and the last of them
        self._hashes: dict[int, Tensor] = {}
        self._counts = {fold: [0, 0] for fold in range(FOLDS)}  # batches, tokens
        self._metrics: list[tuple[int, str, Any]] = []
        self._ever: set[tuple[str, str]] = set()
        self._notes: dict[str, None] = {}
        self._weights = list(weights)  # rows of the first window
        self._texts = texts
        self._tokens: Counter[int] = Counter()  # ids among the largest values

    # Entering and leaving

    def __enter__(self) -> "Probe":
        if self._writer is not None:
            raise AttachError(f"the probe that records to {self.folder} was used before")
        with ExitStack() as stack:
            writer = RunWriter.create(self.folder, self._manifest)
            stack.callback(writer.discard)
            hooks = stack.enter_context(ExitStack())
            model = self.model
            before = model.register_forward_pre_hook(self._before, with_kwargs=True)
            hooks.callback(before.remove)
            after = model.register_forward_hook(self._after, always_call=True)
            hooks.callback(after.remove)
            install(model, self._watched, self.observer.receive, self._awake, hooks)
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
        if self._batches == 0 and not self._ever and not self._fired():
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
            if self._windows:
                self._notes |= dict.fromkeys(writer.compact(last=True))
                texts = self._vocabulary()
                notes = (*self._manifest.warnings, *self._audit())
                state = {} if self._lost else self._state()  # as of the last window written
                writer.close(**state, warnings=notes, vocabulary=texts)
            else:
                writer.discard()
        if error is None and not self._ever:
            raise AttachError(
                f"no tap of {len(self.blocks)} blocks fired in {self._batches} forward passes. "
                "Was the model compiled, or does another path run than with the example?"
            )
        silent = self._silent()
        if error is None and silent and not self.allow_silent:
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

    # What the loop says

    def step(self, **metrics: float | Tensor) -> None:
        """End a step, with numbers to keep beside the telemetry (loss=..., lr=...).

        Tensors are read at the next flush, not here. Without calls of `step`, every forward
        of the model is a step.
        """
        now = self._step
        self._metrics += [
            (now, name, value.detach() if isinstance(value, Tensor) else float(value))
            for name, value in metrics.items()
        ]
        self._steps = now + 1
        if self._pending >= self.window:
            self._flush()

    @property
    def _step(self) -> int:
        return self._steps if self._steps is not None else max(self._batches - 1, 0)

    # Hooks of the model

    def _awake(self) -> bool:
        return self._live and (self.observer.watching.gradients or not recomputing())

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        if recomputing():
            return
        with torch._C.DisableTorchFunction():
            grids = grids_of(args, kwargs)
            starts = not any(_continues(g, kwargs) for g in grids[:1])
            if starts:
                if self._steps is None and self._pending >= self.window:
                    self._flush()
                self._batches += 1
            self._live = self._step % self.every == 0
            if not self._live:
                return
            fold = max(self._batches - 1, 0) % FOLDS
            self._pending += starts
            self._span = (self._span[0] if self._span else self._step, self._step)
            self._remember(args, kwargs, grids, fold, starts=starts)
            self.observer.begin(grids, fold, self._step)

    def _remember(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        grids: tuple[Grid, ...],
        fold: int,
        *,
        starts: bool,
    ) -> None:
        code = input_hash(args, kwargs)
        if code is not None:
            self._hashes[fold] = mixed(self._hashes.get(fold), code)
        self._counts[fold][0] += starts
        self._counts[fold][1] += grids[0].rows if grids else 0

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        del module, args, output
        if not recomputing():
            self.observer.end()

    # Windows

    def _flush(self) -> None:
        """Write the window: one copy of the state, one part a table."""
        if self._writer is None:
            return
        self._pending = 0
        tables = self.observer.tables(self._windows)
        span, self._span = self._span or (self._step, self._step), None
        tables["trends"] = trend_rows(tables, self.blocks, window=self._windows, steps=span)
        metrics = [
            {
                "window": self._windows,
                "step": step,
                "name": name,
                "value": float(value),
                "dp": 0,
            }
            for step, name, value in self._metrics
        ]
        self._metrics.clear()
        self._note_silence()
        if not any(tables.values()) and not metrics:
            return
        for line in tables.get("extremes", ()):
            self._tokens.update(line["top_token"].tolist())
        first = {} if self._windows else {"weights": self._weights}
        try:
            self._writer.write_window(self._windows, tables | first | {"metrics": metrics})
        except BaseException:
            self._lost = True
            self._notes[
                f"window {self._windows} could not be written: its batches are lost"
            ] = None
            raise
        self._windows += 1
        self._writer.update(**self._state())
        self._notes |= dict.fromkeys(self._writer.compact())

    def _state(self) -> dict[str, Any]:
        folds = [
            {
                "hash": format(int(self._hashes[k]) % (1 << 64), "016x")
                if k in self._hashes
                else "",
                "batches": self._counts[k][0],
                "tokens": self._counts[k][1],
            }
            for k in range(FOLDS)
        ]
        return {
            "folds": tuple(folds),
            "windows": self._windows,
            "steps": self._steps if self._steps is not None else self._batches,
            "tokens": sum(tokens for _, tokens in self._counts.values()),
        }

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
        for item in self._watched:
            fired = item.fired
            self._ever |= {(item.block.name, role) for role in fired}
            most = max(fired.values(), default=0)
            for role in item.block.roles if fired else ():
                missed = most - fired.get(role, 0)
                # In a mixture the experts run as often as the router likes.
                if missed and (role not in fired or not item.block.experts):
                    self._notes.setdefault(
                        f"{item.block.name}: the tap of {role!r} missed {missed} of {most} "
                        f"calls in window {self._windows}"
                    )
            fired.clear()

    def _silent(self) -> list[str]:
        """Return the wanted taps that never fired although their block ran."""
        wanted = self.observer.watching.roles
        ran = {name for name, _ in self._ever}
        return [
            f"{block.name}/{role}"
            for block in self.blocks
            for role in block.roles
            if block.name in ran
            and (wanted is None or role in wanted)
            and (block.name, role) not in self._ever
        ]

    def _audit(self) -> list[str]:
        silent = [
            b.name for b in self.blocks if not any((b.name, r) in self._ever for r in ROLES)
        ]
        notes = [*self._notes, *self.observer.warnings]
        if silent:
            notes.append(f"{len(silent)} blocks never ran (first: {silent[0]})")
        if self._writer is not None and any(b.experts for b in self.blocks):
            notes += _rare_experts(self.run, self.blocks)
        return notes


def _rare_experts(run: Run, blocks: Sequence[Block]) -> list[str]:
    """Return a note a block on experts with too few tokens to judge."""
    rows: dict[str, dict[int, int]] = {}
    for site in run.sites:
        if site.expert >= 0:
            seen = rows.setdefault(site.block, {})
            seen[site.expert] = max(seen.get(site.expert, 0), run.rows(site)[0])
    notes = []
    for block in blocks:
        if block.name not in rows:
            continue
        few = [e for e in range(block.experts) if rows[block.name].get(e, 0) < _FEW_TOKENS]
        if few:
            listed = ", ".join(f"#{e}" for e in few[:8]) + (", ..." if len(few) > 8 else "")
            notes.append(
                f"{block.name}: too few tokens (under {_FEW_TOKENS}) for {len(few)} of "
                f"{block.experts} experts: {listed}"
            )
    return notes


def _continues(grid: Grid, kwargs: Mapping[str, Any]) -> bool:
    """Whether this forward goes on from a cache: a decode step of one batch."""
    cache = kwargs.get("past_key_values")
    if cache is None:
        return False
    try:
        return int(cache.get_seq_length()) > 0
    except (AttributeError, TypeError, ValueError):
        return grid.length == 1
