"""A rewritten forward computes the same and hands over what was called at the places."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ffn_probe.anatomy import Call
from ffn_probe.discover.trail import call_trail, function_name
from ffn_probe.probes.rewriting import NotRewritable, Place, rewritten


class Trails(TorchFunctionMode):
    """Notes every call as discovery does, with its result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Call, Any]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        trail = tuple(t for t in call_trail() if not t.startswith("test_rewriting.py:Trails"))
        self.calls.append((Call(function_name(func), trail), result))
        return result


def helper(x: Tensor, *, scale: float = 2.0) -> Tensor:
    if scale > 5:
        return torch.tanh(x.to(x.dtype))
    return torch.sigmoid(x.to(x.dtype))


class Parent(nn.Module):
    def shape(self, x: Tensor) -> Tensor:
        return x * 1.5


class Many(Parent):
    """Calls of every kind that a tap may name."""

    def shape(self, x: Tensor) -> Tensor:
        return super().shape(x) + 1

    def forward(self, x: Tensor, power: int = 2) -> Tensor:
        a = functional.silu(x) * torch.exp(-x)
        a += helper(x, scale=3.0)
        b, c = a.chunk(2, dim=-1)
        d = self.shape(b).pow(power)
        return helper(d @ c.mT, scale=9.0) + self.inline(a).sum()

    def inline(self, x: Tensor) -> Tensor:
        return x.relu()


def trails(model: nn.Module, x: Tensor) -> list[tuple[Call, Any]]:
    with Trails() as mode:
        model(x)
    return mode.calls


def seen_in(model: nn.Module, places: tuple[Place, ...], x: Tensor) -> dict[int, list[Any]]:
    """Return what each slot was handed while the rewritten forward ran."""
    found: dict[int, list[Any]] = {}

    def seen(value: Any, port: str, slot: int, item: int) -> Any:
        assert port == "port"
        found.setdefault(slot, []).append(value if item < 0 else value[item])
        return value

    def called(
        port: str,
        slot: int,
        function: Callable[..., Any],
        owner: Any,
        *args: Any,
        **options: Any,
    ) -> Any:
        assert port == "port"
        found.setdefault(slot, []).append((owner, args, options))
        return function(*args, **options)

    forward = rewritten(type(model).forward, type(model), places, seen=seen, called=called)
    output = forward(model, x, __ffn_probe__="port")  # type: ignore[call-arg]
    assert torch.equal(output, model(x))
    return found


def test_every_call_of_a_forward_can_be_handed_over() -> None:
    torch.manual_seed(0)
    model, x = Many(), torch.randn(4, 6)
    calls = [(call, value) for call, value in trails(model, x) if call.trail]
    names = {call.function for call, _ in calls}
    assert {"silu", "exp", "add_", "sigmoid", "tanh", "chunk", "pow", "relu"} <= names
    for call, value in calls:
        if isinstance(value, Tensor) and call.function not in {"dtype", "shape"}:
            found = seen_in(model, (Place(call, 0),), x)
            assert len(found[0]) == 1, call
            assert torch.equal(found[0][0], value), call


def test_all_places_together_are_kept_apart() -> None:
    model, x = Many(), torch.randn(4, 6)
    names = {"silu", "tanh", "sigmoid", "relu"}
    calls = [c for c in trails(model, x) if c[0].function in names]
    places = tuple(Place(call, slot) for slot, (call, _) in enumerate(calls))
    found = seen_in(model, places, x)
    for slot, (_, value) in enumerate(calls):
        assert [torch.equal(v, value) for v in found[slot]] == [True]


def test_one_of_several_results_is_picked() -> None:
    model, x = Many(), torch.randn(4, 6)
    call = next(call for call, _ in trails(model, x) if call.function == "chunk")
    found = seen_in(model, (Place(call, 7, item=1),), x)
    assert found[7][0].shape == (4, 3)


def test_a_source_hands_over_its_arguments() -> None:
    model, x = Many(), torch.randn(4, 6)
    call = next(call for call, _ in trails(model, x) if call.function == "chunk")
    owner, args, options = seen_in(model, (Place(call, 0, source=True),), x)[0][0]
    assert owner.shape == (4, 6)
    assert (args, options) == ((2,), {"dim": -1})


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return helper(x, scale=self.scale) * 2


@pytest.mark.parametrize("name", ["to", "sigmoid"])
def test_what_is_returned_is_seen_whichever_return_runs(name: str) -> None:
    """In a graph another `return` may run than in eager mode, as of packed experts."""
    model, x = Branching(), torch.randn(4, 6)
    call = next(call for call, _ in trails(model, x) if call.function == name)
    model.scale = 9.0
    found = seen_in(model, (Place(call, 0),), x)
    assert [v.tolist() for v in found[0]] == [(x if name == "to" else x.tanh()).tolist()]


@pytest.mark.parametrize(
    ("trail", "reason"),
    [
        (("x.py:Gone.forward:4",), "wrapped by another function"),
        (("x.py:nowhere:4", "test_rewriting.py:Many.forward:4"), "was not found"),
        (("test_rewriting.py:Many.forward:99998",), "has changed"),
    ],
)
def test_what_cannot_be_found_is_said(trail: tuple[str, ...], reason: str) -> None:
    with pytest.raises(NotRewritable, match=reason):
        seen_in(Many(), (Place(Call("silu", trail), 0),), torch.randn(2, 4))
