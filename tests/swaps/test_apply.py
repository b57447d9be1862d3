"""apply changes a model for good: its weights save and load, it can be copied and pickled."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ffn_probe.discover import discover
from ffn_probe.errors import SwapError
from ffn_probe.swaps import Swap, apply, swap, swapped
from sample_runs import tiny_lm
from tests.swaps.plain import Glu, drawn, rows
from tests.swaps.states import batch, logits, state

WISHES = [
    ("ln-gelu", "norm=rmsnorm,activation=silu"),
    ("ln-gelu", "norm=rmsnorm,how=matched,activation=relu"),
    ("ln-gelu", "gating=gated"),
    ("rms-swiglu", "gating=mlp"),
    ("rms-swiglu", "gating=gpt_oss_swiglu:limit=2,norm=dyt"),
    ("rms-swiglu", "quantize=w_down:int8:channel,quantize=hidden:int8:token"),
    ("rms-swiglu", "dtype=bf16"),
]


@pytest.mark.parametrize(("name", "text"), WISHES)
def test_the_weights_of_an_applied_swap_save_and_load(
    name: str, text: str, tmp_path: Path
) -> None:
    model, wanted = tiny_lm.load(name), Swap.parse(text)
    done = apply(model, wanted, example=batch(), calibration=[batch()])
    out = logits(model)
    assert done.text == wanted.text
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = tiny_lm.TinyLM(tiny_lm.VARIANTS[name]).eval()
    apply(fresh, wanted, example=batch(), calibration=[batch()])
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(logits(fresh), out)


@pytest.mark.parametrize(("name", "text"), WISHES)
def test_a_swapped_model_can_be_copied_and_the_copy_stays_swapped(
    name: str, text: str, tmp_path: Path
) -> None:
    model, wanted = tiny_lm.load(name), Swap.parse(text)
    original = logits(model)
    with swapped(model, wanted, example=batch(), calibration=[batch()]):
        out = logits(model)
        copy = deepcopy(model)
        torch.save(model, tmp_path / "model.pt")
    assert torch.equal(logits(model), original)
    assert torch.equal(logits(copy), out)
    assert torch.equal(logits(torch.load(tmp_path / "model.pt", weights_only=False)), out)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), original)


def test_a_copy_trains_its_own_value_path() -> None:
    model = tiny_lm.load("ln-gelu")
    apply(model, Swap.parse("gating=gated"), example=batch())
    copy = deepcopy(model)
    copy(**batch()).sum().backward()
    assert copy.layers[0].ffn.value_path.bias.grad is not None
    assert model.layers[0].ffn.value_path.bias.grad is None


def test_an_applied_swap_is_no_longer_undone_and_others_go_on_top() -> None:
    model, x = drawn(Glu()), rows()
    apply(model, Swap(activation="relu"), example=(x,))
    before = state(model)
    with swap(model, activation="mish", norm="rmsnorm", example=(x,)):
        assert discover(model, (x,))[0].activation == "mish"
    assert state(model) == before
    expected = x + model.down(F.relu(model.gate(model.norm(x))) * model.up(model.norm(x)))
    torch.testing.assert_close(model(x), expected)


def test_nothing_is_applied_for_good_on_top_of_what_is_to_be_undone() -> None:
    model, x = drawn(Glu()), rows()
    before = state(model)
    with swap(model, norm="rmsnorm", example=(x,)):
        with pytest.raises(SwapError, match="on top of the swap norm=rmsnorm"):
            apply(model, Swap(norm="dyt"), example=(x,))
        apply(deepcopy(model), Swap(norm="dyt"), example=(x,))
    assert state(model) == before


def test_an_apply_that_fails_changes_nothing() -> None:
    model, x = drawn(Glu()), rows()
    before = state(model)
    with pytest.raises(SwapError, match="pass calibration="):
        apply(model, Swap(norm="rmsnorm", gating="mlp"), example=(x,))
    assert state(model) == before


def test_a_model_that_no_longer_runs_is_given_back() -> None:
    class Wide(nn.LayerNorm):
        def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return super().forward(x) * scale

    class Odd(Glu):
        def __init__(self) -> None:
            super().__init__()
            self.norm = Wide(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.norm(x, scale=1.0)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    model, x = drawn(Odd()), rows()
    before = state(model)
    with pytest.raises(SwapError, match="does not run with the swap"):
        apply(model, Swap(norm="rmsnorm"), example=(x,))
    assert state(model) == before
