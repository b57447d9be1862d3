"""Swaps on transformers models: what a configuration would have made of the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_probe.discover import discover
from ffn_probe.probes import record
from ffn_probe.swaps import swap
from tests.discover.architectures import ARCHITECTURES, Architecture
from tests.swaps.states import state

BY_NAME = {a.name: a for a in ARCHITECTURES}


def logits(model: nn.Module, example: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return model(**example).logits


def sibling(known: Architecture, model: nn.Module, **changes: Any) -> nn.Module:
    """Return transformers' own model of another configuration, with the weights of `model`."""
    other = type(model)(type(model.config)(**{**known.config, **changes})).eval()
    other.load_state_dict(model.state_dict())
    return other


CONFIGURED = [
    ("llama", {"hidden_act": "gelu"}, "gelu"),
    ("llama", {"hidden_act": "relu"}, "relu"),
    ("llama", {"hidden_act": "gelu_pytorch_tanh"}, "gelu_tanh"),
    ("gpt2", {"activation_function": "relu"}, "relu"),
    ("gpt2", {"activation_function": "silu"}, "silu"),
    ("gpt2", {"activation_function": "quick_gelu"}, "quick_gelu"),
    ("mixtral", {"hidden_act": "gelu"}, "gelu"),
    ("qwen3_moe", {"hidden_act": "relu2"}, "relu2"),
    ("phi3", {"hidden_act": "mish"}, "mish"),
    ("gemma2", {"hidden_activation": "silu", "hidden_act": "silu"}, "silu"),
]


@pytest.mark.parametrize(
    ("name", "config", "activation"), CONFIGURED, ids=[f"{n} {a}" for n, _, a in CONFIGURED]
)
def test_a_swapped_activation_is_the_configured_one(
    name: str, config: dict[str, Any], activation: str
) -> None:
    known = BY_NAME[name]
    model, example = known.build(noise=0.2)
    before = state(model)
    expected = logits(sibling(known, model, **config), example)
    assert not torch.allclose(logits(model, example), expected, rtol=1e-3, atol=1e-5)
    with swap(model, activation=activation, example=example):
        torch.testing.assert_close(logits(model, example), expected, rtol=1e-4, atol=2e-6)
        assert {b.activation for b in discover(model, example)} == {activation}
    assert state(model) == before


def test_experts_as_modules_are_all_swapped() -> None:
    known = BY_NAME["phimoe"] if "phimoe" in BY_NAME else BY_NAME["mixtral"]
    model, example = known.build(noise=0.2)
    expected = logits(sibling(known, model, hidden_act="relu"), example)
    with swap(model, activation="relu", example=example):
        torch.testing.assert_close(logits(model, example), expected, rtol=1e-4, atol=2e-6)


def test_gpt_oss_experts_take_another_joint_gate() -> None:
    model, example = BY_NAME["gpt_oss"].build(noise=0.2)

    class Plain(type(model.model.layers[0].mlp.experts)):  # type: ignore[misc]
        def _apply_gate(self, gate_up: Tensor) -> Tensor:
            return F.silu(gate_up[..., ::2]) * gate_up[..., 1::2]

    wish = {"gating": "swiglu"}
    with swap(model, example=example, **wish):
        found = logits(model, example)
        assert {b.activation for b in discover(model, example)} == {"silu"}
    for layer in model.model.layers:
        layer.mlp.experts.__class__ = Plain
    torch.testing.assert_close(found, logits(model, example), rtol=1e-4, atol=2e-6)


def test_layernorms_of_gpt2_become_the_rmsnorms_of_torch() -> None:
    model, example = BY_NAME["gpt2"].build(noise=0.2)
    twin, _ = BY_NAME["gpt2"].build(noise=0.2)
    for layer in twin.transformer.h:
        plain = nn.RMSNorm(32, eps=layer.ln_2.eps)
        plain.weight = layer.ln_2.weight
        layer.ln_2 = plain
    with swap(model, norm="rmsnorm", example=example) as done:
        torch.testing.assert_close(
            logits(model, example), logits(twin, example), rtol=1e-5, atol=1e-6
        )
        assert {b.norm.function for b in discover(model, example)} == {"rmsnorm"}
    assert [c.path for c in done.changed] == ["transformer.h.0.ln_2", "transformer.h.1.ln_2"]


def test_every_norm_of_llama_becomes_a_layernorm() -> None:
    model, example = BY_NAME["llama"].build(noise=0.2)
    with swap(model, norm="layernorm", norms="all", example=example) as done:
        assert not any("RMSNorm" in type(m).__name__ for m in model.modules())
        assert {b.norm.kind for b in discover(model, example)} == {"layernorm"}
        model.generate(example["input_ids"], max_new_tokens=2)
    assert len(done.changed) == 5
    assert {c.before for c in done.changed} <= {"rmsnorm", "rmsnorm_fp32"}


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gpt_oss"])
def test_a_swapped_model_is_recorded(name: str, tmp_path: Path) -> None:
    model, example = BY_NAME[name].build(noise=0.2)
    wish = {"activation": "relu", "norm": "prmsnorm"}
    before = state(model)
    with swap(model, example=example, **wish):
        blocks = discover(model, example)
        run = record(model, [example, example], to=tmp_path / "run", rows="all")
    assert {b.activation for b in run.manifest.blocks} == {"relu"}
    assert {b.norm.function for b in run.manifest.blocks} == {"prmsnorm"}
    role = "gate_act" if any("gate_act" in b.roles for b in blocks) else "hidden"
    sites = [s for s in run.sites if s.role == role]
    assert sites
    for site in sites:
        histogram = run.summary(site).histogram
        assert histogram.zeros > 0
        assert histogram.quantile(0.0) >= 0 or role == "hidden"
    assert state(model) == before


def test_packed_experts_are_quantized_each_with_scales_of_its_own() -> None:
    model, example = BY_NAME["mixtral"].build(noise=0.2)
    experts = model.model.layers[0].mlp.experts
    old = experts.down_proj.detach().clone()
    with swap(model, quantize={"w_down": "int8:tensor"}, blocks=[0], example=example):
        new = experts.down_proj
        for before, after in zip(old, new, strict=True):
            step = before.abs().max() / 127
            torch.testing.assert_close(after, (before / step).round() * step)
    assert torch.equal(experts.down_proj, old)


def test_the_library_of_these_tests_is_the_one_they_were_written_for() -> None:
    assert int(transformers.__version__.split(".")[0]) >= 5
