"""Leaving a swap gives back the very model of before, however it is left."""

from typing import Any

import pytest
import torch

from ffn_probe.discover import discover
from ffn_probe.errors import SwapError
from ffn_probe.swaps import swap
from ffn_probe.swaps.interpose import interposed, readers, writers
from sample_runs import tiny_lm
from tests.swaps.states import batch, logits, state

WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ln-gelu", {"norm": "rmsnorm", "norms": "all"}),
    ("ln-gelu", {"norm": "rmsnorm", "how": "matched", "activation": "silu"}),
    ("ln-gelu", {"norm": "none"}),
    ("ln-gelu", {"activation": "relu2"}),
    ("ln-gelu", {"gating": "gated"}),
    ("rms-swiglu", {"gating": "mlp"}),
    ("rms-swiglu", {"gating": "clamped_swiglu:limit=0.5", "blocks": [0, -1]}),
    ("rms-swiglu", {"norm": "layernorm", "dtype": "bf16"}),
    ("rms-swiglu", {"dtype": "fp16", "blocks": "layers.1.*"}),
    ("rms-swiglu", {"quantize": {"w_down": "int8:channel", "hidden": "e4m3fn:token"}}),
)
IDS = [f"{name} {wish}" for name, wish in WAYS]


@pytest.mark.parametrize(("name", "wish"), WAYS, ids=IDS)
def test_leaving_gives_back_every_object_and_every_bit(name: str, wish: dict[str, Any]) -> None:
    model = tiny_lm.load(name)
    before, out = state(model), logits(model)
    torch.manual_seed(3)
    chance = torch.get_rng_state()
    with swap(model, example=batch(), calibration=[batch()], **wish) as done:
        assert done.changed
        assert not torch.equal(logits(model).float(), out) or wish == {"gating": "gated"}
        assert state(model) != before
    assert state(model) == before
    assert torch.equal(logits(model), out)
    assert torch.equal(torch.get_rng_state(), chance)


def test_a_model_set_to_training_inside_is_all_in_training_afterwards() -> None:
    model = tiny_lm.load("ln-gelu")
    with swap(model, norm="rmsnorm", example=batch()):
        model.train()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(("name", "wish"), WAYS, ids=IDS)
def test_an_exception_inside_gives_the_model_back(name: str, wish: dict[str, Any]) -> None:
    model = tiny_lm.load(name).train()
    before = state(model)
    swapping = swap(model, example=batch(), calibration=[batch()], **wish)
    with pytest.raises(KeyError, match="inside"), swapping:
        raise KeyError("inside")
    assert state(model) == before


def test_a_swap_that_fails_half_way_changes_nothing() -> None:
    model = tiny_lm.load("ln-gelu")
    before = state(model)
    wish = {"norm": "rmsnorm", "activation": "silu", "quantize": {"w_gate": "int8"}}
    swapping = swap(model, example=batch(), **wish)
    with pytest.raises(SwapError, match="no w_gate; it has w_up, w_down"), swapping:
        pass
    assert state(model) == before


@pytest.mark.parametrize("name", ["ln-gelu", "rms-swiglu"])
def test_nested_swaps_stand_on_each_other_and_are_undone_in_order(name: str) -> None:
    model = tiny_lm.load(name)
    first = state(model)
    with swap(model, norm="rmsnorm_1p", example=batch()):
        second, middle = state(model), logits(model)
        with (
            swap(model, activation="relu", example=batch()),
            swap(model, activation="mish", norm="layernorm", example=batch()),
        ):
            assert discover(model, batch())[0].activation == "mish"
            assert discover(model, batch())[0].norm.function == "layernorm"
        assert state(model) == second
        assert torch.equal(logits(model), middle)
    assert state(model) == first


def test_leaving_in_the_wrong_order_is_refused_and_nothing_is_lost() -> None:
    model = tiny_lm.load("ln-gelu")
    before = state(model)
    outer, inner = (
        swap(model, norm="rmsnorm", example=batch()),
        swap(model, activation="silu", example=batch()),
    )
    outer.__enter__()
    inner.__enter__()
    both = logits(model)
    with pytest.raises(SwapError, match=r"before the one entered after it, activation=silu"):
        outer.__exit__(None, None, None)
    assert torch.equal(logits(model), both)
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)
    assert state(model) == before


def test_swaps_of_two_models_are_left_in_any_order() -> None:
    one, other = tiny_lm.load("ln-gelu"), tiny_lm.load("rms-gelu")
    before = state(one), state(other)
    first, second = (swap(m, activation="silu", example=batch()) for m in (one, other))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert (state(one), state(other)) == before


def test_a_swap_can_be_entered_again_but_not_twice_at_once() -> None:
    model = tiny_lm.load("rms-gelu")
    swapping = swap(model, activation="silu", example=batch())
    with swapping:
        first = logits(model)
        with pytest.raises(SwapError, match="entered already"), swapping:
            pass
    with swapping:
        assert torch.equal(logits(model), first)
    with pytest.raises(SwapError, match="nothing to undo"):
        swapping.__exit__(None, None, None)


def test_what_watches_a_norm_watches_the_one_that_replaces_it() -> None:
    model = tiny_lm.load("ln-gelu")
    block = discover(model, batch())[1]
    before, seen = state(model), []

    def keep(*found: Any) -> None:
        seen.append(found[-1])

    with interposed(model, writers(block, "normed"), keep):
        with swap(model, norm="rmsnorm", blocks=[1], example=batch()):
            seen.clear()
            logits(model)
            during = seen.pop()
        logits(model)
        assert not torch.equal(seen.pop(), during)
    assert state(model) == before


def test_whoever_leaves_last_gives_the_forward_back() -> None:
    model = tiny_lm.load("ln-gelu")
    block = discover(model, batch())[1]
    before, seen = state(model), []

    def keep(*found: Any) -> None:
        seen.append(found[-1])

    swapping = swap(model, activation="silu", example=batch())
    swapping.__enter__()
    with interposed(model, [*readers(block, ["hidden"]), *writers(block, "product")], keep):
        swapping.__exit__(None, None, None)
        seen.clear()
        logits(model)
        assert len(seen) == 2
    assert state(model) == before
