"""Passes of two models over one batch: what the reference shows, and the candidate fed by it.

A Pass runs a model once while tensors of some blocks are read or written. Nothing of the model
is changed afterwards. Tensors are kept for as long as one batch of the chosen blocks needs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.calling import call_arguments, describe
from ffn_probe.errors import ExampleError, FfnProbeError
from ffn_probe.probes.record import moved
from ffn_probe.replay.outputs import output_of
from ffn_probe.swaps.interpose import Touch, interposed

Key = tuple[str, str, int, int]
"""Block, role, expert (-1: none), ordinal of the call within the pass."""

Captured = dict[Key, Tensor]


def run_model(model: nn.Module, batch: Any, *, name: str = "the model") -> Tensor:
    """Return the output of one forward without gradients, on the model's own device.

    Raises:
        ExampleError: the model rejected the batch.
        ModelError: its output holds no floating tensor.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = call_arguments(moved(batch, device))
    if "use_cache" not in kwargs and hasattr(getattr(model, "config", None), "use_cache"):
        kwargs["use_cache"] = False
    try:
        with torch.no_grad():
            result = model(*args, **kwargs)
    except FfnProbeError:
        raise
    except Exception as error:
        raise ExampleError(
            f"{name} rejected a batch ({describe(batch)}): {type(error).__name__}: {error}"
        ) from error
    return output_of(result).detach()


class Counter:
    """Counts the calls of each site within a pass, so that tensors of two passes meet."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str, int], int] = {}

    def key(self, block: str, tap: Tap) -> Key:
        """Return the key of the tensor that a tap shows now."""
        site = (block, tap.role, -1 if tap.expert is None else tap.expert)
        ordinal = self.calls.get(site, 0)
        self.calls[site] = ordinal + 1
        return (*site, ordinal)


def look(
    model: nn.Module,
    batch: Any,
    entries: Iterable[tuple[Block, Tap]],
    touch: Callable[[Key, Tensor], Tensor | None],
    *,
    name: str = "the model",
) -> Tensor:
    """Run a model and hand every tapped tensor to `touch`; what it returns is put in.

    Args:
        model: the model.
        batch: its input.
        entries: pairs of a block and a tap, see swaps.interpose.
        touch: gets the key and the tensor [..., channels], detached.
        name: the model's name in messages.
    """
    counter = Counter()

    def on(block: Block, tap: Tap, value: Tensor) -> Tensor | None:
        with torch._C.DisableTorchFunction():
            return touch(counter.key(block.name, tap), value.detach())

    return run_with(model, batch, entries, on, name=name)


def run_with(
    model: nn.Module,
    batch: Any,
    entries: Iterable[tuple[Block, Tap]],
    touch: Touch,
    *,
    name: str = "the model",
) -> Tensor:
    """Return the model's output while `touch` stands at the entries."""
    with interposed(model, entries, touch):
        return run_model(model, batch, name=name)


def capture(
    model: nn.Module,
    batch: Any,
    entries: Iterable[tuple[Block, Tap]],
    *,
    name: str = "the reference",
) -> tuple[Captured, Tensor]:
    """Return copies of the tapped tensors of one forward, and the model's output."""
    found: Captured = {}

    def keep(key: Key, value: Tensor) -> None:
        found[key] = value.clone()

    output = look(model, batch, entries, keep, name=name)
    return found, output


def estimated_bytes(block: Block, tokens: int, size: int = 4) -> int:
    """Return about what one block's roles of `tokens` rows need."""
    wide = sum(role in {"gate", "gate_act", "value", "hidden"} for role in block.roles)
    return tokens * size * (wide * block.d_ff + (len(block.roles) - wide) * block.d_model)


def groups(blocks: Sequence[Block], tokens: int, budget: int) -> list[tuple[int, int]]:
    """Return slices of blocks whose captured roles fit `budget` bytes, one block at least."""
    found, start, held = [], 0, 0
    for i, block in enumerate(blocks):
        need = estimated_bytes(block, tokens)
        if i > start and held + need > budget:
            found.append((start, i))
            start, held = i, 0
        held += need
    if blocks:
        found.append((start, len(blocks)))
    return found
