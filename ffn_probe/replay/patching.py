"""Patching: a block of one model put into the other, and what that does to the output.

A patched block computes on the stream it finds there (it is the block that is put in, not its
activations), so that what a share says is "with this block repaired". Where no single block
stands out among many, `bisected` finds the depth at which the drift enters with O(log n) runs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.replay.parts import Parts
from ffn_probe.replay.passes import Key, look, run_model
from ffn_probe.swaps.interpose import readers, writers

_ENTERING = ("resid", "normed")

Replacement = Callable[[Tensor], Tensor]
"""Makes a block's `out` of what enters it."""


def block_of_parts(parts: Parts) -> Replacement:
    """Return the function of a whole block, computed in the dtype of its own weights."""
    dtype = parts.down.weight.dtype

    def run(resid: Tensor) -> Tensor:
        return parts.run({"resid": resid}, dtype=dtype)["out"]

    return run


def patched(
    model: nn.Module, batch: Any, replacements: Sequence[tuple[Block, Replacement]]
) -> Tensor:
    """Return the model's output with blocks of it replaced.

    Args:
        model: the model that is patched.
        batch: its input.
        replacements: blocks of that model, and what makes their `out` of their `resid`.
    """
    if not replacements:
        return run_model(model, batch)
    by_name = {block.name: make for block, make in replacements}
    held: dict[tuple[str, int], Tensor] = {}

    def touch(key: Key, value: Tensor) -> Tensor | None:
        block, role, _, ordinal = key
        if role in _ENTERING:
            held[block, ordinal] = value
            return None
        resid = held.pop((block, ordinal))
        return by_name[block](resid).reshape(value.shape).to(value.dtype)

    return look(model, batch, _entries(block for block, _ in replacements), touch)


def _entries(blocks: Iterable[Block]) -> list[tuple[Block, Tap]]:
    return [
        e
        for block in blocks
        for e in (*readers(block, [_enters(block)]), *writers(block, "out"))
    ]


def _enters(block: Block) -> str:
    """Return the role of a block's input: the stream, or where no norm is the FFN's input."""
    return "resid" if "resid" in block.roles else "normed"


def can_patch(block: Block) -> bool:
    """Return whether a block's input and output are each in one place."""
    places = (readers(block, [_enters(block)]), writers(block, "out"))
    return not block.experts and all(len(found) == 1 for found in places)


def bisected(count: int, error: Callable[[int], float]) -> tuple[int, Mapping[int, float]]:
    """Return (the block at which most of the drift enters, the errors that were measured).

    `error(m)` is the final error with the first m blocks repaired, 0 <= m <= count; it is
    taken to fall as m grows. The answer is the first m - 1 at which less than half of what all
    repairs together remove is left.

    >>> bisected(8, lambda m: 0.0 if m > 5 else 1.0)[0]
    5
    """
    known = {0: error(0), count: error(count)}
    half = (known[0] + known[count]) / 2
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        known[middle] = error(middle)
        low, high = (low, middle) if known[middle] <= half else (middle, high)
    return high - 1, known
