"""Packed experts of transformers read the same in every way that they are run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

import ffn_probe as fp

SIZE = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
    "num_experts_per_tok": 2,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZE)),
    "gpt_oss": lambda: GptOssForCausalLM(GptOssConfig(**SIZE, head_dim=8)),
}
WAYS = ("eager", "grouped_mm", "batched_mm")


def model_of(name: str, way: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    model.set_experts_implementation(way)
    return model


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(4, 16, dtype=torch.long)
    mask[1:, 11:] = 0  # padded on the right
    return [
        {"input_ids": torch.randint(99, (4, 16), generator=generator), "attention_mask": mask}
        for _ in range(2)
    ]


def routed(model: PreTrainedModel) -> dict[tuple[int, int], int]:
    """Return (layer, expert) -> tokens given to it, padding left out, from the router."""
    counts: dict[tuple[int, int], int] = {}
    real: list[Tensor] = []

    def count(layer: int, top: Tensor) -> None:
        for expert in top.reshape(-1, top.shape[-1])[real[0]].flatten().tolist():
            counts[layer, expert] = counts.get((layer, expert), 0) + 1

    hooks = [
        layer.mlp.experts.register_forward_pre_hook(
            lambda _, args, kwargs, i=i: count(
                i, args[1] if len(args) > 1 else kwargs["top_k_index"]
            ),
            with_kwargs=True,
        )
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for batch in batches():
            real[:] = [batch["attention_mask"].flatten().bool()]
            model(**batch)
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", list(MODELS))
def test_every_expert_holds_the_tokens_that_the_router_gave_it(
    name: str, way: str, tmp_path: Path
) -> None:
    model = model_of(name, way)
    expected = routed(model)
    with torch.no_grad():
        bare = model(**batches()[0]).logits
    run = fp.record(model, batches(), to=tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(model(**batches()[0]).logits, bare)
    for role in ("gate", "value", "hidden"):
        found = {
            (site.layer, site.expert): run.rows(site)[0]
            for site in run.sites
            if site.role == role
        }
        assert found == expected


@pytest.mark.parametrize("name", list(MODELS))
def test_statistics_are_the_same_in_every_way(name: str, tmp_path: Path) -> None:
    runs = [fp.record(model_of(name, w), batches(), to=tmp_path / w) for w in WAYS]
    sites = [site for site in runs[0].sites if site.role in {"gate", "hidden", "out"}]
    assert len(sites) == 2 * 4 * 3
    for site in sites:
        rms = [run.summary(site).moments.rms for run in runs]
        assert rms == pytest.approx([rms[0]] * 3, rel=1e-5)
        tops = [abs(run.summary(site).extremes.top["value"][0]) for run in runs]
        assert tops == pytest.approx([tops[0]] * 3, rel=1e-4)
        places = {tuple(run.summary(site).extremes.top[0].tolist()[1:]) for run in runs}
        assert len(places) == 1
