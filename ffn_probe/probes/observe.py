"""The observer: turns what the taps hand over into the statistics of every site.

It knows which rows of a call are padding, which expert each belongs to and which token it
is, draws the sampled rows of a block once a call so that its roles are sampled together,
and never waits for the device while the model runs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ffn_probe.anatomy import GRAD, Block, Tap
from ffn_probe.probes.accumulate import FOLDS, Accumulator
from ffn_probe.probes.address import Address
from ffn_probe.probes.inputs import Grid
from ffn_probe.probes.noise import NOISE_ROWS, NoiseRows
from ffn_probe.probes.pairs import PAIR_ROWS, Pairs
from ffn_probe.probes.taps import TOKENS, Watched, recomputing

_PAIRED = ("gate", "value", "gate_act")
_FEW_EXPERTS = 16
_MIX = -7046029254386353131  # 2^64 / golden ratio, as int64
_SIGNATURE = 16  # channels that tell one token's row from another's


@dataclass(frozen=True, slots=True)
class Watching:
    """What to watch: sampled rows a call (None: all), mantissa bits, roles and experts."""

    rows: int | None = 512
    bits: int = 7
    roles: frozenset[str] | None = None
    experts: frozenset[int] | None = None
    gradients: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Where:
    """The rows of one call: which are kept, which are sampled, whose they are."""

    address: Address
    kept: Tensor | None
    sample: Tensor | None
    labels: Tensor | None
    experts: tuple[int, ...]


@dataclass(slots=True)
class _Site:
    accumulator: Accumulator
    noise: NoiseRows | None


@dataclass(slots=True)
class _Memory:
    """What one block remembers within a forward."""

    where: dict[tuple[Any, ...], Where] = field(default_factory=dict)
    pairs: dict[str, Tensor] = field(default_factory=dict)
    pair_turn: int = -1
    pair_labels: Tensor | None = None
    signatures: Tensor | None = None


class Observer:
    """The statistics of all sites of a model, fed by taps."""

    def __init__(self, watching: Watching) -> None:
        self.watching = watching
        self.sites: dict[tuple[str, str, tuple[int, ...]], _Site] = {}
        self.pairs: dict[tuple[str, tuple[int, ...]], Pairs] = {}
        self.blocks: dict[str, Block] = {}
        self.warnings: dict[str, None] = {}
        self._generators: dict[torch.device, torch.Generator] = {}
        self._memory: dict[str, _Memory] = {}
        self._grids: tuple[Grid, ...] = ()
        self._fold = 0
        self._step = 0

    # The forward that comes

    def begin(self, grids: tuple[Grid, ...], fold: int, step: int) -> None:
        """Prepare for one forward of the model: its tokens, the fold and the step."""
        if fold != self._fold:
            for site in self.sites.values():
                if site.accumulator.lanes != FOLDS:
                    site.accumulator.spill()
        self._fold, self._step, self._grids = fold, step, grids
        self._memory.clear()

    def end(self) -> None:
        """Forget the tokens of the forward that ended; its gradients may still come."""
        self._grids = ()

    # What taps hand over

    def receive(self, item: Watched, tap: Tap, value: Tensor) -> None:
        """Take the tensor of one tap; with gradients, also watch its gradient."""
        with torch._C.DisableTorchFunction(), torch.autocast(value.device.type, enabled=False):
            if tap.role == TOKENS:
                self._remember_tokens(item, tap, value)
                return
            where = self._where(item, tap, value)
            if not recomputing():
                item.tap_fired(tap.role)
                rows = rows_of(value.detach(), tap)
                self._fold_in(item, tap.role, rows, where)
            if self.watching.gradients and value.requires_grad:
                hook = self._gradient_hook(item, tap, where)
                value.register_hook(hook)  # type: ignore[no-untyped-call]

    def _gradient_hook(self, item: Watched, tap: Tap, where: Where) -> Callable[..., None]:
        def take(gradient: Tensor) -> None:
            with torch._C.DisableTorchFunction():
                rows = rows_of(gradient.detach(), tap)
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
            if site.noise is not None:
                few = _spread(where.sample, rows)
                chosen = rows[few]
                if where.labels is not None:  # padding adds no signal and no noise
                    chosen = torch.where(where.labels[few, None] == 0, chosen, 0)
                site.noise.add(chosen, where.address.fold)
        if role in _PAIRED and "gate_act" in item.block.roles and item.block.kind == "glu":
            self._pair(item, role, rows, where)

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
        memory = self._memory.setdefault(item.block.name, _Memory())
        if role == "gate" or memory.pair_turn != item.turn:
            memory.pairs.clear()
            memory.pair_turn = item.turn
        index = where.sample
        count = rows.shape[0] if index is None else index.shape[0]
        stride = slice(None, None, max(1, -(-count // PAIR_ROWS)))
        pick = stride if index is None else index[stride]
        few, labels = rows[pick], None if where.labels is None else where.labels[pick]
        memory.pairs[role] = few
        if len(memory.pairs) < len(_PAIRED):
            return
        gate, value, act = (memory.pairs[name] for name in _PAIRED)
        memory.pairs = {}
        if gate.shape != value.shape or gate.shape != act.shape:
            return
        key = (item.block.name, where.experts)
        if key not in self.pairs:
            self.pairs[key] = Pairs(gate.shape[1], where.experts, gate.device)
        self.pairs[key].add(gate, value, act, labels)

    # Whose rows they are

    def _where(self, item: Watched, tap: Tap, value: Tensor) -> Where:
        memory = self._memory.setdefault(item.block.name, _Memory())
        shape = value.shape[:-1] if tap.axis == -1 else value.shape
        rows = value.numel() // max(value.shape[tap.axis], 1)
        mixed = tap.expert is not None or tap.labels != ""
        turn = item.turn if mixed else -1
        key = (tuple(shape), tap.expert, mixed, turn)
        if key not in memory.where:
            if mixed:
                found = self._expert_rows(item, tap, rows, memory, value.device)
            else:
                found = self._dense_rows(item, shape, rows, value.device)
            memory.where[key] = found
        if tap.role == "normed" and item.block.experts and not mixed:
            self._remember_tokens(item, tap, value)
        return memory.where[key]

    def _remember_tokens(self, item: Watched, tap: Tap, value: Tensor) -> None:
        if self._grids and not recomputing():
            memory = self._memory.setdefault(item.block.name, _Memory())
            memory.signatures = _signatures(rows_of(value.detach(), tap))

    def _dense_rows(
        self, item: Watched, shape: Iterable[int], rows: int, device: torch.device
    ) -> Where:
        grid = self._grid(item.block, tuple(shape), rows)
        if grid is None and any(g.real is not None for g in self._grids):
            self._warn(item, "has rows that are not the tokens of the attention mask")
        return self._placed(grid, rows, None, (-1,), device)

    def _grid(self, block: Block, shape: tuple[int, ...], rows: int) -> Grid | None:
        fitting = [g for g in self._grids if g.rows == rows]
        for grid in self._grids:
            if grid.real is not None and grid.real.device.type == "cpu":
                kept = grid.real.nonzero().reshape(-1)
                if kept.numel() == rows and not fitting:
                    fitting.append(_without_padding(grid, kept))
        if not fitting:
            return None
        grid = fitting[-1] if "decoder" in block.name else fitting[0]
        sizes = (grid.sequences, grid.length)
        if shape[:2] == sizes[::-1] and sizes[0] != sizes[1]:
            return grid.transposed()
        return grid

    def _expert_rows(
        self, item: Watched, tap: Tap, rows: int, memory: _Memory, device: torch.device
    ) -> Where:
        grid, real = self._expert_tokens(item, tap, rows, memory)
        if tap.labels == "batch" and item.entering is not None:
            # Every expert is given every token, and zeros in place of those of others.
            entering = item.entering.reshape(-1, item.entering.shape[-1])
            given = (entering != 0).any(-1)
            real = given if real is None or real.shape != given.shape else real & given
        chosen = self.watching.experts
        single = tap.expert if tap.expert is not None else item.expert
        if single is not None:
            wanted = chosen is None or single in chosen
            return self._placed(grid, rows, real, (single,) if wanted else (), device)
        count = item.block.experts
        experts = tuple(e for e in range(count) if chosen is None or e in chosen)
        labels = item.labels
        if labels is None or labels.shape[0] != rows:
            self._warn(item, f"at {tap.role!r}: the expert of its rows could not be read")
            return self._placed(None, rows, None, (), device)
        return self._placed(grid, rows, real, experts, device, self._ordinals(labels, experts))

    def _ordinals(self, labels: Tensor, experts: tuple[int, ...]) -> Tensor:
        """Return labels as ordinals into `experts`; len(experts) for all others."""
        known = torch.tensor(experts, device=labels.device)
        index = torch.searchsorted(known, labels.long().contiguous())
        hit = known[index.clamp(max=len(experts) - 1)] == labels
        return torch.where(hit, index, len(experts))

    def _expert_tokens(
        self, item: Watched, tap: Tap, rows: int, memory: _Memory
    ) -> tuple[Grid | None, Tensor | None]:
        """Return the token of each row an expert was given, and which are no padding."""
        signatures = memory.signatures
        width = 0 if signatures is None else signatures.shape[0]
        whole = next((g for g in self._grids if g.rows == width), None)
        if whole is None or signatures is None:
            if any(g.real is not None for g in self._grids):
                self._warn(item, f"at {tap.role!r}: padding could not be told from tokens")
            return None, None
        if item.entering is not None and item.entering.shape[:-1].numel() == rows:
            mine = _signatures(item.entering.reshape(rows, -1))
            origin = _origins(mine, signatures, item.labels)
        elif tap.labels == "index" and rows % width == 0:
            # Weights gathered for each token and choice: rows go by token, then choice.
            origin = torch.arange(rows, device=signatures.device) // (rows // width)
        else:
            if whole.real is not None:
                self._warn(item, f"at {tap.role!r}: padding could not be told from tokens")
            return None, None
        grid = whole.at(origin)
        return grid, grid.real

    def _placed(
        self,
        grid: Grid | None,
        rows: int,
        real: Tensor | None,
        experts: tuple[int, ...],
        device: torch.device,
        labels: Tensor | None = None,
    ) -> Where:
        """Return where rows come from, padding left out, with the sampled rows drawn."""
        real = grid.real if real is None and grid is not None else real
        if real is not None and real.shape[0] != rows:
            real = None
        kept: Tensor | None = None
        if real is not None and device.type == "cpu":
            kept = real.nonzero().reshape(-1)
            rows = kept.numel()
            labels = None if labels is None else labels[kept]
        elif real is not None:
            mine = torch.zeros(rows, dtype=torch.int64, device=device)
            labels = torch.where(real, mine if labels is None else labels, len(experts))

        def pick(values: Tensor | None) -> Tensor | None:
            return values if values is None or kept is None else values[kept]

        address = Address(self._step, self._fold)
        if grid is not None:
            address = Address(
                self._step,
                self._fold,
                pick(grid.sequence),
                pick(grid.position),
                pick(grid.token),
            )
        return Where(address, kept, self._sample(rows, device), labels, experts)

    def _sample(self, rows: int, device: torch.device) -> Tensor | None:
        """Return ordinals of sampled rows: one at random in each of `rows` equal strata."""
        limit = self.watching.rows
        if limit is None or rows <= limit:
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.watching.seed)
        jitter = torch.rand(
            limit, generator=self._generators[device], device=device, dtype=torch.float64
        )
        strata = torch.arange(limit, device=device, dtype=torch.float64)
        return ((strata + jitter) * (rows / limit)).long().clamp(max=rows - 1)

    def _warn(self, item: Watched, text: str) -> None:
        self.warnings.setdefault(f"{item.block.name} {text}")

    # Reading

    @property
    def bytes(self) -> int:
        """Device memory of the state of all sites."""
        held = sum(site.accumulator.bytes for site in self.sites.values())
        return held + sum(pairs.bytes for pairs in self.pairs.values())

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


def rows_of(value: Tensor, tap: Tap) -> Tensor:
    """Return the tap's part of a tensor as [rows, channels]."""
    if tap.axis not in {-1, value.dim() - 1}:
        value = value.movedim(tap.axis, -1)
    half = value.shape[-1] // 2
    parts = {
        "first": slice(0, half),
        "second": slice(half, None),
        "even": slice(0, None, 2),
        "odd": slice(1, None, 2),
    }
    if tap.part in parts:
        value = value[..., parts[tap.part]]
    return value.reshape(-1, value.shape[-1])


def _without_padding(grid: Grid, kept: Tensor) -> Grid:
    """Return the tokens of a model that drops the padding itself."""
    grid = grid.at(kept)
    return Grid(1, kept.numel(), grid.sequence, grid.position, grid.token, None)


def _signatures(rows: Tensor) -> Tensor:
    """Return an int64 for each row that tells it from other rows, from its bits."""
    few = rows[:, : _SIGNATURE * 4 : 4] if rows.shape[1] >= _SIGNATURE * 4 else rows
    few = few[:, :_SIGNATURE].contiguous()
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = few.view(kinds[few.element_size()]).long() + 1
    weights = torch.arange(1, bits.shape[1] + 1, device=bits.device) * _MIX
    return (bits * (weights ^ (weights >> 29))).sum(-1)


def _origins(mine: Tensor, tokens: Tensor, labels: Tensor | None) -> Tensor:
    """Return the ordinal of the token that each row is, -1 where there is none.

    Tokens with equal rows go to the same experts, so the k-th of them that an expert was
    given is taken for the k-th there is.
    """
    ordered, order = torch.sort(tokens, stable=True)
    last = tokens.shape[0] - 1
    first = torch.searchsorted(ordered, mine)
    group = mine if labels is None or labels.shape != mine.shape else mine + labels * _MIX
    index = (first + _ranks(group)).clamp(max=last)
    first = first.clamp(max=last)
    index = torch.where(ordered[index] == mine, index, first)
    return torch.where(ordered[index] == mine, order[index], -1)


def _ranks(keys: Tensor) -> Tensor:
    """Return how many equal keys come before each key."""
    ordered, order = torch.sort(keys, stable=True)
    index = torch.arange(keys.shape[0], device=keys.device)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    begin = torch.where(starts, index, 0).cummax(0).values
    return torch.empty_like(index).scatter_(0, order, index - begin)
