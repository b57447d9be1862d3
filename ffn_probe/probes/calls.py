"""Calls inside a forward, read while their module runs: packed experts, inline code.

In eager mode by a function mode that is active only while the module runs; near graphs of
torch.compile, which see no function modes of ours, by a forward that is written anew.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ffn_probe.anatomy import Call, Tap
from ffn_probe.discover.trail import call_trail, function_name
from ffn_probe.probes.handing import compiling, hand_call, near_compiled, traced
from ffn_probe.probes.port import PORT, Spec
from ffn_probe.probes.watched import Receive, Watched, Wiring


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


def watch_calls(
    module: nn.Module,
    taps: list[tuple[Watched, Tap]],
    sources: list[tuple[Watched, Tap]],
    wiring: Wiring,
) -> None:
    """Hand over what is called while a module runs, and what labels its rows."""
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
    enter, leave = _mode_hooks(by_call, by_source, slot, wiring)
    wiring.hook_before(module, slot, enter)
    # A forward that raises must give the mode back as well.
    wiring.hook_after(module, slot, leave, always=True)


@no_type_check
def _mode_hooks(by_call, by_source, slot, wiring):
    """Return the hooks that put the function mode around a forward in eager mode."""
    active = []
    entered = _entering(by_source, wiring)

    def start():
        watch = _CallWatch(by_call, by_source, wiring.receive) if wiring.awake() else None
        active.append(watch)
        if watch is not None:
            entered()
            watch.__enter__()

    def stop():
        watch = active.pop() if active else None
        if watch is not None:
            watch.__exit__(None, None, None)

    @traced
    def enter(module, args, kwargs):
        del args, kwargs
        if not compiling() and not near_compiled():
            start()
        elif by_source:
            hand_call(getattr(module, PORT), slot, (), {})

    @traced
    def leave(module, args, output):
        del module, args, output
        if not compiling() and not near_compiled():
            stop()

    return enter, leave


def _plug_calls(
    module: nn.Module,
    by_call: Mapping[Call, list[tuple[Watched, Tap]]],
    by_source: Mapping[Call, list[tuple[Watched, Tap]]],
    wiring: Wiring,
) -> int:
    """Plug the calls of a module for compiled graphs; return the slot of its entry."""
    slot = wiring.plug(module, Spec("entry"), _entering(by_source, wiring))
    for call, found in by_source.items():
        spec = Spec("source", call=call, needed=wiring.wants(found))
        wiring.plug(module, spec, _labelling(found, wiring))
    for call, found in by_call.items():
        for place in sorted({tap.item for _, tap in found}):
            some = [(watched, tap) for watched, tap in found if tap.item == place]
            spec = Spec("call", place, "", wiring.gradients, call, wiring.wants(some))
            wiring.plug(module, spec, wiring.taker(some))
    return slot


def _entering(
    sources: Mapping[Call, list[tuple[Watched, Tap]]], wiring: Wiring
) -> Callable[..., None]:
    def enter(*of_call: Any) -> None:
        del of_call
        if wiring.awake():
            for item, _ in itertools.chain(*sources.values()):
                item.new_call()

    return enter


def _labelling(found: list[tuple[Watched, Tap]], wiring: Wiring) -> Callable[..., None]:
    def label(args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        if wiring.awake():
            for item, tap in found:
                _label(item, tap, args, kwargs, result)
                item.own_rows()

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
