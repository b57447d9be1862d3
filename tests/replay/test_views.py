import numpy as np
import pandas as pd
import pytest
import torch

from ffn_probe import discover
from ffn_probe.replay.pairing import paired
from ffn_probe.replay.passes import capture, groups
from ffn_probe.replay.tokens import Tokens
from ffn_probe.replay.views import Views
from ffn_probe.swaps.interpose import readers
from sample_runs.tiny_lm import TinyLM, held_back, load
from tests.replay.planted import state_of, with_quick_gelu, with_rms_norms, with_scaled


def seen(reference: TinyLM, candidate: TinyLM, *, slices: int = 1) -> pd.DataFrame:
    """Return the sums by layer, view and role over two batches."""
    batches = held_back(count=2, sequences=2, length=64)
    pairs = paired(discover(reference, batches[0]), discover(candidate, batches[0])).pairs
    views, first = Views(reference, candidate), 0
    for batch in batches:
        tokens = Tokens.of(batch, first)
        first += tokens.sequences
        for part in np.array_split(np.arange(len(pairs)), slices):
            views.add(batch, tokens, [pairs[i] for i in part], noise=True)
    rows = views.rows({p.a.name: p.a for p in pairs}, 0)["paired"]
    numbers = ["rows", "energy_a", "energy_b", "error", "dot", "cross"]
    return pd.DataFrame(rows).groupby(["layer", "view", "role"])[numbers].sum()


@pytest.fixture(scope="module")
def planted() -> pd.DataFrame:
    return seen(load("ln-gelu"), with_quick_gelu(1))


@pytest.fixture(scope="module")
def normed() -> pd.DataFrame:
    return seen(load("ln-gelu"), with_rms_norms())


def test_the_block_with_the_bug_is_the_only_one_with_an_error_of_its_own(planted):
    local = planted.xs("out", level="role").xs("local", level="view")["error"]
    assert local[1] > 0
    assert local.drop(1).tolist() == [0.0, 0.0, 0.0]


def test_the_stage_with_the_bug_is_the_only_one_that_injects_error(planted):
    stage = planted.xs("stage", level="view")["error"]
    assert stage[1, "hidden"] > 0
    assert stage.drop((1, "hidden")).max() == 0


def test_what_comes_after_is_inherited(planted):
    for layer in (2, 3):
        whole = planted.loc[layer, "end", "out"]["error"]
        assert whole > 0
        assert planted.loc[layer, "inherited", "out"]["error"] == pytest.approx(whole)


def test_local_and_inherited_and_twice_their_cross_term_are_the_whole(normed):
    for layer in range(4):
        whole = normed.loc[layer, "end", "out"]["error"]
        local = normed.loc[layer, "local", "out"]["error"]
        rest = normed.loc[layer, "inherited", "out"]
        assert whole == pytest.approx(local + rest["error"] + 2 * rest["cross"], rel=1e-12)
        assert local > 0
    assert abs(normed.xs("inherited", level="view")["cross"]).max() > 0


def test_a_norm_injects_at_the_norm_and_nowhere_else(normed):
    stage = normed.xs("stage", level="view")["error"].unstack("role")
    assert (stage["normed"] > 0).all()
    assert stage[["gate", "hidden", "out"]].to_numpy().max() == 0


def test_equal_models_have_no_error_in_any_view():
    found = seen(load("rms-swiglu"), load("rms-swiglu"))
    assert found["error"].max() == 0
    assert set(found.index.get_level_values("view")) == {
        "end", "local", "stage", "inherited", "noise",
    }  # fmt: skip


@pytest.mark.parametrize(("role", "path"), [("gate", "gate"), ("value", "up"), ("out", "down")])
def test_a_weight_injects_at_the_stage_that_it_makes(role, path):
    candidate = with_scaled("rms-swiglu", f"layers.2.ffn.{path}.weight", 1.01)
    stage = seen(load("rms-swiglu"), candidate).xs("stage", level="view")["error"]
    assert stage[2, role] > 0
    assert stage.drop((2, role)).max() == pytest.approx(0)


def test_blocks_replayed_one_by_one_give_the_same_sums(normed):
    alone = seen(load("ln-gelu"), with_rms_norms(), slices=4)
    pd.testing.assert_frame_equal(alone, normed, check_exact=False, rtol=1e-9)


def test_neither_model_is_changed():
    reference, candidate = load("ln-gelu"), with_rms_norms()
    before = [state_of(m) for m in (reference, candidate)]
    random = torch.random.get_rng_state()
    seen(reference, candidate)
    for model, old in zip((reference, candidate), before, strict=True):
        assert all(torch.equal(model.state_dict()[name], old[name]) for name in old)
        assert not any("forward" in vars(module) for module in model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(random, torch.random.get_rng_state())


def test_a_candidate_that_writes_into_its_input_does_not_reach_what_was_captured():
    reference, candidate = load("ln-gelu"), load("ln-gelu")
    norm = candidate.layers[1].ffn_norm

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = type(norm).forward(norm, x)
        x.zero_()
        return y

    norm.forward = forward
    batch = held_back(count=1, sequences=2, length=32)[0]
    blocks = discover(reference, batch)
    pairs, tokens = paired(blocks, blocks).pairs, Tokens.of(batch, 0)
    with torch.no_grad():
        shown = Views(reference, candidate).add(batch, tokens, pairs, noise=False)
    fresh, _ = capture(reference, batch, [e for block in blocks for e in readers(block)])
    assert all(torch.equal(shown.roles[key], value) for key, value in fresh.items())


def test_groups_fit_the_budget_and_hold_one_block_at_least():
    blocks = discover(load("ln-gelu"), held_back(count=1, sequences=1, length=16)[0])
    assert groups(blocks, 1000, 1) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert groups(blocks, 1000, 1 << 40) == [(0, 4)]
    assert groups([], 1000, 1) == []
