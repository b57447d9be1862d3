"""Parts of a batch: its first sequences, and both halves run alone and put together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.replay.passes import Captured, capture
from ffn_probe.replay.tokens import Tokens


def in_halves(
    model: nn.Module, batch: Any, tokens: Tokens, entries: Sequence[tuple[Block, Any]]
) -> tuple[Captured, Tensor]:
    """Return what a model shows when each half of the batch is run alone, put together."""
    cut = tokens.sequences // 2
    if cut == 0:
        return capture(model, batch, entries)
    parts = [
        capture(model, _slice(batch, tokens.sequences, where), entries)
        for where in (slice(0, cut), slice(cut, None))
    ]
    (one, out_one), (other, out_other) = parts
    joined: Captured = {}
    for key, value in one.items():
        rest = other.get(key)
        axis = 1 if value.dim() >= 3 and value.shape[0] == tokens.length != cut else 0
        if rest is not None:
            joined[key] = torch.cat([value, rest], axis)
    same = out_one.shape[1:] == out_other.shape[1:]
    return joined, torch.cat([out_one, out_other]) if same else out_one


def shortened(batch: Any, tokens: int = 256) -> Any:
    """Return the first sequences of a batch, about so many tokens: enough to find blocks."""
    seen = Tokens.of(batch, 0)
    keep = max(1, tokens // max(seen.length, 1))
    return _slice(batch, seen.sequences, slice(0, keep)) if seen.known else batch


def _slice(batch: Any, count: int, where: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[where] if batch.dim() and batch.shape[0] == count else batch
    if hasattr(batch, "items"):
        return {k: _slice(v, count, where) for k, v in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_slice(v, count, where) for v in batch)
    return batch
