from collections.abc import Iterator
from types import MethodType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ffn_probe.errors import CompareError, ExampleError, RunError, UnknownName
from ffn_probe.replay import Options, replay
from ffn_probe.runs import Run
from ffn_probe.swaps import Swap
from sample_runs.tiny_lm import held_back, load
from tests.replay.planted import state_of, with_quick_gelu, with_rms_norms

QUICK = Options(noise=1, patch=1, rows=64)
SMALL = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    return held_back(count=count, sequences=2, length=48)


def ids(count: int = 2, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"input_ids": torch.randint(1, 50, (2, 12), generator=generator)} for _ in range(count)
    ]


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **changes})).eval()


def errors(run: Run, view: str) -> pd.Series:
    frame = run.table("paired")
    frame = frame[frame["view"] == view]
    return frame.groupby(["layer", "role"])["error"].sum()


def effects(run: Run, analysis: str) -> pd.DataFrame:
    frame = run.table("effects")
    frame = frame[frame["analysis"] == analysis]
    return frame.groupby(["layer", "part", "metric"])[["value", "count"]].sum()


# ---- what a run holds -------------------------------------------------------------------


def test_a_planted_bug_is_the_only_local_error_and_its_patch_the_only_repair(tmp_path):
    run = replay(
        load("ln-gelu"), with_quick_gelu(1), batches(), to=tmp_path / "r", options=QUICK
    )
    assert run.closed
    assert run.manifest.kind == "paired"
    assert errors(run, "local").xs("out", level="role").gt(0).tolist() == [0, 1, 0, 0]
    patch = effects(run, "patch")["value"]
    whole = patch[-1, "none", "error"]
    assert whole > 0
    assert patch[1, "back", "error"] < 1e-6 * whole
    assert patch[1, "in", "error"] == pytest.approx(whole, rel=1e-4)
    assert patch[2, "back", "error"] == pytest.approx(whole, rel=1e-4)
    assert patch[1, "back:activation", "error"] < 1e-6 * whole
    assert patch[1, "in:activation", "error"] == pytest.approx(whole, rel=1e-4)
    shares = effects(run, "shapley")["value"]
    assert shares[1, "activation", "error"] == pytest.approx(shares[1, "total", "error"])


def test_outputs_are_counted_a_token_and_the_noise_of_equal_models_is_nothing(tmp_path):
    run = replay(load("ln-gelu"), load("ln-gelu"), batches(), to=tmp_path / "r", options=QUICK)
    found = effects(run, "output")
    assert found.loc[(-1, "candidate", "kl"), "count"] == 3 * 2 * 48
    assert found.loc[(-1, "candidate", "loss_a"), "count"] == 3 * 2 * 47
    assert found.loc[(-1, "candidate", "top1"), "value"] == 3 * 2 * 48
    assert found.loc[(-1, "noise", "error"), "value"] == pytest.approx(0, abs=1e-3)
    for view in ("end", "local", "stage", "inherited"):
        assert errors(run, view).max() == 0


def test_folds_are_groups_of_sequences(tmp_path):
    run = replay(load("ln-gelu"), load("ln-gelu"), batches(9), to=tmp_path / "r", options=QUICK)
    frame = run.table("paired")
    assert sorted(frame["fold"].unique()) == list(range(16))
    rows = frame[(frame["view"] == "end") & (frame["role"] == "out") & (frame["layer"] == 0)]
    assert rows.set_index("fold")["rows"].to_dict() == {
        fold: 48 * (2 if fold < 2 else 1) for fold in range(16)
    }


def test_a_swap_makes_the_candidate_and_its_two_by_two(tmp_path):
    swap = Swap(norm="rmsnorm", activation="silu")
    reference = load("ln-gelu")
    before = state_of(reference)
    run = replay(reference, None, batches(), to=tmp_path / "r", swap=swap, options=QUICK)
    cells = effects(run, "factorial")["value"]
    assert cells[-1, "v00", "error"] == 0
    assert cells[-1, "v10", "error"] > 0
    assert cells[-1, "v01", "error"] > 0
    patch = effects(run, "patch")["value"]
    assert cells[-1, "v11", "error"] == pytest.approx(patch[-1, "none", "error"], rel=1e-5)
    assert Swap.from_dict(run.manifest.paired["swap"]) == swap
    norm = Swap(norm="rmsnorm")
    alone = replay(reference, None, batches(), to=tmp_path / "n", swap=norm, options=QUICK)
    whole = effects(alone, "patch")["value"][-1, "none", "error"]
    assert cells[-1, "v10", "error"] == pytest.approx(whole, rel=1e-5)
    assert {"norm", "activation"} == {
        part for (layer, part, _), row in effects(run, "shapley").iterrows()
        if layer == 1 and row["value"] > 0 and part in {"norm", "activation", "w_up", "w_down"}
    }  # fmt: skip
    assert all(torch.equal(reference.state_dict()[k], v) for k, v in before.items())


def test_the_energies_of_a_norm_predict_what_is_seen(tmp_path):
    run = replay(load("ln-gelu"), with_rms_norms(), batches(), to=tmp_path / "r", options=QUICK)
    found = effects(run, "norm")["value"].xs("error", level="metric").unstack("part")
    assert np.allclose(found["predicted"], found["observed"], rtol=1e-3)
    assert np.allclose(
        found["observed"], errors(run, "stage").xs("normed", level="role"), rtol=1e-3
    )


def test_the_error_of_an_activation_is_the_one_of_its_formula(tmp_path):
    run = replay(
        load("rms-swiglu"), None, batches(), to=tmp_path / "r", swap=Swap(activation="gelu"),
        options=QUICK,
    )  # fmt: skip
    frame = run.table("activation_error")
    stage = errors(run, "stage").xs("gate_act", level="role")
    for _, row in frame.iterrows():
        assert row["error"].sum() == pytest.approx(stage[row["layer"]], rel=1e-4)
        assert row["expected"].sum() == pytest.approx(row["error"].sum(), rel=1e-4)
    assert len(frame) == 4


def test_windows_add_up_to_one(tmp_path):
    models = load("ln-gelu"), with_quick_gelu(1)
    one = replay(*models, batches(4), to=tmp_path / "one", options=QUICK)
    two = replay(*models, batches(4), to=tmp_path / "two", options=Options(1, 1, 64, window=2))
    assert two.manifest.windows == 3
    assert np.allclose(errors(one, "end"), errors(two, "end"))
    assert one.manifest.steps == two.manifest.steps == 4


def test_one_block_at_a_time_gives_the_same(tmp_path):
    models = load("ln-gelu"), with_rms_norms()
    one = replay(*models, batches(2), to=tmp_path / "one", options=QUICK)
    two = replay(*models, batches(2), to=tmp_path / "two", options=Options(1, 1, 64, memory=1))
    for view in ("end", "local", "stage", "inherited", "noise"):
        assert np.allclose(errors(one, view), errors(two, view), rtol=1e-6)
    a, b = (effects(r, "output")["value"] for r in (one, two))
    pd.testing.assert_series_equal(a, b)


def test_chosen_blocks_are_the_only_ones(tmp_path):
    run = replay(
        load("ln-gelu"), with_rms_norms(), batches(1), to=tmp_path / "r", blocks=[-1],
        options=QUICK,
    )  # fmt: skip
    assert {b.layer for b in run.blocks} == {3}


# ---- models of other kinds --------------------------------------------------------------


def test_models_trained_apart_are_compared_by_distribution_and_cka(tmp_path):
    run = replay(
        load("ln-gelu"), load("rms-swiglu"), batches(), to=tmp_path / "r", options=QUICK
    )
    assert any("trained apart" in text for text in run.manifest.warnings)
    frame = run.table("paired")
    end = frame[(frame["view"] == "end") & (frame["role"] == "out")]
    assert end["reason"].str.contains("trained apart").all()
    assert (end["error"] == 0).all()
    assert not set(frame["view"]) & {"local", "stage", "inherited"}
    cka = end[["hsic_ab", "hsic_aa", "hsic_bb"]].sum()
    assert 0 < cka["hsic_ab"] / np.sqrt(cka["hsic_aa"] * cka["hsic_bb"]) < 1
    assert effects(run, "distribution").loc[(0, "apart", "ks"), "value"] > 0
    assert effects(run, "output").loc[(-1, "candidate", "kl"), "value"] > 0


def test_a_dtype_is_measured_against_the_reference_in_that_dtype(tmp_path):
    run = replay(
        load("rms-swiglu"), load("rms-swiglu").bfloat16(), batches(2), to=tmp_path / "r",
        options=QUICK,
    )  # fmt: skip
    assert "bfloat16" in run.manifest.paired["floors"]["how"]
    frame = run.table("paired").groupby(["view", "layer", "role"])[["error", "energy_a"]].sum()
    power = frame["error"] / frame["energy_a"]
    assert np.allclose(power["noise"][:, "hidden"], power["end"][:, "hidden"], rtol=0.5)


def test_gpt2_with_another_activation(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    a = GPT2LMHeadModel(GPT2Config(**sizes, **tokens)).eval()
    b = GPT2LMHeadModel(GPT2Config(**sizes, **tokens, activation_function="relu")).eval()
    b.load_state_dict(a.state_dict())
    run = replay(a, b, ids(), to=tmp_path / "r", options=QUICK)
    stage = errors(run, "stage")
    assert (stage[:, "hidden"] > 0).all()
    assert stage[:, "out"].max() == 0
    assert effects(run, "shapley")["value"][0, "activation", "error"] > 0


def test_experts_are_compared_where_their_rows_are_the_same(tmp_path):
    torch.manual_seed(0)
    config = MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4)
    a = MixtralForCausalLM(config).eval()
    b = MixtralForCausalLM(config).eval()
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        b.model.layers[1].mlp.experts.down_proj.mul_(1.1)
    run = replay(a, b, ids(), to=tmp_path / "r", options=QUICK)
    local, stage = errors(run, "local"), errors(run, "stage")
    assert local[1, "out"] > 0
    assert local[0, "out"] == 0
    assert stage[1, "hidden"] == 0
    frame = run.table("paired")
    routed = frame[(frame["view"] == "end") & (frame["role"] == "gate")]
    assert routed["reason"].str.contains("router").all()
    whole = frame[(frame["view"] == "end") & (frame["role"] == "out")]
    assert (whole["reason"] == "").all()


def test_an_encoder_and_a_decoder(tmp_path):
    torch.manual_seed(0)
    config = T5Config(vocab_size=50, d_model=16, d_ff=24, num_layers=1, num_heads=2, d_kv=8,
                      feed_forward_proj="gated-gelu")  # fmt: skip
    a, b = (T5ForConditionalGeneration(config).eval() for _ in range(2))
    b.load_state_dict(a.state_dict())
    data = [{**batch, "decoder_input_ids": batch["input_ids"][:, :7]} for batch in ids()]
    run = replay(a, b, data, to=tmp_path / "r", options=QUICK)
    assert len(run.blocks) == 2
    assert errors(run, "end").max() == 0


def test_a_block_without_its_activation_is_read_through_the_reference_s_taps(tmp_path):
    candidate = load("ln-gelu")
    ffn = candidate.layers[2].ffn
    ffn.forward = MethodType(lambda self, x: self.down(self.up(x)), ffn)
    run = replay(load("ln-gelu"), candidate, batches(), to=tmp_path / "r", options=QUICK)
    assert errors(run, "stage").gt(0).loc[2].to_dict() == {
        "gate": False, "hidden": True, "normed": False, "out": False,
    }  # fmt: skip
    assert run.explain().first_bad == (2, "layers.2.ffn", "activation")


# ---- bad input --------------------------------------------------------------------------


def test_nothing_to_replay_leaves_nothing(tmp_path):
    with pytest.raises(ExampleError, match="no batches"):
        replay(load("ln-gelu"), load("ln-gelu"), [], to=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_folder_that_exists_is_refused(tmp_path):
    with pytest.raises(RunError, match="exists already"):
        replay(load("ln-gelu"), load("ln-gelu"), batches(1), to=tmp_path)


def test_another_vocabulary_leaves_the_outputs_out_and_says_so(tmp_path):
    a, b = llama(), llama(vocab_size=60)
    b.model.layers.load_state_dict(a.model.layers.state_dict())
    with torch.no_grad():
        b.model.embed_tokens.weight[:50] = a.model.embed_tokens.weight
    run = replay(a, b, ids(), to=tmp_path / "r", options=QUICK)
    assert any("(2, 12, 50) and (2, 12, 60)" in text for text in run.manifest.warnings)
    assert "candidate" not in set(run.table("effects").query("analysis == 'output'")["part"])
    assert errors(run, "local").max() == 0


def test_another_width_is_told_by_its_numbers(tmp_path):
    run = replay(llama(), llama(hidden_size=32), ids(), to=tmp_path / "r", options=QUICK)
    reasons = set(run.table("paired").query("view == 'end'")["reason"])
    assert reasons == {"the streams have 16 and 32 channels"}


def test_another_depth_is_met_at_equal_depth(tmp_path):
    run = replay(llama(), llama(num_hidden_layers=4), ids(), to=tmp_path / "r", options=QUICK)
    pairs = [(p["a"], p["b"]) for p in run.manifest.paired["pairs"]]
    assert pairs == [
        ("model.layers.0.mlp", "model.layers.0.mlp"),
        ("model.layers.1.mlp", "model.layers.3.mlp"),
    ]
    assert any("equal relative depth" in text for text in run.manifest.warnings)
    reasons = set(run.table("paired").query("view == 'end'")["reason"])
    assert reasons == {"the models have different numbers of layers"}


def test_nan_in_one_model_is_seen_first_where_it_begins(tmp_path):
    candidate = llama()
    with torch.no_grad():
        candidate.model.layers[1].mlp.up_proj.weight[0, 0] = np.nan
    run = replay(llama(), candidate, ids(), to=tmp_path / "r", options=QUICK)
    frame = run.table("paired").query("view == 'end'")
    bad = frame.groupby(["layer", "role"])[["nonfinite_a", "nonfinite_b"]].sum()
    assert bad["nonfinite_a"].sum() == 0
    assert bad["nonfinite_b"][0].sum() == 0
    assert bad["nonfinite_b"][1, "gate"] == 0
    assert bad["nonfinite_b"][1, "value"] > 0


def test_a_batch_that_the_candidate_rejects_names_it_and_keeps_the_rest(tmp_path):
    data = ids(3)
    data[2]["input_ids"] = data[2]["input_ids"] + 100
    with pytest.raises(ExampleError, match="the reference rejected a batch"):
        replay(llama(), llama(), data, to=tmp_path / "r", options=QUICK)
    run = Run.open(tmp_path / "r")
    assert run.closed
    assert run.manifest.steps == 2
    assert any("stopped early" in text for text in run.manifest.warnings)


def test_an_interrupt_keeps_what_was_replayed(tmp_path):
    def stream() -> Iterator[dict[str, torch.Tensor]]:
        yield from ids(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(llama(), llama(), stream(), to=tmp_path / "r", options=QUICK)
    assert Run.open(tmp_path / "r").manifest.steps == 2


def test_dropout_that_was_left_on_is_told(tmp_path):
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = load("ln-gelu")

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.inner(input_ids), 0.1, training=True)

    run = replay(Noisy(), Noisy(), batches(2), to=tmp_path / "r", options=QUICK)
    assert any("differs from itself" in text for text in run.manifest.warnings)
    quiet = replay(
        load("ln-gelu"), load("ln-gelu"), batches(2), to=tmp_path / "q", options=QUICK
    )
    assert not quiet.manifest.warnings


def test_training_mode_is_kept_when_asked_for_and_given_back(tmp_path):
    model = llama(attention_dropout=0.5).train()
    random = torch.random.get_rng_state()
    options = Options(1, 0, 64, keep_mode=True)
    run = replay(model, model, ids(), to=tmp_path / "r", options=options)
    assert any("differs from itself" in text for text in run.manifest.warnings)
    assert model.training
    assert torch.equal(random, torch.random.get_rng_state())
    run = replay(model, model, ids(), to=tmp_path / "e", options=QUICK)
    assert errors(run, "end").max() == 0
    assert all(module.training for module in model.modules())


def test_models_without_blocks_in_common(tmp_path):
    with pytest.raises(UnknownName, match=r"layers\.9"):
        replay(
            load("ln-gelu"), load("ln-gelu"), batches(1), to=tmp_path / "r",
            mapping={"layers.9.ffn": "layers.0.ffn"},
        )  # fmt: skip
    plain = nn.Sequential(nn.Embedding(256, 8), nn.Linear(8, 8))
    with pytest.raises(CompareError, match="no block of the candidate"):
        replay(load("ln-gelu"), plain, [b["input_ids"] for b in batches(1)], to=tmp_path / "r")
    assert not (tmp_path / "r").exists()
