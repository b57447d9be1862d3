"""The residual stream around a block: what enters its layer, what the FFN reads, what leaves.

Each layer of the candidate is fed the reference's stream, so that a layer is judged by itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.calling import undisturbed
from ffn_probe.replay.autopsy.capture import run
from ffn_probe.replay.autopsy.pairing import Pair
from ffn_probe.swaps.interpose import interposed, readers

_ROLES = ("resid", "normed", "out")


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Rows of one layer, [rows, d_model] in float64; None: not visible in the model.

    `start` enters the layer, `resid` enters the block's norm, `normed` the FFN, `out` leaves
    it, and `end` leaves the layer. `dtype` is what they were computed in.
    """

    start: Tensor
    resid: Tensor | None
    normed: Tensor | None
    out: Tensor
    end: Tensor
    dtype: torch.dtype


def streams(
    reference: nn.Module, candidate: nn.Module, batch: Any, pairs: Iterable[Pair], rows: int
) -> dict[str, tuple[Stream, Stream]]:
    """Return the streams of the reference and the candidate of every layer that can be seen."""
    known = list(pairs)
    with torch.no_grad(), undisturbed(reference), undisturbed(candidate):
        first = _layers(reference, batch, [p.reference for p in known])
        second = _layers(candidate, batch, [p.candidate for p in known])
        usable = [p for p in known if p.reference.name in first and p.candidate.name in second]
        if not usable:
            return {}
        seen = _read(reference, batch, [(p.reference, first[p.reference.name]) for p in usable])
        starts = {p.candidate.name: seen[p.reference.name].get("start") for p in usable}
        made = _read(
            candidate, batch, [(p.candidate, second[p.candidate.name]) for p in usable], starts
        )
    found: dict[str, tuple[Stream, Stream]] = {}
    for pair in usable:
        both = (
            _stream(seen[pair.reference.name], rows),
            _stream(made[pair.candidate.name], rows),
        )
        if both[0] is not None and both[1] is not None:
            found[pair.reference.name] = (both[0], both[1])
    return found


def _layers(model: nn.Module, batch: Any, blocks: list[Block]) -> dict[str, tuple[Tap, Tap]]:
    """Return where the stream enters and leaves the layer of each block."""
    wanted = {block.name: list(_around(block)) for block in blocks}
    paths = {path for found in wanted.values() for path in found}
    called: dict[str, tuple[Any, Any]] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    with ExitStack() as stack:
        for path in paths & set(modules):
            _watch(modules[path], path, called, stack)
        run(model, batch)
    found: dict[str, tuple[Tap, Tap]] = {}
    for block in blocks:
        for path in wanted[block.name]:
            taps = _taps(path, called.get(path), block.d_model)
            if taps is not None:
                found[block.name] = taps
                break
    return found


def _around(block: Block) -> Iterator[str]:
    """Yield the modules that hold both the norm and the FFN of a block, the smallest first."""
    paths = [tap.path.split(".") for tap in block.taps if tap.role in _ROLES]
    shared: list[str] = []
    for pieces in zip(*paths, strict=False):
        if len(set(pieces)) > 1:
            break
        shared.append(pieces[0])
    inside = block.name.split(".")
    while shared and shared[: len(inside)] == inside:
        shared = shared[:-1]
    while shared:
        yield ".".join(shared)
        shared = shared[:-1]


def _watch(
    module: nn.Module, path: str, called: dict[str, tuple[Any, Any]], stack: ExitStack
) -> None:
    """Note with what a module is first called and what it returns, until `stack` closes."""

    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        called.setdefault(path, ((args, kwargs), output))

    stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)


def _taps(path: str, call: tuple[Any, Any] | None, width: int) -> tuple[Tap, Tap] | None:
    if call is None:
        return None
    (args, kwargs), output = call
    outputs = output if isinstance(output, tuple | list) else (output,)
    if isinstance(output, Mapping):
        return None
    left = next((i for i, v in enumerate(outputs) if _is_stream(v, width)), None)
    index = next((i for i, v in enumerate(args) if _is_stream(v, width)), None)
    key = next((k for k, v in kwargs.items() if _is_stream(v, width)), "")
    if left is None or (index is None and not key):
        return None
    entry = Tap("start", "input", path, index or 0, keyword="" if index is not None else key)
    return entry, Tap("end", "output", path, left)


def _is_stream(value: Any, width: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1 and value.shape[-1] == width


def _read(
    model: nn.Module,
    batch: Any,
    layers: list[tuple[Block, tuple[Tap, Tap]]],
    starts: Mapping[str, Tensor | None] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Return block -> role -> tensor of the first call; `starts` are put into the layers."""
    seen: dict[str, dict[str, Tensor]] = {block.name: {} for block, _ in layers}

    def touch(block: Block, tap: Tap, value: Tensor) -> Tensor | None:
        given = (starts or {}).get(block.name) if tap.role == "start" else None
        if given is not None and given.shape == value.shape:
            value = given.to(value.device, value.dtype)
        seen[block.name].setdefault(tap.role, value.detach())
        return value if given is not None else None

    entries = [e for block, _ in layers for e in readers(block, _ROLES)]
    entries += [(block, tap) for block, taps in layers for tap in taps]
    with interposed(model, entries, touch):
        run(model, batch)
    return seen


def _stream(seen: Mapping[str, Tensor], rows: int) -> Stream | None:
    if not {"start", "end", "out"} <= set(seen):
        return None
    count = seen["end"].shape[:-1].numel()
    flat = {r: v.reshape(-1, v.shape[-1]) for r, v in seen.items()}
    chosen = torch.linspace(0, count - 1, min(rows, count)).round().long()
    kept = {
        r: v[chosen.to(v.device)].cpu().double() for r, v in flat.items() if len(v) == count
    }
    if not {"start", "end", "out"} <= set(kept):
        return None
    return Stream(
        kept["start"], kept.get("resid"), kept.get("normed"), kept["out"], kept["end"],
        seen["end"].dtype,
    )  # fmt: skip
