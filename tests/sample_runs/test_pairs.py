"""The stored replays tell the stories that they were made for, and can be made again."""

import json

import numpy as np
import pytest

import ffn_probe as fp
from ffn_probe.replay import Options
from sample_runs.make import HERE, PAIRS, digest
from sample_runs.tiny_lm import held_back, load

STATUS = {
    "planted": "bug",
    "swap-exact": "indistinguishable",
    "swap-naive": "expected",
    "trained-apart": "drift",
}


@pytest.mark.parametrize("name", list(STATUS))
def test_a_stored_replay_says_what_it_was_made_for(name):
    run = fp.Run.open(HERE / name)
    assert run.closed
    assert run.manifest.kind == "paired"
    assert run.explain().status == STATUS[name]


def test_every_pair_is_stored():
    assert set(PAIRS) | {"planted"} == set(STATUS)


def test_the_planted_bug_is_named_with_its_layer_and_the_line_to_change():
    told = fp.Run.open(HERE / "planted").explain()
    assert told.first_bad == (3, "encoder.layer.3", "activation")
    assert told.hypotheses[0].name == "activation: quick_gelu instead of gelu"
    assert 'hidden_act = "gelu"' in told.verdict


def test_the_exact_swap_keeps_the_logits():
    output = fp.Run.open(HERE / "swap-exact").explain().output
    assert output.sqnr_db > 100
    assert output.top1.value == 1
    assert fp.Run.open(HERE / "swap-naive").explain().output.sqnr_db < 20


def test_the_activation_has_most_of_the_naive_swap_s_kl():
    told = fp.Run.open(HERE / "swap-naive").explain()
    (kl,) = [f for f in told.factorial if f.metric == "kl"]
    assert kl.main[1].value > 4 * kl.main[0].value > 0
    assert kl.main[0].value + kl.main[1].value == pytest.approx(kl.total.value)


def test_models_trained_apart_are_not_compared_value_by_value():
    told = fp.Run.open(HERE / "trained-apart").explain()
    assert {b.status for b in told.blocks} == {"unpaired"}
    assert all(0 < b.cka < 1 for b in told.blocks)


def test_a_replay_made_again_is_the_stored_one(tmp_path):
    facts = json.loads((HERE / "training.json").read_text())
    if facts["held_back_text"] != digest("held-back"):
        pytest.skip("this Python carries other sources than the recording one")
    stored = fp.Run.open(HERE / "trained-apart")
    again = fp.replay(
        load("ln-gelu"), load("rms-swiglu"), held_back(count=16), to=tmp_path / "again",
        options=Options(patch=0),
    )  # fmt: skip
    one, other = (r.table("paired").query("view == 'end'") for r in (stored, again))
    assert np.allclose(one["hsic_ab"], other["hsic_ab"], rtol=1e-4)
