"""Rarer bugs, each planted in one model."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffn_probe.replay.autopsy import Autopsy, autopsy
from tests.replay.autopsy.hosts import HOSTS, LAYER, batches, blocks, reference
from tests.replay.autopsy.planted import Written, WrittenNorm, numbers


def _judged(name: str, other: nn.Module) -> Autopsy:
    return autopsy(
        reference(name), other, batches(), found=blocks(name), blocks=[LAYER], rows=256
    )


def _with_norm(name: str, formula: Callable[..., Tensor]) -> nn.Module:
    model = copy.deepcopy(reference(name))
    layer = model.get_submodule(HOSTS[name].layer)
    old = layer.get_submodule(HOSTS[name].norm)
    new = WrittenNorm(old.weight, getattr(old, "bias", None), formula)
    setattr(layer, HOSTS[name].norm, new)
    return model.eval()


def _with_hidden(name: str, hidden: Callable[[Tensor, Tensor | None], Tensor]) -> nn.Module:
    model = copy.deepcopy(reference(name))
    ffn = Written(numbers(HOSTS[name], model), hidden)
    setattr(model.get_submodule(HOSTS[name].layer), HOSTS[name].ffn, ffn)
    return model.eval()


def _by_n_less_1(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt() * w + b


def _unit_length(x: Tensor, w: Tensor, _: Tensor | None) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True) * w


def _uncentred(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * w + b


@pytest.mark.parametrize(
    ("host", "formula", "name"),
    [
        ("gpt2", _by_n_less_1, "variance with n - 1"),
        ("gpt2", _uncentred, "mean not subtracted from what is scaled"),
        ("llama", _unit_length, "unit length instead of unit RMS"),
    ],
)
def test_a_rarer_bug_of_a_norm(host: str, formula: Callable[..., Tensor], name: str) -> None:
    found = _judged(host, _with_norm(host, formula))
    assert found.bugs[0].stage == "norm"
    assert found.bugs[0].hypotheses[0].name == name, found.verdict


def test_a_clamp_that_was_added() -> None:
    def hidden(gate: Tensor, up: Tensor | None) -> Tensor:
        assert up is not None
        return F.silu(gate.clamp(max=7.0)) * up.clamp(-7.0, 7.0)

    model = copy.deepcopy(reference("llama"))
    for matrix in ("gate_proj", "up_proj"):
        model.model.layers[1].mlp.get_submodule(matrix).weight.data *= 3
    other = copy.deepcopy(model)
    other.model.layers[1].mlp = Written(numbers(HOSTS["llama"], model), hidden)
    found = autopsy(model, other.eval(), batches(), blocks=[LAYER])
    assert found.bugs[0].hypotheses[0].name == "clamp at 7 added", found.verdict


def test_up_weights_loaded_into_the_gate() -> None:
    other = copy.deepcopy(reference("llama"))
    mlp = other.model.layers[1].mlp
    mlp.gate_proj.weight.data = mlp.up_proj.weight.data.clone()
    found = _judged("llama", other)
    assert found.bugs[0].hypotheses[0].name == "up weights loaded into gate", found.verdict


def _int8_tokens(x: Tensor, stale: float = 1.0) -> Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 127 * stale
    return (x / scale).round().clamp(-127, 127) * scale


@pytest.mark.parametrize(
    ("stale", "status", "name"),
    [
        (1.0, "harmless", "activations quantized"),
        (0.25, "bug", "quantization scale stale"),
    ],
)
def test_a_hidden_that_is_quantized_by_token(stale: float, status: str, name: str) -> None:
    def hidden(gate: Tensor, up: Tensor | None) -> Tensor:
        assert up is not None
        return _int8_tokens(F.silu(gate) * up, stale)

    found = _judged("llama", _with_hidden("llama", hidden))
    best = next(h for h in found.hypotheses if h.reached)
    assert best.name == name, found.verdict
    assert [f.status for f in found.findings if f.stage == "ffn"] == [status]


def test_an_ffn_that_is_left_out_of_the_sum() -> None:
    class Dropped(nn.Module):
        def __init__(self, old: nn.Module) -> None:
            super().__init__()
            self.attn_norm, self.attn = old.attn_norm, old.attn
            self.ffn_norm, self.ffn = old.ffn_norm, old.ffn

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(self.attn_norm(x))
            self.ffn(self.ffn_norm(x))
            return x

    other = copy.deepcopy(reference("fused"))
    other.layers[1] = Dropped(other.layers[1])
    found = _judged("fused", other)
    assert found.bugs[0].hypotheses[0].name == "FFN output dropped", found.verdict


def test_weights_whose_scale_is_not_applied() -> None:
    other = copy.deepcopy(reference("llama"))
    weight = other.model.layers[1].mlp.down_proj.weight
    scale = weight.detach().abs().amax(1, keepdim=True) / 127
    weight.data = (weight.detach() / scale).round()
    found = _judged("llama", other)
    assert found.bugs[0].hypotheses[0].name == "quantization scale not applied", found.verdict
    assert torch.isfinite(torch.tensor(found.bugs[0].measured_db))
