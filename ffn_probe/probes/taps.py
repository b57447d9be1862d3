"""Hooks that hand a block's tensors to a receiver while the model runs.

Module outputs and inputs are read by hooks; calls inside a forward by a function mode that
is active only while their module runs. Nothing is changed and nothing is copied here.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ffn_probe.anatomy import Block, Call, Tap
from ffn_probe.discover.trail import call_trail, function_name
from ffn_probe.errors import AttachError

Receive = Callable[["Watched", Tap, Tensor], None]


@dataclass(slots=True)
class Watched:
    """A block under watch: the expert labels of the rows of the call that runs now."""

    block: Block
    labels: Tensor | None = None
    pieces: list[tuple[int, int]] = field(default_factory=list)  # (expert, rows) of each call
    fired: dict[int, int] = field(default_factory=dict)  # tap ordinal -> fires in this window

    def tap_fired(self, ordinal: int) -> None:
        """Count one fire of a tap."""
        self.fired[ordinal] = self.fired.get(ordinal, 0) + 1


def recomputing() -> bool:
    """Return whether this forward runs inside a backward (activation checkpointing)."""
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1


def install(
    model: nn.Module, watched: Iterable[Watched], receive: Receive, stack: ExitStack
) -> None:
    """Register every hook of the blocks on `stack`.

    Raises:
        AttachError: a tap's module is not in the model.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: dict[str, list[tuple[Watched, int, Tap]]] = {}
    for item in watched:
        for ordinal, tap in enumerate(item.block.taps):
            if tap.path not in modules:
                raise AttachError(
                    f"tap {tap.role!r} of {item.block.name!r} reads module {tap.path!r}, which "
                    "the model does not have; run discover on this model"
                )
            if tap.how == "call":
                calls.setdefault(tap.path, []).append((item, ordinal, tap))
            else:
                hook = _module_hook(item, ordinal, tap, receive)
                stack.callback(_register(modules[tap.path], tap.how, hook).remove)
            if tap.source is not None and tap.source_path in modules:
                calls.setdefault(tap.source_path, [])
    sources = _sources(calls, watched)
    for path, taps in calls.items():
        _watch_calls(modules[path], taps, sources.get(path, []), receive, stack)


def _sources(
    calls: Mapping[str, list[tuple[Watched, int, Tap]]], watched: Iterable[Watched]
) -> dict[str, list[tuple[Watched, Tap]]]:
    found: dict[str, list[tuple[Watched, Tap]]] = {}
    for item in watched:
        seen: set[tuple[str, Call]] = set()
        for tap in item.block.taps:
            if tap.source is None or tap.source_path not in calls:
                continue
            if (tap.source_path, tap.source) not in seen:
                seen.add((tap.source_path, tap.source))
                found.setdefault(tap.source_path, []).append((item, tap))
    return found


# Module inputs and outputs


def _register(module: nn.Module, how: str, hook: Callable[..., None]) -> Any:
    if how == "input":
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    return module.register_forward_hook(hook)


def _module_hook(
    item: Watched, ordinal: int, tap: Tap, receive: Receive
) -> Callable[..., None]:
    def take(value: Any) -> None:
        if isinstance(value, Tensor) and not recomputing():
            item.tap_fired(ordinal)
            receive(item, tap, value)

    def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        if tap.keyword:
            take(kwargs.get(tap.keyword))
        elif len(args) > tap.index:
            take(args[tap.index])

    def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, args
        take(_nth(output, tap.index))

    return on_input if tap.how == "input" else on_output


def _nth(output: Any, index: int) -> Any:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        tensors = list(output)
        return tensors[index] if index < len(tensors) else None
    return None


# Calls inside a forward


class _CallWatch(TorchFunctionMode):
    """Hands over the results of the calls that taps name."""

    def __init__(
        self,
        taps: Mapping[Call, list[tuple[Watched, int, Tap]]],
        sources: Mapping[Call, list[tuple[Watched, Tap]]],
        receive: Receive,
    ) -> None:
        super().__init__()
        self.taps = taps
        self.sources = sources
        self.receive = receive
        self.names = {call.function for call in (*taps, *sources)}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = function_name(func)
        if name in self.names:
            call = Call(name, call_trail())
            for item, tap in self.sources.get(call, ()):
                _label(item, tap, args, kwargs, result)
            for item, ordinal, tap in self.taps.get(call, ()):
                value = result if tap.item < 0 else result[tap.item]
                if isinstance(value, Tensor):
                    item.tap_fired(ordinal)
                    self.receive(item, tap, value)
        return result


def _watch_calls(
    module: nn.Module,
    taps: list[tuple[Watched, int, Tap]],
    sources: list[tuple[Watched, Tap]],
    receive: Receive,
    stack: ExitStack,
) -> None:
    by_call: dict[Call, list[tuple[Watched, int, Tap]]] = {}
    for item, ordinal, tap in taps:
        if tap.call is not None:
            by_call.setdefault(tap.call, []).append((item, ordinal, tap))
    by_source: dict[Call, list[tuple[Watched, Tap]]] = {}
    for item, tap in sources:
        if tap.source is not None:
            by_source.setdefault(tap.source, []).append((item, tap))
    active: list[_CallWatch | None] = []

    def enter(module: nn.Module, args: Any) -> None:
        del module, args
        watch = None if recomputing() else _CallWatch(by_call, by_source, receive)
        active.append(watch)
        if watch is not None:
            for item, _ in sources:
                item.labels = None
                item.pieces.clear()
            watch.__enter__()

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        del module, args, output
        watch = active.pop() if active else None
        if watch is not None:
            watch.__exit__(None, None, None)

    stack.callback(module.register_forward_pre_hook(enter).remove)
    # A forward that raises must give the mode back as well.
    stack.callback(module.register_forward_hook(leave, always_call=True).remove)


def _label(
    item: Watched, tap: Tap, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
) -> None:
    """Keep which expert each row of the coming calls belongs to. Reads no value."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    if tap.labels == "offsets":
        offsets = kwargs.get("offs", tensors[2] if len(tensors) > 2 else None)
        if isinstance(offsets, Tensor) and isinstance(result, Tensor):
            rows = torch.arange(result.shape[0], device=result.device, dtype=offsets.dtype)
            item.labels = torch.searchsorted(offsets, rows, right=True).clamp(
                max=item.block.experts - 1
            )
    elif tap.labels == "index" and len(args) > 1 and isinstance(args[1], Tensor):
        item.labels = args[1].reshape(-1).long()
    elif tap.labels == "batch" and isinstance(result, Tensor):
        item.labels = _batch_labels(result, item.block.experts)
    elif tap.labels == "slice":
        _slice_label(item, tensors, kwargs, result)


def _batch_labels(result: Tensor, experts: int) -> Tensor | None:
    rows = result.shape[:-1].numel()
    if result.shape[0] != experts:
        return None
    index = torch.arange(experts, device=result.device)
    return index.repeat_interleave(rows // experts)


def _slice_label(
    item: Watched, tensors: list[Tensor], kwargs: Mapping[str, Any], result: Any
) -> None:
    weight = kwargs.get("weight")
    matrices = [weight] if isinstance(weight, Tensor) else tensors[1:]
    for matrix in matrices:
        if matrix.dim() == 2 and isinstance(result, Tensor):
            expert = matrix.storage_offset() // max(matrix.numel(), 1)
            rows = result.shape[:-1].numel()
            item.pieces.append((int(expert), rows))
            item.labels = torch.full((rows,), int(expert), device=result.device)
            return
