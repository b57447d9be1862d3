"""Hooks that hand a block's tensors to a receiver while the model runs.

Module outputs and inputs are read by hooks, calls inside a forward as `calls` does it.
Nothing is changed and nothing is copied here. In a graph of torch.compile the hooks are part
of the graph and hand over through its operators.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, no_type_check

from torch import Tensor, nn

from ffn_probe.anatomy import Tap
from ffn_probe.errors import AttachError
from ffn_probe.probes.calls import watch_calls
from ffn_probe.probes.handing import aside, compiling, hand_call, hand_over, traced
from ffn_probe.probes.port import PORT, Spec, Switch
from ffn_probe.probes.watched import Watched, Wiring

TOKENS = "tokens"
"""The role of the rows from which experts are given theirs; it is not recorded."""


def watch_model(
    model: nn.Module,
    before: Callable[[tuple[Any, ...], dict[str, Any]], None],
    after: Callable[[], None],
    wiring: Wiring,
) -> None:
    """Call `before` with what every forward of the model is given, and `after` behind it.

    Of the arguments of a compiled call, only the tensors are given, and of a cache its length.
    """
    always = replace(wiring, switch=Switch())
    begin = always.plug(model, Spec("begin"), lambda args, kwargs, _: before(args, kwargs))
    end = always.plug(model, Spec("end"), lambda *_: after())

    @traced
    @no_type_check
    def on_entry(module, args, kwargs):
        if compiling():
            hand_call(getattr(module, PORT), begin, args, kwargs)
        else:
            aside(before, args, kwargs)

    @traced
    @no_type_check
    def on_exit(module, *_):
        if compiling():
            hand_call(getattr(module, PORT), end, (), {})
        else:
            aside(after)

    wiring.hook_before(model, begin, on_entry)
    wiring.hook_after(model, end, on_exit, always=True)


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
            watch_calls(modules[path], *found, wiring)


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
    def enter(value: Any) -> None:
        if wiring.awake():
            item.new_call(value if isinstance(value, Tensor) else None)

    def enter_graph(value: Tensor) -> None:
        enter(value)
        item.own_rows()

    slot = wiring.plug(module, Spec("input"), enter_graph)
    hook = _input_hook(slot, enter, 0, "", gradient=False)
    wiring.hook_before(module, slot, hook)


# Module inputs and outputs


def _watch_module(module: nn.Module, item: Watched, tap: Tap, wiring: Wiring) -> None:
    gradient = wiring.gradients and tap.role != TOKENS
    spec = Spec(tap.how, tap.index, tap.keyword, gradient)
    take = wiring.taker([(item, tap)])
    slot = wiring.plug(module, spec, take)
    if tap.how == "input":
        hook = _input_hook(slot, take, tap.index, tap.keyword, gradient=gradient)
        wiring.hook_before(module, slot, hook)
    else:
        hook = _output_hook(slot, take, tap.index, gradient=gradient)
        wiring.hook_after(module, slot, hook)


@no_type_check  # hooks are traced by torch.compile, which looks into what checks them
def _input_hook(slot, take, index, keyword, *, gradient):
    @traced
    def on_input(module, args, kwargs):
        value = _argument(args, kwargs, index, keyword)
        if not isinstance(value, Tensor):
            return
        if compiling():
            hand_over(module, slot, gradient, value)
        else:
            aside(take, value)

    return on_input


@no_type_check
def _output_hook(slot, take, index, *, gradient):
    @traced
    def on_output(module, args, output):
        del args
        value = _nth(output, index)
        if not isinstance(value, Tensor):
            return
        if compiling():
            hand_over(module, slot, gradient, value)
        else:
            aside(take, value)

    return on_output


@no_type_check
def _argument(args, kwargs, index, keyword):
    if keyword:
        return kwargs.get(keyword)
    return args[index] if len(args) > index else None


@no_type_check
def _nth(output, index):
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        return output[index] if index < len(output) else None
    return None
