"""What a batch says about its rows: padding, positions, token ids, a hash."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token grid of one forward: [sequences, length] flattened to rows.

    `kept` are the ordinals of the rows that are no padding, None when there is none;
    `position` counts from the start of the sequence, past tokens of a cache included.
    """

    sequences: int
    length: int
    sequence: Tensor
    position: Tensor
    token: Tensor | None
    kept: Tensor | None

    @property
    def rows(self) -> int:
        """Number of rows, padding included."""
        return self.sequences * self.length


def tokens_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tokens | None:
    """Return the token grid of a call of a model, None when there is none to see.

    The grid is that of `input_ids` (or the first integer 2-D tensor), else of the first
    floating 3-D tensor. An attention mask (2-D, or its last columns with a cache) says
    which rows are padding.
    """
    ids = _ids(args, kwargs)
    shape = ids.shape if ids is not None else _embedded(args, kwargs)
    if shape is None:
        return None
    count, length = int(shape[0]), int(shape[1])
    device = next(_tensors((args, kwargs))).device
    past = _past(kwargs)
    sequence = torch.arange(count, device=device).repeat_interleave(length)
    position = torch.arange(length, device=device).repeat(count) + past
    kept = _kept(kwargs.get("attention_mask"), count, length)
    token = None if ids is None else ids.reshape(-1)
    return Tokens(count, length, sequence, position, token, kept)


def input_hash(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Return a hash of every tensor in a call (order of keys does not matter)."""
    digest = hashlib.blake2b(digest_size=16)
    named = [(str(i), value) for i, value in enumerate(args)] + sorted(
        (k, v) for k, v in kwargs.items() if k not in {"past_key_values", "labels"}
    )
    for _, value in named:
        for tensor in _tensors(value):
            data = tensor.detach().cpu().contiguous()
            digest.update(str(tuple(data.shape)).encode())
            if data.numel():
                digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _ids(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    for name in ("input_ids", "decoder_input_ids"):
        value = kwargs.get(name)
        if isinstance(value, Tensor) and value.dim() == 2:
            return value
    for value in args:
        if isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point():
            return value
    return None


def _embedded(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Size | None:
    for value in _tensors((args, kwargs)):
        if value.dim() == 3 and value.is_floating_point():
            return value.shape
    return None


def _past(kwargs: Mapping[str, Any]) -> int:
    cache = kwargs.get("past_key_values")
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        try:
            return int(cache.get_seq_length())
        except (ValueError, TypeError, IndexError):
            return 0
    try:
        return int(cache[0][0].shape[-2])
    except (TypeError, IndexError, AttributeError):
        return 0


def _kept(mask: Any, count: int, length: int) -> Tensor | None:
    """Return the rows that the mask keeps; this reads the mask once a forward."""
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[0] != count:
        return None
    recent = mask[:, -length:].reshape(-1) != 0
    kept = recent.nonzero().reshape(-1)
    return None if kept.numel() == count * length else kept


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
