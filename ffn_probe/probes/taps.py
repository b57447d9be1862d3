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

TOKENS = "tokens"
"""The role of the rows from which experts are given theirs; it is not recorded."""

Receive = Callable[["Watched", Tap, Tensor], None]


@dataclass(slots=True)
class Watched:
    """A block under watch, and what is known of the rows of the call that runs now.

    `labels` are the experts of the rows (the number of experts: none), `expert` the one
    expert of all rows, `entering` the rows that the experts were given. `turn` counts calls.
    """

    block: Block
    labels: Tensor | None = None
    expert: int | None = None
    entering: Tensor | None = None
    turn: int = 0
    fired: dict[str, int] = field(default_factory=dict)  # role -> fires in this window

    def tap_fired(self, role: str) -> None:
        """Count one fire of a tap of the role."""
        self.fired[role] = self.fired.get(role, 0) + 1

    def new_call(self, entering: Tensor | None = None) -> None:
        """Forget the rows of the last call."""
        self.labels, self.expert, self.entering = None, None, entering
        self.turn += 1


def recomputing() -> bool:
    """Return whether this forward runs inside a backward (activation checkpointing)."""
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1


def install(
    model: nn.Module,
    watched: Iterable[Watched],
    receive: Receive,
    awake: Callable[[], bool],
    stack: ExitStack,
) -> None:
    """Register every hook of the blocks on `stack`; they rest while `awake` is false.

    Raises:
        AttachError: a tap's module is not in the model.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    taps: dict[str, list[tuple[Watched, Tap]]] = {}
    sources: dict[str, list[tuple[Watched, Tap]]] = {}
    for item in watched:
        _watch_routing(modules, item, receive, awake, stack)
        for tap in item.block.taps:
            if tap.path not in modules:
                raise AttachError(
                    f"tap {tap.role!r} of {item.block.name!r} reads module {tap.path!r}, which "
                    "the model does not have; run discover on this model"
                )
            if tap.how == "call":
                taps.setdefault(tap.path, []).append((item, tap))
            else:
                hook = _module_hook(item, tap, receive, awake)
                stack.callback(_register(modules[tap.path], tap.how, hook).remove)
            if tap.source is not None:
                sources.setdefault(tap.source_path, []).append((item, tap))
    for path in {**taps, **sources}:
        if path in modules:
            found = (taps.get(path, []), sources.get(path, []))
            _watch_calls(modules[path], *found, receive, awake, stack)


def _watch_routing(
    modules: Mapping[str, nn.Module],
    item: Watched,
    receive: Receive,
    awake: Callable[[], bool],
    stack: ExitStack,
) -> None:
    """Watch what tells which token a row of an expert is: the norm's rows, and the expert's."""
    norm = item.block.norm.module
    if item.block.experts and norm is not None and norm in modules:
        tap = Tap(TOKENS, "output", norm)
        hook = _module_hook(item, tap, receive, awake)
        stack.callback(_register(modules[norm], "output", hook).remove)
    for path in sorted({t.path for t in item.block.taps if _is_expert_entry(t)}):
        if path in modules:
            entry = _entry_hook(item, awake)
            stack.callback(_register(modules[path], "input", entry).remove)


def _is_expert_entry(tap: Tap) -> bool:
    return tap.expert is not None and tap.role == "gate" and tap.how == "output"


def _entry_hook(item: Watched, awake: Callable[[], bool]) -> Callable[..., None]:
    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module, kwargs
        if awake():
            item.new_call(args[0] if args and isinstance(args[0], Tensor) else None)

    return enter


# Module inputs and outputs


def _register(module: nn.Module, how: str, hook: Callable[..., None]) -> Any:
    if how == "input":
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    return module.register_forward_hook(hook)


def _module_hook(
    item: Watched, tap: Tap, receive: Receive, awake: Callable[[], bool]
) -> Callable[..., None]:
    def take(value: Any) -> None:
        if isinstance(value, Tensor) and awake():
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
        taps: Mapping[Call, list[tuple[Watched, Tap]]],
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
            for item, tap in self.taps.get(call, ()):
                value = result if tap.item < 0 else result[tap.item]
                if isinstance(value, Tensor):
                    self.receive(item, tap, value)
        return result


def _watch_calls(
    module: nn.Module,
    taps: list[tuple[Watched, Tap]],
    sources: list[tuple[Watched, Tap]],
    receive: Receive,
    awake: Callable[[], bool],
    stack: ExitStack,
) -> None:
    by_call: dict[Call, list[tuple[Watched, Tap]]] = {}
    for item, tap in taps:
        if tap.call is not None:
            by_call.setdefault(tap.call, []).append((item, tap))
    by_source: dict[Call, list[tuple[Watched, Tap]]] = {}
    for item, tap in sources:
        same = by_source.setdefault(tap.source, [])  # type: ignore[arg-type]
        if all(other is not item for other, _ in same):
            same.append((item, tap))
    active: list[_CallWatch | None] = []

    def enter(module: nn.Module, args: Any) -> None:
        del module, args
        watch = _CallWatch(by_call, by_source, receive) if awake() else None
        active.append(watch)
        if watch is not None:
            for item, _ in sources:
                item.new_call()
            watch.__enter__()  # type: ignore[no-untyped-call]

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        del module, args, output
        watch = active.pop() if active else None
        if watch is not None:
            watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    stack.callback(module.register_forward_pre_hook(enter).remove)
    # A forward that raises must give the mode back as well.
    stack.callback(module.register_forward_hook(leave, always_call=True).remove)


def _label(
    item: Watched, tap: Tap, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
) -> None:
    """Keep which expert each row of the coming calls belongs to. Reads no value."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    item.new_call(tensors[0] if tensors and tap.labels != "index" else None)
    if tap.labels == "offsets":
        offsets = kwargs.get("offs", tensors[2] if len(tensors) > 2 else None)
        if isinstance(offsets, Tensor) and isinstance(result, Tensor):
            rows = torch.arange(result.shape[0], device=result.device, dtype=offsets.dtype)
            # Rows behind the last offset belong to no expert.
            item.labels = torch.searchsorted(offsets, rows, right=True)
    elif tap.labels == "index" and len(args) > 1 and isinstance(args[1], Tensor):
        item.labels = args[1].reshape(-1).long()
    elif tap.labels == "batch" and isinstance(result, Tensor):
        item.labels = _batch_labels(result, item.block.experts)
    elif tap.labels == "slice":
        item.expert = _slice_label(tensors, kwargs)


def _batch_labels(result: Tensor, experts: int) -> Tensor | None:
    rows = result.shape[:-1].numel()
    if result.shape[0] != experts:
        return None
    index = torch.arange(experts, device=result.device)
    return index.repeat_interleave(rows // experts)


def _slice_label(tensors: list[Tensor], kwargs: Mapping[str, Any]) -> int | None:
    """Return which slice of a stack of matrices the call's weight is."""
    weight = kwargs.get("weight")
    for matrix in [weight] if isinstance(weight, Tensor) else tensors[1:]:
        if matrix.dim() == 2:
            return int(matrix.storage_offset() // max(matrix.numel(), 1))
    return None
