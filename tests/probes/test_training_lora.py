"""A block in LoRA wrappers is read at the wrappers: as if the adapters were merged."""

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ffn_probe as fp
from ffn_probe.discover.matrices import read_matrix
from tests.probes.models import Tiny, tiny, tokens

peft: Any = importlib.import_module("peft")

TARGETS = ["gate", "up", "down"]


def adapted(**options: Any) -> nn.Module:
    """The tiny model with adapters that are far from zero."""
    chosen = {"r": 3, "target_modules": TARGETS, "init_lora_weights": False} | options
    return peft.inject_adapter_in_model(peft.LoraConfig(**chosen), tiny())


def merged(model: nn.Module) -> Tiny:
    """The same model with the adapters added to its weights by hand."""
    plain = tiny()
    for layer, other in zip(plain.layers, model.layers, strict=True):
        for name in TARGETS:
            lora = getattr(other, name)
            low, high = lora.lora_A["default"].weight, lora.lora_B["default"].weight
            with torch.no_grad():
                delta = high @ low * lora.scaling["default"]
                getattr(layer, name).weight += delta
    return plain


def loss_of(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"].flatten())


def test_every_role_and_gradient_is_that_of_the_merged_model(tmp_path: Path) -> None:
    runs = []
    model = adapted()
    for name, trained in (("lora", model), ("merged", merged(model))):
        with fp.attach(
            trained, to=tmp_path / name, example=tokens(), gradients=True, rows="all"
        ) as probe:
            loss_of(trained(**tokens()), tokens()).backward()
        runs.append(probe.run)
    lora, whole = runs
    unreached = {"layers.0/grad_resid", "layers.0/grad_normed"}  # all before is frozen
    assert {s.name for s in whole.sites} - {s.name for s in lora.sites} == unreached
    for site in lora.sites:
        a, b = lora.summary(site), whole.summary(site)
        assert a.moments.rms == pytest.approx(b.moments.rms, rel=1e-5)
        assert a.extremes.absmax == pytest.approx(b.extremes.absmax, rel=1e-5)
        assert a.channels.absmax == pytest.approx(b.channels.absmax, rel=1e-4)
    base = tiny()
    plain = fp.record(base, [tokens()], to=tmp_path / "base", rows="all")
    apart = [s for s in plain.sites if s.role in {"gate", "value", "hidden", "out"}]
    for site in apart:  # the adapters are not too small to be seen
        assert lora.summary(site).moments.rms > 1.02 * plain.summary(site).moments.rms


def test_the_weights_that_are_kept_are_the_merged_ones(tmp_path: Path) -> None:
    model = adapted()
    runs = [
        fp.record(m.eval(), [tokens()], to=tmp_path / name)
        for name, m in (("lora", model), ("merged", merged(model)))
    ]
    kept, expected = (run.weights("layers.0") for run in runs)
    assert kept is not None
    assert expected is not None
    for name in ("cos_gate_up", "norm_gate", "norm_up", "norm_down", "in_gate", "out_down"):
        assert getattr(kept, name) == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-5)


def test_an_adapter_that_is_off_or_merged_is_not_added_twice() -> None:
    model = adapted().eval()
    block = fp.discover(model, tokens())[0]
    whole = read_matrix(model, block, "down").weight.clone()
    assert torch.allclose(whole, merged(model).layers[0].down.weight, atol=1e-6)
    together = copy.deepcopy(model)
    together.layers[0].down.merge()
    assert torch.allclose(read_matrix(together, block, "down").weight, whole, atol=1e-6)
    model.layers[0].down.enable_adapters(enabled=False)
    assert torch.equal(read_matrix(model, block, "down").weight, tiny().layers[0].down.weight)


def test_a_variant_that_is_no_sum_is_measured_and_its_weights_are_said_missing(
    tmp_path: Path,
) -> None:
    model = adapted(use_dora=True).eval()
    run = fp.record(model, [tokens()], to=tmp_path / "run")
    assert run.weights("layers.0") is None
    assert any("adapters of a kind" in text for text in run.problems)
    down = read_matrix(model, run.blocks[0], "down")
    x = torch.randn(5, 40)
    assert down.bias is not None
    through = functional.linear(x, down.weight, down.bias)
    assert torch.allclose(model.layers[0].down(x), through, atol=1e-4)


def test_peft_models_by_their_own_wrapper_are_found(tmp_path: Path) -> None:
    """`get_peft_model` puts two modules around the model: names grow, numbers do not change."""
    config = peft.LoraConfig(r=3, target_modules=TARGETS, lora_dropout=0.2)
    model = peft.get_peft_model(Plain(), config).train()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), gradients=True) as probe:
        loss_of(model(**tokens()), tokens()).backward()
    names = {site.block for site in probe.run.sites}
    assert names == {"base_model.model.inner.layers.0", "base_model.model.inner.layers.1"}
    taps = {tap.role: tap.path.rpartition(".")[2] for tap in probe.run.blocks[0].taps}
    assert (taps["gate"], taps["value"], taps["hidden"]) == ("gate", "up", "down")
    assert taps["out"] == "down"
    assert not any(block.flags for block in probe.run.blocks)


class Plain(nn.Module):
    """A model with a name inside, as those of transformers are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.inner(input_ids)
