"""The observer: turns what the taps hand over into the statistics of every site.

It never waits for the device while the model runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ffn_probe.anatomy import GRAD, Block, Site, Tap
from ffn_probe.probes.accumulate import FOLDS, Accumulator
from ffn_probe.probes.first_bad import FirstBad
from ffn_probe.probes.inputs import Grid
from ffn_probe.probes.loss_scale import LossScale
from ffn_probe.probes.noise import NOISE_ROWS, NoiseRows
from ffn_probe.probes.pairs import PAIR_ROWS, Pairs
from ffn_probe.probes.port import Later
from ffn_probe.probes.provenance import Provenance, Where, rows_of
from ffn_probe.probes.taps import TOKENS
from ffn_probe.probes.watched import Watched, recomputing

_PAIRED = ("gate", "value", "gate_act")
_FEW_EXPERTS = 16
_HALVES = (
    "gradients came in float16 and no scaler was given: if the loss was scaled, they are "
    "scaled, too (attach(..., scaler=...))"
)


@dataclass(frozen=True, slots=True)
class Watching:
    """What to watch: sampled rows a call (None: all), mantissa bits, roles and experts.

    With `scale`, gradients are divided by what the loss was multiplied by.
    """

    rows: int | None = 512
    bits: int = 7
    roles: frozenset[str] | None = None
    experts: frozenset[int] | None = None
    gradients: bool = False
    seed: int = 0
    scale: LossScale | None = None


@dataclass(slots=True)
class _Site:
    accumulator: Accumulator
    noise: NoiseRows | None


@dataclass(slots=True)
class _Three:
    """The gate, value and gate_act of one call of a block, as they come."""

    turn: int = -1
    rows: dict[str, Tensor] = field(default_factory=dict)


class Observer:
    """The statistics of all sites of a model, fed by taps."""

    def __init__(self, watching: Watching) -> None:
        self.watching = watching
        self.first_bad = FirstBad()
        self.sites: dict[tuple[str, str, tuple[int, ...]], _Site] = {}
        self.pairs: dict[tuple[str, tuple[int, ...]], Pairs] = {}
        self.blocks: dict[str, Block] = {}
        self.provenance = Provenance(watching.rows, watching.experts, watching.seed)
        self._threes: dict[str, _Three] = {}
        self._fold = 0
        self._forwards = 0  # since the last backward
        self._returned = False  # whether a backward came after the last forward
        self._halves = False  # whether a gradient in float16 came without a scale

    # The forward that comes

    def begin(self, grids: tuple[Grid, ...], fold: int, step: int) -> None:
        """Prepare for one forward of the model: its tokens, the fold and the step."""
        if fold != self._fold:
            for site in self.sites.values():
                if site.accumulator.lanes != FOLDS:
                    site.accumulator.spill()
        self._fold = fold
        self._forwards = 1 if self._returned else self._forwards + 1
        self._returned = False
        self._threes.clear()
        self.provenance.begin(grids, fold, step)

    def end(self) -> None:
        """Forget the tokens of the forward that ended; its gradients may still come."""
        self.provenance.end()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could not be told of the rows and gradients, in words."""
        found = tuple(self.provenance.warnings)
        return (*found, _HALVES) if self._halves else found

    # What taps hand over

    def receive(
        self, item: Watched, tap: Tap, value: Tensor, *, later: bool = False
    ) -> Later | None:
        """Take the tensor of one tap; with gradients, also watch its gradient.

        With `later`, the caller knows when the gradient comes: what takes it is returned.
        """
        with torch._C.DisableTorchFunction(), torch.autocast(value.device.type, enabled=False):
            if tap.role == TOKENS:
                self.provenance.remember_tokens(item, tap, value)
                return None
            again = recomputing()
            self._returned = self._returned or again
            doubtful = again and self._forwards > 1
            place = self.provenance.somewhere if doubtful else self.provenance.where
            where = place(item, tap, value)
            if not again:
                item.tap_fired(tap.role)
                rows = rows_of(value.detach(), tap)
                self._fold_in(item, tap.role, rows, where)
            if self.watching.gradients and (later or value.requires_grad):
                hook = self._gradient_hook(item, tap, where, doubtful=doubtful)
                if later:
                    return hook
                value.register_hook(hook)  # type: ignore[no-untyped-call]
            return None

    def _gradient_hook(self, item: Watched, tap: Tap, where: Where, *, doubtful: bool) -> Later:
        def take(gradient: Tensor) -> None:
            device = gradient.device.type
            with torch._C.DisableTorchFunction(), torch.autocast(device, enabled=False):
                self._returned = True
                rows = rows_of(gradient.detach(), tap)
                if doubtful:
                    self.provenance.doubt(item)
                scale = self.watching.scale
                if scale is not None:
                    rows = scale.unscaled(rows)
                elif gradient.dtype == torch.float16:
                    self._halves = True
                self._fold_in(item, GRAD + tap.role, rows, where)

        return take

    def _fold_in(self, item: Watched, role: str, rows: Tensor, where: Where) -> None:
        if not where.experts:
            return
        if where.kept is not None:
            rows = rows[where.kept]
        wanted = self.watching.roles
        if wanted is None or role.removeprefix(GRAD) in wanted:
            site = self._site(item.block, role, rows, where)
            site.accumulator.add(rows, where.address, sample=where.sample, labels=where.labels)
            self._look(item.block, role, site.accumulator, rows, where)
            if site.noise is not None:
                few = _spread(where.sample, rows)
                chosen = rows[few]
                if where.labels is not None:  # padding adds no signal and no noise
                    chosen = torch.where(where.labels[few, None] == 0, chosen, 0)
                site.noise.add(chosen, where.address.fold)
        if role in _PAIRED and "gate_act" in item.block.roles and item.block.kind == "glu":
            self._pair(item, role, rows, where)

    def _look(
        self, block: Block, role: str, into: Accumulator, rows: Tensor, where: Where
    ) -> None:
        lane = where.address.fold if into.lanes == FOLDS else 0
        counts = into.fold_state["special"][lane]
        site = Site(block.layer, block.name, role)
        self.first_bad.look(site, where.experts, counts, rows, where.address, where.labels)

    def _site(self, block: Block, role: str, rows: Tensor, where: Where) -> _Site:
        key = (block.name, role, where.experts)
        if key not in self.sites:
            dense = where.experts == (-1,)
            many = block.experts > _FEW_EXPERTS and not dense
            accumulator = Accumulator(
                rows.shape[1],
                where.experts,
                3 if many else self.watching.bits,
                rows.device,
                lanes=FOLDS if dense else 1,
            )
            noise = NoiseRows(rows.shape[1], FOLDS, rows.device) if dense else None
            self.sites[key] = _Site(accumulator, noise)
            self.blocks[block.name] = block
        return self.sites[key]

    def _pair(self, item: Watched, role: str, rows: Tensor, where: Where) -> None:
        three = self._threes.setdefault(item.block.name, _Three())
        if role == "gate" or three.turn != item.turn:
            three.rows.clear()
            three.turn = item.turn
        index = where.sample
        count = rows.shape[0] if index is None else index.shape[0]
        stride = slice(None, None, max(1, -(-count // PAIR_ROWS)))
        pick = stride if index is None else index[stride]
        # A copy: a compiled graph uses the memory of a value again once it is not needed.
        few = rows[pick] if index is not None else rows[pick].clone()
        labels = None if where.labels is None else where.labels[pick]
        three.rows[role] = few
        if len(three.rows) < len(_PAIRED):
            return
        gate, value, act = (three.rows.pop(name) for name in _PAIRED)
        if gate.shape != value.shape or gate.shape != act.shape:
            return
        key = (item.block.name, where.experts)
        if key not in self.pairs:
            self.pairs[key] = Pairs(gate.shape[1], where.experts, gate.device)
        self.pairs[key].add(gate, value, act, labels)

    # Reading

    @property
    def bytes(self) -> int:
        """Device memory of the state of all sites."""
        held = sum(site.accumulator.bytes for site in self.sites.values())
        return held + sum(pairs.bytes for pairs in self.pairs.values())

    def rename_steps(self) -> None:
        """Call all steps so far step 0: they were the forwards of one step."""
        for site in self.sites.values():
            site.accumulator.rename_steps()

    def tables(self, window: int) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of the window for every table of a run, and start afresh."""
        found: dict[str, list[dict[str, Any]]] = {}
        for table, block, role, lines in self._lines():
            keys = {"window": window, "layer": block.layer, "block": block.name, "role": role}
            ranks = {"dp": 0, "tp": 0, "pp": 0, "ep": 0}
            found.setdefault(table, []).extend({**keys, **ranks, **line} for line in lines)
        return found

    def _lines(self) -> Iterator[tuple[str, Block, str, list[dict[str, Any]]]]:
        for (name, role, _), site in self.sites.items():
            block = self.blocks[name]
            if site.noise is not None:
                absmax = site.accumulator.state["channel_absmax"].amax(0)[0]
                yield "quant", block, role, site.noise.rows(absmax)
            for table, lines in site.accumulator.rows().items():
                yield table, block, role, lines
        for (name, _), pairs in self.pairs.items():
            if pairs.used:
                yield "joint", self.blocks[name], "hidden", pairs.rows()


def _spread(sample: Tensor | None, rows: Tensor) -> Tensor:
    """Return a few ordinals of sampled rows, from the whole length of the call."""
    known = torch.arange(rows.shape[0], device=rows.device) if sample is None else sample
    return known[:: max(1, known.numel() // NOISE_ROWS)][:NOISE_ROWS]
