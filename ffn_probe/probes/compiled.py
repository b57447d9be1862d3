"""Probes inside graphs of torch.compile: operators that hand values over, and where to.

A graph holds no statistics. It calls an operator that torch.compile does not look into, with
the value and the number of a `Port` (a tensor, so that equal layers share one graph). The
operator finds the port's taker when it runs and does there what a hook does in eager mode:
counts, folds, schedules and switches change without a new graph.

All operators are said to change one tensor, `ORDER`. No compiler may reorder or drop them,
then; nothing is written. It lies on the CPU: graphs with it are not put into CUDA graphs,
in which no Python runs.

While a port is plugged, its module has a `forward` of its own that calls the class's. Every
graph is guarded by its absence or by the one it was traced with, so that a graph from before
the probe is not taken while it watches, is taken again after it, and the next probe with the
same taps finds the graph of the last.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from ffn_probe.anatomy import Call
from ffn_probe.errors import AttachError
from ffn_probe.probes.rewriting import NotRewritable, Place, rewritten

Later = Callable[[Tensor], None]
Taker = Callable[..., Later | None]

_PORT = "_ffn_probe_port"
_WAITING = 4096  # gradients that may be outstanding: taps x forwards before their backward

with torch.inference_mode(mode=False):
    ORDER = torch.zeros(1, dtype=torch.int64)
    """What every operator is said to change."""


@dataclass(slots=True)
class Switch:
    """Whether the graphs of a probe call its operators; each position has a graph."""

    live: bool = True


@dataclass(frozen=True, slots=True)
class Spec:
    """What of a tap is part of a graph: two taps with equal ones may share it."""

    how: str
    index: int = 0
    keyword: str = ""
    gradient: bool = False
    call: Call | None = None


@dataclass(slots=True)
class Port:
    """What a module carries while its values are handed over, one entry a slot."""

    number: Tensor
    specs: list[Spec | None] = field(default_factory=list)
    takers: list[Taker | None] = field(default_factory=list)
    switches: list[Switch | None] = field(default_factory=list)


_ports: dict[int, Port] = {}
_waiting: dict[int, Later] = {}
_numbers = itertools.count(1)


def plug(module: nn.Module, spec: Spec, taker: Taker, switch: Switch, stack: ExitStack) -> int:
    """Return the slot under which graphs hand values of the module to `taker`.

    The caller's hooks give it to `hand_over`; it is free again when `stack` closes.
    """
    port = module.__dict__.get(_PORT)
    if port is None:
        number = next(_numbers)
        with torch.inference_mode(mode=False):
            port = module.__dict__[_PORT] = _ports[number] = Port(torch.tensor(number))
    slot = port.specs.index(None) if None in port.specs else len(port.specs)
    entry = (spec, taker, switch)
    for held, value in zip((port.specs, port.takers, port.switches), entry, strict=True):
        held[slot:] = [value, *held[slot + 1 :]]
    _renew(module, port)
    stack.callback(_unplug, module, port, slot)
    return slot


def _unplug(module: nn.Module, port: Port, slot: int) -> None:
    port.specs[slot] = port.takers[slot] = port.switches[slot] = None
    if not any(port.specs):
        module.__dict__.pop(_PORT, None)
        _ports.pop(int(port.number), None)
    _renew(module, port)


def _renew(module: nn.Module, port: Port) -> None:
    """Give the module the forward that belongs to its slots, or its own one back."""
    held = module.__dict__.get("forward")
    ours = getattr(held, "ffn_probe", False)
    if isinstance(module, torch.jit.ScriptModule) or (held is not None and not ours):
        return  # someone else's forward: it stays
    module.__dict__.pop("forward", None)
    if any(port.specs):
        function = _forward(type(module), tuple(port.specs))
        module.__dict__["forward"] = MethodType(function, module)


@functools.lru_cache(maxsize=1024)
def _forward(kind: type[nn.Module], specs: tuple[Spec | None, ...]) -> Callable[..., Any]:
    """Return a forward that does what that of the class does; one function for equal specs."""
    original = kind.forward
    places = tuple(
        Place(spec.call, slot, spec.index, source=spec.how == "source")
        for slot, spec in enumerate(specs)
        if spec is not None and spec.call is not None
    )
    forward = _calling(original, kind, places) if places else _passing(original)
    forward.ffn_probe = True  # type: ignore[attr-defined]
    return functools.wraps(original)(forward)


@no_type_check
def _passing(original):
    def forward(self, *args, **kwargs):
        return original(self, *args, **kwargs)

    return forward


@no_type_check
def _calling(original, kind, places):
    """Return a forward that, when compiled, hands over what is called inside of it."""
    try:
        inside = rewritten(original, kind, places, seen=seen, called=called)
    except NotRewritable as error:
        return _refusing(original, kind, str(error))

    def forward(self, *args, **kwargs):
        if torch.compiler.is_compiling():
            return inside(self, *args, __ffn_probe__=self._ffn_probe_port, **kwargs)
        return original(self, *args, **kwargs)

    return forward


@no_type_check
def _refusing(original, kind, reason):
    text = (
        f"torch.compile cannot watch the calls inside {kind.__name__}.forward: {reason}. "
        "Leave their roles out of the probe (roles=...), or compile with this module left out."
    )

    def forward(self, *args, **kwargs):
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break(text)
        return original(self, *args, **kwargs)

    return forward


# Traced by torch.compile: functions without checks, values and branches known when traced


@no_type_check
def compiling():
    """Return whether torch.compile traces this call."""
    if torch.compiler.is_exporting():
        raise AttachError(
            "the model is exported while a probe is attached: an exported program cannot hold "
            "probes. Export it after the probe's with statement."
        )
    return torch.compiler.is_compiling()


@no_type_check
def hand_over(module, slot, gradient, value):
    """Hand a value over; return what takes its place (the same values)."""
    return seen(value, module._ffn_probe_port, slot, -1, gradient)


@no_type_check
def seen(value, port, slot, item=-1, gradient=None):
    """Hand over the result of a call, or one of its results, and return it."""
    if item >= 0:
        found = list(value)
        found[item] = seen(value[item], port, slot, -1, gradient)
        return tuple(found)
    if not isinstance(value, Tensor) or not port.switches[slot].live:
        return value
    wanted = port.specs[slot].gradient if gradient is None else gradient
    if wanted and value.requires_grad and torch.is_grad_enabled():
        return _Through.apply(value, port.number, slot)
    torch.ops.ffn_probe.see(value, ORDER, port.number, slot)
    return value


@no_type_check
def called(port, slot, function, owner, *args, **kwargs):
    """Call a function; hand over its arguments and its result, which is returned."""
    result = function(*args, **kwargs)
    whole = (owner, *args) if isinstance(owner, Tensor) else args
    hand_call(port, slot, whole, kwargs, result)
    return result


@no_type_check
def hand_call(port, slot, args, kwargs, result=None):
    """Hand over the tensors of a call, and how long its cache is."""
    if not port.switches[slot].live:
        return
    tensors, names, past = [], [], -1
    for name, value in (*enumerate(args), *kwargs.items(), ("=", result)):
        if name == "past_key_values":
            past = _length(value)
        else:
            found = _tensors(value)
            tensors += found
            names += [str(name)] * len(found)
    if isinstance(past, Tensor):
        tensors, names, past = [*tensors, past], [*names, "past_key_values"], -1
    layout = ",".join(names)
    torch.ops.ffn_probe.call(tensors, layout, past, ORDER, port.number, slot)


@no_type_check
def _tensors(value):
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, tuple | list):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


@no_type_check
def _length(cache):
    if cache is None:
        return -1
    if hasattr(cache, "get_seq_length"):
        return cache.get_seq_length()
    return cache[0][0].shape[-2] if isinstance(cache, tuple | list) and cache else -1


@no_type_check
class _Through(torch.autograd.Function):
    """The identity; its gradient is handed over in the backward."""

    @staticmethod
    def forward(ctx, value, number, slot):
        ticket = torch.ops.ffn_probe.mark(value, ORDER, number, slot)
        ctx.save_for_backward(ticket)
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):
        torch.ops.ffn_probe.gradient(gradient, ORDER, ctx.saved_tensors[0])
        return gradient, None, None


# Operators: what runs where a graph calls them


@dataclass(frozen=True, slots=True)
class Past:
    """Stands for a cache of which only the length is known."""

    length: int

    def get_seq_length(self) -> int:
        """Return the number of tokens in the cache."""
        return self.length


def _taker(number: Tensor, slot: int) -> Taker | None:
    port = _ports.get(int(number))  # of a probe that is gone: None
    return None if port is None or slot >= len(port.takers) else port.takers[slot]


@_disable_dynamo
def _see(value: Tensor, order: Tensor, port: Tensor, slot: int) -> None:
    del order
    taker = _taker(port, slot)
    if taker is not None:
        taker(value, False)


@_disable_dynamo
def _mark(value: Tensor, order: Tensor, port: Tensor, slot: int) -> Tensor:
    del order
    taker = _taker(port, slot)
    later = None if taker is None else taker(value, True)
    ticket = next(_numbers)
    if later is not None:
        _waiting[ticket] = later
        while len(_waiting) > _WAITING:  # forwards whose backward never came
            del _waiting[next(iter(_waiting))]
    return torch.tensor(ticket)


@_disable_dynamo
def _gradient(value: Tensor, order: Tensor, ticket: Tensor) -> None:
    del order
    later = _waiting.pop(int(ticket), None)
    if later is not None:
        later(value)


@_disable_dynamo
def _call(
    tensors: list[Tensor], layout: str, past: int, order: Tensor, port: Tensor, slot: int
) -> None:
    del order
    taker = _taker(port, slot)
    if taker is None:
        return
    found: dict[str, list[Tensor]] = {}
    for name, tensor in zip(layout.split(","), tensors, strict=False):
        found.setdefault(name, []).append(tensor)
    whole = {name: held[0] if len(held) == 1 else held for name, held in found.items()}
    length = whole.pop("past_key_values", past)
    result = whole.pop("=", None)
    places = [int(name) for name in whole if name.isdigit()]
    args = tuple(whole.pop(str(i), None) for i in range(max(places, default=-1) + 1))
    kwargs: dict[str, Any] = dict(whole)
    if int(length) >= 0:  # type: ignore[arg-type]
        kwargs["past_key_values"] = Past(int(length))  # type: ignore[arg-type]
    taker(args, kwargs, result)


_LIBRARY = torch.library.Library("ffn_probe", "FRAGMENT")
_OPERATORS: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
    (
        "see(Tensor value, Tensor(a!) order, Tensor port, int slot) -> ()",
        _see,
        lambda value, order, port, slot: None,
    ),
    (
        "mark(Tensor value, Tensor(a!) order, Tensor port, int slot) -> Tensor",
        _mark,
        lambda value, order, port, slot: torch.empty((), dtype=torch.int64),
    ),
    (
        "gradient(Tensor value, Tensor(a!) order, Tensor ticket) -> ()",
        _gradient,
        lambda value, order, ticket: None,
    ),
    (
        "call(Tensor[] tensors, str layout, SymInt past, Tensor(a!) order, Tensor port, "
        "int slot) -> ()",
        _call,
        lambda tensors, layout, past, order, port, slot: None,
    ),
)


def _define() -> None:
    for schema, function, fake in _OPERATORS:
        name = schema.partition("(")[0]
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"ffn_probe::{name}", fake, lib=_LIBRARY)


_define()
