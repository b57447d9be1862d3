"""Probes inside graphs of torch.compile: ports on the modules, and their forwards.

A graph holds no statistics and no number of a probe. It calls operators with a value and the
number of the module's port, as a tensor, so that equal layers share a graph; counts, folds
and schedules change without a new one.

While a port is plugged, its module has a `forward` of its own, which calls the class's.
Every graph is guarded by its absence, or by the one it was traced with: a graph from before
the probe is not taken while the probe watches and is taken again afterwards, and the next
probe with the same taps finds the graph of the last one.
"""

import functools
import itertools
from collections.abc import Callable
from contextlib import ExitStack
from types import MethodType
from typing import Any, no_type_check

import torch
from torch import nn

from ffn_probe.probes.handing import called, near_compiled, seen
from ffn_probe.probes.port import PORT, PORTS, Port, Spec, Switch, Taker
from ffn_probe.probes.rewriting import NotRewritable, Place, rewritten

_numbers = itertools.count(1)


def plug(module: nn.Module, spec: Spec, taker: Taker, switch: Switch, stack: ExitStack) -> int:
    """Return the slot under which graphs hand values of the module to `taker`.

    It is free again when `stack` closes.
    """
    port = module.__dict__.get(PORT)
    if port is None:
        number = next(_numbers)
        with torch.inference_mode(mode=False):
            port = module.__dict__[PORT] = PORTS[number] = Port(torch.tensor(number))
    slot = port.hold(spec, taker, switch)
    stack.callback(_unplug, module, port, slot)
    _renew(module, port)
    return slot


def _unplug(module: nn.Module, port: Port, slot: int) -> None:
    port.release(slot)
    if not any(port.specs):
        module.__dict__.pop(PORT, None)
        PORTS.pop(int(port.number), None)
    _renew(module, port)


def _renew(module: nn.Module, port: Port) -> None:
    """Give the module the forward that belongs to its slots, or its own one back."""
    held = module.__dict__.get("forward")
    ours = getattr(held, "ffn_probe", False)
    if isinstance(module, torch.jit.ScriptModule) or (held is not None and not ours):
        return  # someone else's forward: it stays
    module.__dict__.pop("forward", None)
    if any(port.specs):
        function = _forward(type(module), tuple(port.specs))  # type: ignore[arg-type]
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
    needed = any(spec is not None and spec.call is not None and spec.needed for spec in specs)
    forward = _calling(original, kind, places, needed=needed) if places else _passing(original)
    functools.update_wrapper(forward, original)
    forward.ffn_probe = True
    found: Callable[..., Any] = forward
    return found


@no_type_check
def _passing(original):
    def forward(self, *args, **kwargs):
        return original(self, *args, **kwargs)

    return forward


@no_type_check
def _calling(original, kind, places, *, needed):
    """Return a forward that, when compiled, hands over what is called inside of it."""
    try:
        inside = rewritten(original, kind, places, seen=seen, called=called)
    except NotRewritable as error:
        return _refusing(original, kind, str(error)) if needed else _passing(original)

    def forward(self, *args, **kwargs):
        port = getattr(self, PORT, None)
        if port is not None and (torch.compiler.is_compiling() or near_compiled()):
            return inside(self, *args, __ffn_probe__=port, **kwargs)
        return original(self, *args, **kwargs)

    return forward


@no_type_check
def _refusing(original, kind, reason):
    text = (
        f"torch.compile cannot watch the calls inside {kind.__name__}.forward: {reason}. "
        "Leave their roles out of the probe (roles=...), or compile the model without "
        "fullgraph=True: they are then missing from the run."
    )

    def forward(self, *args, **kwargs):
        if torch.compiler.is_compiling():
            _refuse(text)
        return original(self, *args, **kwargs)

    return forward


@no_type_check
def _refuse(text):
    torch._dynamo.graph_break(msg=text)  # noqa: SLF001 - public, but for its name
