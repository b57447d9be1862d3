"""What a call of a model says about its rows: padding, positions, token ids, a hash.

Nothing here waits for an accelerator.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_MULTIPLIER = -7046029254386353131  # 2^64 / golden ratio, as int64
_PRIME = 1099511628211


@dataclass(frozen=True, slots=True)
class Grid:
    """The tokens of one forward, [sequences, length] flattened to rows.

    `position` counts the tokens of the sequence that are no padding, those of a cache
    included. `real` is False at padding; None when there is none to see.
    """

    sequences: int
    length: int
    sequence: Tensor
    position: Tensor
    token: Tensor | None
    real: Tensor | None

    @property
    def rows(self) -> int:
        """Number of rows, padding included."""
        return self.sequences * self.length

    def transposed(self) -> "Grid":
        """Return the same tokens with the length first."""

        def turn(x: Tensor) -> Tensor:
            return x.view(self.sequences, self.length).t().reshape(-1)

        return replace(
            self,
            sequence=turn(self.sequence),
            position=turn(self.position),
            token=None if self.token is None else turn(self.token),
            real=None if self.real is None else turn(self.real),
        )

    def at(self, index: Tensor) -> "Grid":
        """Return the tokens at these ordinals; -1 is an unknown token, which counts as real."""
        known, safe = index >= 0, index.clamp(min=0)

        def pick(x: Tensor) -> Tensor:
            return torch.where(known, x[safe].long(), -1)

        return replace(
            self,
            sequence=pick(self.sequence),
            position=pick(self.position),
            token=None if self.token is None else pick(self.token),
            real=None if self.real is None else self.real[safe] | ~known,
        )


def grids_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Grid, ...]:
    """Return the token grids of a call of a model: the encoder's first when there are two.

    A grid is that of `input_ids` (or the first integer 2-D tensor), else of the first
    floating 3-D tensor. An attention mask (2-D; its last columns with a cache) says which
    rows are padding.
    """
    named = [
        _grid(kwargs.get(ids), kwargs.get(mask), kwargs)
        for ids, mask in (
            ("input_ids", "attention_mask"),
            ("decoder_input_ids", "decoder_attention_mask"),
        )
    ]
    found = [grid for grid in named if grid is not None]
    if not found:
        first = _grid(_anonymous(args, kwargs), kwargs.get("attention_mask"), kwargs)
        found = [first] if first is not None else []
    return tuple(found)


def input_hash(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return a hash of every tensor in a call, as an int64 scalar on the first's device.

    The same values give the same hash on every device; keys count, their order does not.
    """
    named = [(str(i), value) for i, value in enumerate(args)]
    named += [(k, v) for k, v in kwargs.items() if k not in {"past_key_values", "labels"}]
    total: Tensor | None = None
    for name, value in sorted(named):
        for ordinal, tensor in enumerate(_tensors(value)):
            part = _hash(tensor) + _text_hash(f"{name}.{ordinal}.{tuple(tensor.shape)}")
            total = part if total is None else total * _PRIME + part.to(total.device)
    return total


def mixed(old: Tensor | None, new: Tensor) -> Tensor:
    """Return the hash of what gave `old` and then `new`."""
    return new if old is None else old.to(new.device) * _PRIME + new


def _hash(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    if flat.is_floating_point():
        kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        flat = flat.contiguous().view(kinds[flat.element_size()])
    index = torch.arange(1, flat.numel() + 1, device=flat.device)
    weights = index * _MULTIPLIER
    weights = (weights ^ (weights >> 29)) * _PRIME
    return ((flat.long() + 1) * weights).sum()


def _text_hash(text: str) -> int:
    code = 0
    for byte in text.encode():
        code = (code * 257 + byte) % (1 << 61)
    return code


def _grid(ids: Any, mask: Any, kwargs: Mapping[str, Any]) -> Grid | None:
    if not isinstance(ids, Tensor) or ids.dim() < 2:
        return None
    count, length = int(ids.shape[0]), int(ids.shape[1])
    token = ids.reshape(-1) if ids.dim() == 2 and not ids.is_floating_point() else None
    sequence = torch.arange(count, device=ids.device).repeat_interleave(length)
    real = _real(mask, count, length)
    if real is None:
        position = torch.arange(length, device=ids.device).repeat(count) + _past(kwargs)
    else:
        position = ((mask != 0).long().cumsum(1) - 1).clamp(min=0)[:, -length:].reshape(-1)
    return Grid(count, length, sequence, position, token, real)


def _real(mask: Any, count: int, length: int) -> Tensor | None:
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[0] != count:
        return None
    if mask.shape[1] < length:
        return None
    real = mask[:, -length:].reshape(-1) != 0
    if real.device.type == "cpu" and real.numpy().all():
        return None
    return real


def _anonymous(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    for value in args:
        if isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point():
            return value
    for value in _tensors((args, kwargs)):
        if value.dim() == 3 and value.is_floating_point():
            return value
    return None


def _past(kwargs: Mapping[str, Any]) -> int:
    cache = kwargs.get("past_key_values")
    if cache is None:
        return 0
    try:
        if hasattr(cache, "get_seq_length"):
            return int(cache.get_seq_length())
        return int(cache[0][0].shape[-2])
    except (ValueError, TypeError, IndexError, AttributeError):
        return 0


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def continues(grid: Grid, kwargs: Mapping[str, Any]) -> bool:
    """Whether this forward goes on from a cache: a decode step of one batch."""
    cache = kwargs.get("past_key_values")
    if cache is None:
        return False
    try:
        return int(cache.get_seq_length()) > 0
    except (AttributeError, TypeError, ValueError):
        return grid.length == 1
