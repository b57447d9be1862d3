"""Provenance: whose rows the rows of a call are.

It knows which rows are padding, which expert each belongs to and which token it is, and draws
the sampled rows of a block once a call, so that its roles are sampled together. It never waits
for the device.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ffn_probe.anatomy import Block, Tap
from ffn_probe.probes.address import Address
from ffn_probe.probes.inputs import Grid
from ffn_probe.probes.watched import Watched, recomputing

_MIX = -7046029254386353131  # 2^64 / golden ratio, as int64
_SIGNATURE = 16  # channels that tell one token's row from another's


@dataclass(frozen=True, slots=True)
class Where:
    """The rows of one call: which are kept, which are sampled, whose they are."""

    address: Address
    kept: Tensor | None
    sample: Tensor | None
    labels: Tensor | None
    experts: tuple[int, ...]


@dataclass(slots=True)
class _Memory:
    """What is known of one block within a forward."""

    where: dict[tuple[Any, ...], Where] = field(default_factory=dict)
    signatures: Tensor | None = None


class Provenance:
    """Whose rows are seen, forward by forward.

    Args:
        rows: sampled rows a call; None for all.
        experts: the wanted experts of a mixture; None for all.
        seed: of the sampling.
    """

    def __init__(self, rows: int | None, experts: frozenset[int] | None, seed: int) -> None:
        self.rows = rows
        self.experts = experts
        self.seed = seed
        self.warnings: dict[str, None] = {}
        self._generators: dict[torch.device, torch.Generator] = {}
        self._memory: dict[str, _Memory] = {}
        self._grids: tuple[Grid, ...] = ()
        self._fold = 0
        self._step = 0

    def begin(self, grids: tuple[Grid, ...], fold: int, step: int) -> None:
        """Prepare for one forward of the model: its tokens, the fold and the step."""
        self._fold, self._step, self._grids = fold, step, grids
        self._memory.clear()

    def end(self) -> None:
        """Forget the tokens of the forward that ended; its gradients may still come."""
        self._grids = ()

    def where(self, item: Watched, tap: Tap, value: Tensor) -> Where:
        """Return whose rows the tap's tensor holds, with the sampled ones drawn."""
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
            self.remember_tokens(item, tap, value)
        return memory.where[key]

    def somewhere(self, item: Watched, tap: Tap, value: Tensor) -> Where:
        """Return whose rows a recomputed tensor holds that may be of an earlier forward."""
        mixed = tap.expert is not None or tap.labels != ""
        rows = value.numel() // max(value.shape[tap.axis], 1)
        if mixed:
            return self._expert_rows(item, tap, rows, _Memory(), value.device)
        return self._placed(None, rows, None, (-1,), value.device)

    def doubt(self, item: Watched) -> None:
        """Note that gradients of several forwards came from one backward that recomputed."""
        self._warn(
            item,
            "was recomputed in one backward for several forwards (reentrant checkpointing): "
            "gradients of padding are not told from those of tokens",
        )

    def remember_tokens(self, item: Watched, tap: Tap, value: Tensor) -> None:
        """Keep what tells the rows from which experts are given theirs."""
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
        chosen = self.experts
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
        limit = self.rows
        if limit is None or rows <= limit:
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        jitter = torch.rand(
            limit, generator=self._generators[device], device=device, dtype=torch.float64
        )
        strata = torch.arange(limit, device=device, dtype=torch.float64)
        return ((strata + jitter) * (rows / limit)).long().clamp(max=rows - 1)

    def _warn(self, item: Watched, text: str) -> None:
        self.warnings.setdefault(f"{item.block.name} {text}")


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
