"""The operators that graphs of torch.compile call: they hand values to the takers of ports.

torch.compile does not look into them: they find the taker by the number of the port when
they run, and it does there what a hook does in eager mode. All are said to change one
tensor, `ORDER`, so that no compiler may reorder or drop them; nothing is written. It lies on
the CPU: graphs with it are not put into CUDA graphs, in which no Python runs.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from ffn_probe.probes.port import PORTS, Later, Taker

_WAITING = 4096  # gradients that may be outstanding: taps x forwards before their backward

with torch.inference_mode(mode=False):
    ORDER = torch.zeros(1, dtype=torch.int64)
    """What every operator is said to change."""

_tickets = itertools.count(1)
_waiting: dict[int, Later] = {}


@dataclass(frozen=True, slots=True)
class Past:
    """Stands for a cache of which only the length is known."""

    length: int

    def get_seq_length(self) -> int:
        """Return the number of tokens in the cache."""
        return self.length


def _taker(number: Tensor, slot: int) -> Taker | None:
    port = PORTS.get(int(number))  # of a probe that is gone: None
    return None if port is None or slot >= len(port.takers) else port.takers[slot]


@_disable_dynamo
def _see(value: Tensor, order: Tensor, port: Tensor, slot: int) -> None:
    del order
    taker = _taker(port, slot)
    if taker is not None:
        taker(value)


@_disable_dynamo
def _mark(value: Tensor, order: Tensor, port: Tensor, slot: int) -> Tensor:
    """Hand over a value; return the ticket of its gradient."""
    del order
    taker = _taker(port, slot)
    later = None if taker is None else taker(value, later=True)
    ticket = next(_tickets)
    if later is not None:
        _waiting[ticket] = later
        while len(_waiting) > _WAITING:  # forwards whose backward never came
            del _waiting[next(iter(_waiting))]
    return torch.tensor(ticket)


def _mark_and_hook(value: Tensor, order: Tensor, port: Tensor, slot: int) -> Tensor:
    """Do the same above autograd: also when a compiler derives the backward from it.

    The hook is traced into that backward then, with the whole gradient of the value.
    """
    with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - as torch.library does
        ticket: Tensor = torch.ops.ffn_probe.mark(value, order, port, slot)

    def take(gradient: Tensor) -> None:
        torch.ops.ffn_probe.gradient(gradient, order, ticket)

    if value.requires_grad and torch.is_grad_enabled():
        value.register_hook(take)  # type: ignore[no-untyped-call]
    return ticket


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
    """Hand over the arguments of a call; `layout` names each tensor, "=" the result."""
    del order
    taker = _taker(port, slot)
    if taker is None:
        return
    found: dict[str, list[Tensor]] = {}
    for name, tensor in zip(layout.split(","), tensors, strict=False):
        found.setdefault(name, []).append(tensor)
    whole: dict[str, Any] = {k: v[0] if len(v) == 1 else v for k, v in found.items()}
    length, result = int(whole.pop("past_key_values", past)), whole.pop("=", None)
    count = max((int(name) for name in whole if name.isdigit()), default=-1) + 1
    args = tuple(whole.pop(str(i), None) for i in range(count))
    if length >= 0:
        whole["past_key_values"] = Past(length)
    taker(args, whole, result)


def _nothing(*_: Any) -> None:
    return None


def _ticket(*_: Any) -> Tensor:
    return torch.empty((), dtype=torch.int64)


_TO = "Tensor(a!) order, Tensor port, int slot"
_OPERATORS: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
    (f"see(Tensor value, {_TO}) -> ()", _see, _nothing),
    (f"mark(Tensor value, {_TO}) -> Tensor", _mark, _ticket),
    ("gradient(Tensor value, Tensor(a!) order, Tensor ticket) -> ()", _gradient, _nothing),
    (f"call(Tensor[] tensors, str layout, SymInt past, {_TO}) -> ()", _call, _nothing),
)
_LIBRARY: Any = torch.library.Library("ffn_probe", "FRAGMENT")  # type: ignore[no-untyped-call]


def _define() -> None:
    for schema, function, fake in _OPERATORS:
        name = schema.partition("(")[0]
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"ffn_probe::{name}", fake, lib=_LIBRARY)
    _LIBRARY.impl("mark", _mark_and_hook, "Autograd")


_define()
