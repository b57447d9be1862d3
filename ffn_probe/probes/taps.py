"""Hooks that hand a block's tensors to a receiver while the model runs.

Module outputs and inputs are read by hooks; calls inside a forward by a function mode that
is active only while their module runs. Nothing is changed and nothing is copied here. In a
graph of torch.compile the hooks hand over through the operators of `compiled`.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ffn_probe.anatomy import Block, Call, Tap
from ffn_probe.discover.trail import call_trail, function_name
from ffn_probe.errors import AttachError
from ffn_probe.probes.compiled import Later, Spec, Switch, compiling, hand_call, hand_over, plug

TOKENS = "tokens"
"""The role of the rows from which experts are given theirs; it is not recorded."""

Receive = Callable[..., Later | None]
"""Takes (watched, tap, tensor); with `later`, it returns what takes the gradient."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """How the taps of one probe are connected: to what, when, and until when.

    They rest while `awake` is false; graphs of torch.compile hand nothing over while `switch`
    is off, and gradients when `gradients` is set. Everything is undone when `stack` closes.
    """

    receive: Receive
    awake: Callable[[], bool]
    stack: ExitStack
    switch: Switch
    gradients: bool = False

    def taker(self, found: Iterable[tuple["Watched", Tap]]) -> Callable[..., Later | None]:
        """Return what takes a tensor of these taps from a graph."""
        taps = tuple(found)

        def take(value: Tensor, later: bool = False) -> Later | None:  # noqa: FBT001, FBT002
            if not self.awake():
                return None
            whole = [self.receive(item, tap, value, later=later) for item, tap in taps]
            hooks = [hook for hook in whole if hook is not None]

            def take_gradient(gradient: Tensor) -> None:
                for hook in hooks:
                    hook(gradient)

            return take_gradient if hooks else None

        return take

    def plug(self, module: nn.Module, spec: Spec, take: Callable[..., Later | None]) -> int:
        """Return the slot of the module from which `take` is handed what the spec says."""
        return plug(module, spec, take, self.switch, self.stack)


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


def watch_model(
    model: nn.Module,
    before: Callable[[tuple[Any, ...], dict[str, Any]], None],
    after: Callable[[], None],
    wiring: Wiring,
) -> None:
    """Call `before` with what every forward of the model is given, and `after` behind it.

    Of the arguments of a compiled call, only the tensors are given, and of a cache its length.
    """
    always = Switch()
    begin = plug(
        model, Spec("begin"), lambda args, kwargs, _: before(args, kwargs), always, wiring.stack
    )
    end = plug(model, Spec("end"), lambda *_: after(), always, wiring.stack)

    @no_type_check
    def on_entry(module, args, kwargs):
        if compiling():
            hand_call(module._ffn_probe_port, begin, args, kwargs)
        else:
            before(args, kwargs)

    @no_type_check
    def on_exit(module, args, output):
        if compiling():
            hand_call(module._ffn_probe_port, end, (), {})
        else:
            after()

    wiring.stack.callback(model.register_forward_pre_hook(on_entry, with_kwargs=True).remove)
    wiring.stack.callback(model.register_forward_hook(on_exit, always_call=True).remove)


def install(model: nn.Module, watched: Iterable[Watched], wiring: Wiring) -> None:
    """Register every hook of the blocks.

    Raises:
        AttachError: a tap's module is not in the model.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    taps: dict[str, list[tuple[Watched, Tap]]] = {}
    sources: dict[str, list[tuple[Watched, Tap]]] = {}
    for item in watched:
        _watch_routing(modules, item, wiring)
        for tap in item.block.taps:
            if tap.path not in modules:
                raise AttachError(
                    f"tap {tap.role!r} of {item.block.name!r} reads module {tap.path!r}, which "
                    "the model does not have; run discover on this model"
                )
            if tap.how == "call":
                taps.setdefault(tap.path, []).append((item, tap))
            else:
                _watch_module(modules[tap.path], item, tap, wiring)
            if tap.source is not None:
                sources.setdefault(tap.source_path, []).append((item, tap))
    for path in {**taps, **sources}:
        if path in modules:
            found = (taps.get(path, []), sources.get(path, []))
            _watch_calls(modules[path], *found, wiring)


def _watch_routing(modules: Mapping[str, nn.Module], item: Watched, wiring: Wiring) -> None:
    """Watch what tells which token a row of an expert is: the norm's rows, and the expert's."""
    norm = item.block.norm.module
    if item.block.experts and norm is not None and norm in modules:
        _watch_module(modules[norm], item, Tap(TOKENS, "output", norm), wiring)
    for path in sorted({t.path for t in item.block.taps if _is_expert_entry(t)}):
        if path in modules:
            _watch_entry(modules[path], item, wiring)


def _is_expert_entry(tap: Tap) -> bool:
    return tap.expert is not None and tap.role == "gate" and tap.how == "output"


def _watch_entry(module: nn.Module, item: Watched, wiring: Wiring) -> None:
    def enter(value: Any, later: bool = False) -> None:  # noqa: FBT001, FBT002
        del later
        if wiring.awake():
            item.new_call(value if isinstance(value, Tensor) else None)

    slot = wiring.plug(module, Spec("input"), enter)
    hook = _input_hook(slot, enter, 0, "", gradient=False)
    wiring.stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


# Module inputs and outputs


def _watch_module(module: nn.Module, item: Watched, tap: Tap, wiring: Wiring) -> None:
    gradient = wiring.gradients and tap.role != TOKENS
    spec = Spec(tap.how, tap.index, tap.keyword, gradient)
    take = wiring.taker([(item, tap)])
    slot = wiring.plug(module, spec, take)
    if tap.how == "input":
        hook = _input_hook(slot, take, tap.index, tap.keyword, gradient=gradient)
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    else:
        handle = module.register_forward_hook(_output_hook(slot, take, tap.index, gradient))
    wiring.stack.callback(handle.remove)


@no_type_check  # hooks are traced by torch.compile, which looks into what checks them
def _input_hook(slot, take, index, keyword, *, gradient):
    def on_input(module, args, kwargs):
        if keyword:
            value = kwargs.get(keyword)
        else:
            value = args[index] if len(args) > index else None
        if not isinstance(value, Tensor):
            return None
        if not compiling():
            take(value)
            return None
        same = hand_over(module, slot, gradient, value)
        if same is value:
            return None
        if keyword:
            return args, {**kwargs, keyword: same}
        return (*args[:index], same, *args[index + 1 :]), kwargs

    return on_input


@no_type_check
def _output_hook(slot, take, index, gradient):
    def on_output(module, args, output):
        value = _nth(output, index)
        if not isinstance(value, Tensor):
            return None
        if not compiling():
            take(value)
            return None
        same = hand_over(module, slot, gradient, value)
        return None if same is value else _with_nth(output, index, same)

    return on_output


@no_type_check
def _nth(output, index):
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        tensors = list(output)
        return tensors[index] if index < len(tensors) else None
    return None


@no_type_check
def _with_nth(output, index, value):
    """Return an output with another tensor in the place that `_nth` reads."""
    if isinstance(output, Tensor):
        return value
    if type(output) in {tuple, list}:
        return type(output)(value if i == index else x for i, x in enumerate(output))
    raise AttachError(
        f"torch.compile cannot watch the gradient of a value inside a {type(output).__name__}; "
        "leave its role out (roles=...), or record the gradients of the model uncompiled"
    )


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

    @no_type_check
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if torch.compiler.is_compiling():  # a compiled function inside of a watched module
            return result
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
    wiring: Wiring,
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
    slot = _plug_calls(module, by_call, by_source, wiring)
    active: list[_CallWatch | None] = []

    @no_type_check
    def enter(module, args):
        if compiling():
            if slot >= 0:
                hand_call(module._ffn_probe_port, slot, (), {})
            return
        watch = _CallWatch(by_call, by_source, wiring.receive) if wiring.awake() else None
        active.append(watch)
        if watch is not None:
            for item, _ in sources:
                item.new_call()
            watch.__enter__()

    @no_type_check
    def leave(module, args, output):
        if compiling():
            return
        watch = active.pop() if active else None
        if watch is not None:
            watch.__exit__(None, None, None)

    wiring.stack.callback(module.register_forward_pre_hook(enter).remove)
    # A forward that raises must give the mode back as well.
    wiring.stack.callback(module.register_forward_hook(leave, always_call=True).remove)


def _plug_calls(
    module: nn.Module,
    by_call: Mapping[Call, list[tuple[Watched, Tap]]],
    by_source: Mapping[Call, list[tuple[Watched, Tap]]],
    wiring: Wiring,
) -> int:
    """Plug the calls of a module for compiled graphs; return the slot of its entry, or -1."""
    slot = -1
    if by_source:
        slot = wiring.plug(module, Spec("entry"), _entering(by_source, wiring))
    for call, found in by_source.items():
        wiring.plug(module, Spec("source", call=call), _labelling(found, wiring))
    for call, found in by_call.items():
        for item in sorted({tap.item for _, tap in found}):
            some = [(watched, tap) for watched, tap in found if tap.item == item]
            spec = Spec("call", item, gradient=wiring.gradients, call=call)
            wiring.plug(module, spec, wiring.taker(some))
    return slot


def _entering(
    sources: Mapping[Call, list[tuple[Watched, Tap]]], wiring: Wiring
) -> Callable[..., None]:
    def enter(args: Any, kwargs: Any, result: Any) -> None:
        del args, kwargs, result
        if wiring.awake():
            for item, _ in itertools.chain(*sources.values()):
                item.new_call()

    return enter


def _labelling(found: list[tuple[Watched, Tap]], wiring: Wiring) -> Callable[..., None]:
    def label(args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        if wiring.awake():
            for item, tap in found:
                _label(item, tap, args, kwargs, result)

    return label


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
