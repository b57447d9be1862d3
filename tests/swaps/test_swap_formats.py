"""Fake quantization and dtypes: which tensor is rounded, how, and that the rest is not."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_probe.discover import discover
from ffn_probe.errors import SwapError
from ffn_probe.formats import FORMATS, fake_quantize, int8_sqnr_db
from ffn_probe.swaps import swap
from sample_runs import tiny_lm
from tests.swaps.plain import Glu, Mlp, drawn, hidden_of, rows
from tests.swaps.states import batch, bits, db, logits

EVERY = [(name, scope) for name, form in FORMATS.items() for scope in form.granularities]


def stored(values: Tensor, form: str, scope: str, group: int = 128) -> Tensor:
    flat = values.detach().reshape(-1, values.shape[-1]).numpy()
    made = fake_quantize(flat, form, granularity=scope, group=group)
    return torch.from_numpy(made).reshape(values.shape)


@pytest.mark.parametrize(("form", "scope"), EVERY)
def test_a_tensor_is_rounded_in_every_format_and_scope(form: str, scope: str) -> None:
    model, x = drawn(Mlp(32, 128)), rows(width=32)
    before = hidden_of(model, x)
    with swap(model, quantize={"hidden": f"{form}:{scope}"}, example=(x,)):
        torch.testing.assert_close(
            hidden_of(model, x), stored(before, form, scope), rtol=0, atol=0
        )


@pytest.mark.parametrize(("form", "scope"), [p for p in EVERY if p[1] != "token"])
def test_a_matrix_is_rounded_by_its_outputs_or_along_its_inputs(form: str, scope: str) -> None:
    model, x = drawn(Mlp(32, 128)), rows(width=32)
    weight = model.down.weight
    expected = stored(weight, form, "token" if scope == "channel" else scope)
    with swap(model, quantize={"w_down": f"{form}:{scope}"}, example=(x,)) as done:
        assert torch.equal(model.down.weight, expected)
        assert model.down.weight.requires_grad
    assert model.down.weight is weight
    assert done.changed[0].path == "down.weight"


ROLES = ["resid", "normed", "gate", "gate_act", "value", "hidden", "out"]


@pytest.mark.parametrize("role", ROLES)
def test_any_role_can_be_rounded_and_the_model_computes_with_it(role: str) -> None:
    model, x = drawn(Glu()), rows()

    def q(t: Tensor, at: str) -> Tensor:
        return stored(t, "int4", "token") if at == role else t

    h = q(model.norm(q(x, "resid")), "normed")
    gate, value = q(model.gate(h), "gate"), q(model.up(h), "value")
    out = q(model.down(q(q(F.silu(gate), "gate_act") * value, "hidden")), "out")
    with swap(model, quantize={role: "int4:token"}, example=(x,)):
        torch.testing.assert_close(model(x), x + out)


def test_rounding_a_norm_leaves_what_else_reads_it() -> None:
    class Parallel(Mlp):
        def __init__(self) -> None:
            super().__init__(norm=nn.LayerNorm(16))
            self.other = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(x)
            return x + self.down(self.act(self.up(h))) + self.other(h.cumsum(1))

    model, x = drawn(Parallel()), rows()
    rounded = stored(model.norm(x), "int4", "token")
    with swap(model, quantize={"normed": "int4:token"}, example=(x,)):
        assert torch.equal(hidden_of(model, x, "up"), rounded)
        torch.testing.assert_close(hidden_of(model, x, "other"), model.norm(x).cumsum(1))


def test_one_half_of_a_fused_matrix_is_rounded_alone() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.down = nn.Linear(16, 48), nn.Linear(24, 16)

        def forward(self, x: Tensor) -> Tensor:
            gate, value = self.both(x).chunk(2, -1)
            return x + self.down(F.silu(gate) * value)

    model, x = drawn(Fused()), rows()
    old = model.both.weight.detach().clone()
    with swap(model, quantize={"w_up": "int8:channel"}, example=(x,)):
        assert torch.equal(model.both.weight[:24], old[:24])
        assert torch.equal(model.both.weight[24:], stored(old[24:], "int8", "token"))
    assert torch.equal(model.both.weight, old)


def test_a_tied_matrix_stays_tied_while_it_is_rounded() -> None:
    model, x = drawn(Mlp()), rows()
    model.down.weight = model.up.weight
    tied = model.up.weight
    with swap(model, quantize={"w_up": "int8:channel"}, example=(x,)):
        assert model.down.weight is model.up.weight
        assert model.up.weight is not tied
    assert model.down.weight is model.up.weight is tied


def test_the_gradient_passes_as_if_nothing_was_rounded() -> None:
    model, x = drawn(Mlp()), rows()
    model(x).sum().backward()
    exact = model.up.weight.grad.clone()
    model.zero_grad()
    with swap(model, quantize={"out": "int4:token"}, example=(x,)):
        y = model(x)
        assert torch.equal(y, x + stored(model.down(model.act(model.up(x))), "int4", "token"))
        y.sum().backward()
    torch.testing.assert_close(model.up.weight.grad, exact)


def test_values_that_are_not_finite_pass_with_a_gradient() -> None:
    model, x = drawn(Mlp()), rows()
    x[0, 0, 0] = float("inf")
    with swap(model, quantize={"gate": "bf16"}, example=(rows(),)):
        y = model(x.requires_grad_())
        assert torch.isfinite(y[0, 1:]).all()


def test_int8_follows_its_law() -> None:
    model = tiny_lm.load("rms-swiglu")
    before = _hidden(model)
    with swap(model, quantize={"hidden": "int8:tensor"}, blocks=[0], example=batch()):
        after = _hidden(model)
    crest = (before.abs().max() / before.square().mean().sqrt()).item()
    assert db(before, after) == pytest.approx(int8_sqnr_db(crest), abs=0.5)


def _hidden(model: nn.Module) -> Tensor:
    found: list[Tensor] = []
    hook = model.layers[0].ffn.down.register_forward_pre_hook(
        lambda _, args: found.append(args[0])
    )
    logits(model)
    hook.remove()
    return found[0]


def test_discovery_sees_the_blocks_of_a_quantized_model_as_they_are() -> None:
    model = tiny_lm.load("rms-swiglu")
    before = discover(model, batch())
    wish = {"hidden": "int8:token", "normed": "e4m3fn", "out": "int8", "gate": "int8"}
    with swap(model, quantize=wish, example=batch()):
        assert discover(model, batch()) == before


REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("ln-gelu", {"gate_act": "int8"}, "no role 'gate_act'; it has resid, normed, gate"),
    ("ln-gelu", {"w_gate": "int8"}, "has no w_gate; it has w_up, w_down"),
]


@pytest.mark.parametrize(("name", "wish", "reason"), REFUSED)
def test_what_a_block_has_not_cannot_be_rounded(
    name: str, wish: dict[str, str], reason: str
) -> None:
    swapping = swap(tiny_lm.load(name), quantize=wish, example=batch())
    with pytest.raises(SwapError, match=reason), swapping:
        pass


# ---- dtypes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float64"])
def test_a_model_in_another_dtype_is_the_cast_model_bit_for_bit(name: str) -> None:
    model, dtype = tiny_lm.load("ln-gelu"), getattr(torch, name)
    expected = logits(tiny_lm.load("ln-gelu").to(dtype))
    with swap(model, dtype=dtype, example=batch()) as done:
        assert torch.equal(logits(model), expected)
        assert {p.dtype for p in model.parameters()} == {dtype}
    assert (done.changed[0].before, done.changed[0].after) == ("float32", name)


def test_floating_inputs_are_cast_and_tied_parameters_stay_tied() -> None:
    model, x = drawn(Mlp()), rows()
    model.down.weight = model.up.weight
    model.register_buffer("scale", torch.ones(3))
    buffer, count = model.scale, model.up.weight
    with swap(model, dtype="bf16", example=(x,)):
        assert model(x).dtype == torch.bfloat16
        assert model.down.weight is model.up.weight
        assert model.scale.dtype == torch.bfloat16
    assert model.scale is buffer
    assert model.up.weight is model.down.weight is count


def test_one_block_in_another_dtype_is_cast_around() -> None:
    model = tiny_lm.load("rms-swiglu")
    x = torch.randn(2, 8, 96, generator=torch.Generator().manual_seed(0))
    low = tiny_lm.load("rms-swiglu").layers[1].ffn.to(torch.bfloat16)
    with swap(model, dtype="bf16", blocks=[1], example=batch()), torch.no_grad():
        assert torch.equal(model.layers[1].ffn(x), low(x.to(torch.bfloat16)).float())
        assert model.layers[1].ffn_norm.weight.dtype == torch.float32
        assert logits(model).dtype == torch.float32


def test_an_inline_block_is_cast_at_its_matrices() -> None:
    model, x = drawn(Mlp(norm=nn.LayerNorm(16))), rows()
    with swap(model, dtype="bf16", blocks=[0], example=(x,)), torch.no_grad():
        half = model.norm(x).to(torch.bfloat16)
        out = model.down.weight @ F.gelu(model.up.weight @ half.mT)
        torch.testing.assert_close(model(x), x + out.mT.float(), rtol=1e-2, atol=1e-2)
        assert (model.norm.weight.dtype, model(x).dtype) == (torch.float32, torch.float32)


def test_a_model_of_that_dtype_is_left() -> None:
    model = tiny_lm.load("ln-gelu")
    with swap(model, dtype="fp32", example=batch()) as done:
        pass
    assert (done.changed, done.left[0].why) == ((), "it is float32 already")


def test_parts_of_one_swap_work_together() -> None:
    model = tiny_lm.load("ln-gelu")
    wish: dict[str, Any] = {
        "norm": "rmsnorm", "norms": "all", "activation": "silu", "gating": "gated",
        "dtype": "bf16", "quantize": {"hidden": "int8:token", "w_down": "int8:channel"},
    }  # fmt: skip
    kept = [bits(p) for p in model.parameters()]
    with swap(model, example=batch(), **wish) as done:
        block = discover(model, batch())[0]
        out = logits(model)
    assert (block.kind, block.activation, block.norm.function) == ("glu", "silu", "rmsnorm")
    assert out.dtype == torch.bfloat16
    assert {c.part for c in done.changed} == {"norm", "gating", "dtype", "quantize"}
    assert [bits(p) for p in model.parameters()] == kept
    assert np.isfinite(out.float().numpy()).all()
