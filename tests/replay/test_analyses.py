import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ffn_probe.replay import Options, replay
from ffn_probe.runs import Run
from sample_runs.tiny_lm import VARIANTS, TinyLM, held_back, load
from tests.discover.architectures import ARCHITECTURES

ONCE = Options(noise=1, patch=0, rows=64)


def theory(run: Run) -> dict[tuple[int, str, str], float]:
    frame = run.table("effects").query("analysis == 'theory'")
    sums = frame.groupby(["layer", "part", "metric"])[["value", "count"]].sum()
    return {key: row["value"] / row["count"] for key, row in sums.iterrows()}


def aligned(share: float) -> LlamaForCausalLM:
    """Return a fresh Llama whose gate and up projections have rows in common."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=256, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        up = share * mlp.gate_proj.weight + (1 - share**2) ** 0.5 * mlp.up_proj.weight
        mlp.up_proj.weight.copy_(up)
    return model


@pytest.mark.parametrize("share", [0.5, -0.9])
def test_the_mean_of_hidden_is_half_the_covariance_of_gate_and_value(share, tmp_path):
    generator = torch.Generator().manual_seed(0)
    batches = [
        {"input_ids": torch.randint(300, (8, 64), generator=generator)} for _ in range(2)
    ]
    found = theory(
        replay(aligned(0.0), aligned(share), batches, to=tmp_path / "r", options=ONCE)
    )
    seen = found[0, "mean_hidden_candidate", "observed"]
    assert found[0, "mean_hidden_candidate", "expected"] == pytest.approx(seen, rel=0.05)
    assert (seen > 0) == (share > 0)
    assert abs(found[0, "mean_hidden_reference", "observed"]) < 0.1 * abs(seen)


def test_trained_gates_of_another_mean_are_outside_of_that_theory(tmp_path):
    model = load("rms-swiglu")
    run = replay(model, model, held_back(count=1, sequences=2), to=tmp_path / "r", options=ONCE)
    assert not any(part.startswith("mean_hidden") for _, part, _ in theory(run))


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_a_glu_in_place_of_an_mlp_rescales_as_theory_says(std, tmp_path):
    fresh = []
    for name in ("ln-gelu", "ln-swiglu"):
        torch.manual_seed(1)
        model = TinyLM(VARIANTS[name]).eval()
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if ".ffn." in path:
                    parameter.normal_(std=std)
        fresh.append(model)
    run = replay(*fresh, held_back(count=2, sequences=2), to=tmp_path / "r", options=ONCE)
    for layer in range(4):
        expected, seen = (theory(run)[layer, "std_ratio", m] for m in ("expected", "observed"))
        assert seen == pytest.approx(expected, rel=0.1)
        assert seen < 0.8
    (told,) = [t for t in run.explain().blocks[0].theory if t.name == "std_ratio"]
    assert told.verdict == "expected"


def test_parts_that_do_not_make_the_block_are_not_used(tmp_path):
    bitnet = next(a for a in ARCHITECTURES if a.name == "bitnet")
    model, example = bitnet.build(noise=0.1)
    run = replay(model, model, [example], to=tmp_path / "r", options=ONCE)
    notes = [text for text in run.manifest.warnings if "run from its parts" in text]
    assert len(notes) == 2 * len(run.blocks)
