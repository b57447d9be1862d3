"""Planted faults are named with layer, stage and share; a healthy pair is left alone."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from ffn_probe.attribution.attribution import Attribution, BlockAttribution, StageError
from ffn_probe.attribution.explain import attribution_of
from ffn_probe.attribution.found import first_stage
from tests.attribution.toy import (
    HEAD,
    INPUT,
    LAYERS,
    SEQUENCES,
    TOKENS,
    WIDE,
    WORDS,
    changed,
    effect,
    frame,
    joined,
    model,
    name,
    quick_gelu,
    rms_norm,
    run,
    tables,
)


def sqnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))


def statuses(found: Attribution) -> list[str]:
    return [block.status for block in found.blocks]


@pytest.fixture(scope="module")
def quick() -> Attribution:
    """Quick GELU in layer 1 only."""
    return attribution_of(tables(changed(1, act=quick_gelu)))


# A healthy pair


def test_the_same_model_twice_is_indistinguishable() -> None:
    found = attribution_of(tables(model()))
    assert found.status == "indistinguishable"
    assert statuses(found) == ["indistinguishable"] * LAYERS
    assert found.first_bad is None
    assert "The outputs cannot be told apart: inf dB" in found.verdict
    assert "no block is above its floor" in found.verdict


def test_a_model_that_rounds_otherwise_is_indistinguishable() -> None:
    rng = np.random.default_rng(3)
    rounded = tuple(
        type(b)(b.up * (1 + 1e-7 * rng.standard_normal(b.up.shape)), b.down) for b in model()
    )
    found = attribution_of(tables(rounded))
    assert 120 < min(b.local_db for b in found.blocks) < 150
    assert found.status == "indistinguishable"
    assert statuses(found) == ["indistinguishable"] * LAYERS


def test_the_floor_of_noise_is_respected() -> None:
    """What drifts under float32's floor does not under that of a reference that wobbles."""
    candidate = changed(1, up=model()[1].up * (1 + 1e-4))
    assert attribution_of(tables(candidate)).status == "drift"
    loud = attribution_of(tables(candidate, noise=1e-3))
    assert loud.status == "indistinguishable"
    assert loud.blocks[1].floor_db == pytest.approx(60, abs=1)


def test_a_reference_that_does_not_repeat_itself_is_told() -> None:
    noisy = attribution_of(tables(model(), noise=0.3))
    assert "The reference differs from itself by 10.4 dB in layer 0" in noisy.notes[1]
    assert "dropout in training mode?" in noisy.notes[1]
    assert len(attribution_of(tables(model(), noise=1e-5)).notes) == 1


# One planted bug


def test_the_block_and_the_stage_of_a_bug_are_named(quick: Attribution) -> None:
    assert quick.first_bad == (1, name(1), "activation")
    assert statuses(quick) == ["indistinguishable", "local", "inherited"]
    assert quick.verdict.startswith("Layer 1, stage activation: local ")
    assert "The drift of layer 2 is inherited." in quick.verdict


def test_a_stage_that_was_not_fed_alone_is_named_by_what_stands_there() -> None:
    """The error of the norm shows on the reference's stream, and not in the stage by itself."""
    given = tables(changed(1, norm=rms_norm))
    paired = given.frames["paired"]
    alone = (paired["view"] == "stage") & (paired["role"] == "normed")
    paired.loc[alone, "error"] = 0.0
    paired.loc[(paired["view"] == "stage") & (paired["role"] == "gate"), "error"] = 1.0
    found = attribution_of(given)
    assert found.blocks[1].stages[0].injected_db == math.inf
    assert found.first_bad == (1, name(1), "norm")


def test_without_the_references_stream_the_stage_that_injects_is_named() -> None:
    stages = (
        StageError("normed", "norm", math.inf, math.nan, 9.0, 120.0, "indistinguishable"),
        StageError("gate", "up", 30.0, math.nan, 9.0, 120.0, "drift"),
    )
    block = BlockAttribution(0, "a", "a", "local", stages=stages)
    assert first_stage(block) == "up"
    assert first_stage(BlockAttribution(0, "a", "a", "local")) == "down"


def test_the_levels_are_those_of_the_arrays(quick: Attribution) -> None:
    own, candidate = model(), changed(1, act=quick_gelu)
    seen, logits = run(own)
    ends, other = run(candidate)
    block = quick.blocks[1]
    local = candidate[1].run(seen[1]["resid"])
    assert block.local_db == pytest.approx(sqnr(seen[1]["out"], local["out"]))
    assert block.end_db == pytest.approx(sqnr(seen[1]["out"], ends[1]["out"]))
    assert quick.blocks[2].inherited_db == pytest.approx(sqnr(seen[2]["out"], ends[2]["out"]))
    assert quick.output is not None
    assert quick.output.sqnr_db == pytest.approx(sqnr(logits, other))
    stages = {stage.stage: stage for stage in block.stages}
    assert [*stages] == ["norm", "up", "activation", "down"]
    assert stages["activation"].injected_db == pytest.approx(
        sqnr(seen[1]["hidden"], local["hidden"])
    )
    assert stages["down"].injected_db == math.inf
    assert [stage.status for stage in stages.values()] == [
        "indistinguishable", "indistinguishable", "drift", "indistinguishable",
    ]  # fmt: skip


def test_the_drift_behind_a_bug_is_inherited_in_full(quick: Attribution) -> None:
    behind = quick.blocks[2]
    assert (behind.local.value, behind.inherited.value) == (0.0, pytest.approx(1.0))
    assert behind.cross.value == 0.0
    assert behind.local_db == math.inf


def test_two_bugs_are_both_told_and_the_first_is_named() -> None:
    both = tuple(a if i else b for i, (a, b) in enumerate(
        zip(changed(2, act=quick_gelu), changed(0, norm=rms_norm), strict=True)))  # fmt: skip
    found = attribution_of(tables(both))
    assert found.first_bad == (0, name(0), "norm")
    assert statuses(found) == ["local", "inherited", "mixed"]
    assert "2 of 3 blocks add error of their own, first layer 0, stage norm" in found.verdict


@pytest.mark.parametrize("candidate", [
    changed(1, act=quick_gelu),
    tuple(b if i != 1 else type(b)(1.1 * b.up, b.down, rms_norm, quick_gelu)
          for i, b in enumerate(changed(0, norm=rms_norm))),
], ids=["one", "many"])  # fmt: skip
def test_local_inherited_and_cross_add_to_the_whole(candidate: tuple) -> None:
    for block in attribution_of(tables(candidate)).blocks:
        parts = [block.local.value, block.inherited.value, block.cross.value]
        if block.energy:
            assert sum(parts) == pytest.approx(1.0, abs=1e-12)


def test_intervals_hold_their_values_and_need_folds(quick: Attribution) -> None:
    few = tables(changed(0, norm=rms_norm))
    cut = {k: v[v["fold"] < 3] for k, v in few.frames.items()}
    found = attribution_of(type(few)(cut, few.about, few.blocks))
    assert math.isnan(found.blocks[1].inherited.low)
    assert found.notes[-1].startswith("3 folds of sequences are too few for intervals")
    whole = quick.blocks[2].inherited
    assert whole.low <= whole.value <= whole.high


# Elsewhere than in a block


def test_a_head_that_differs_is_looked_for_behind_the_last_block() -> None:
    given = tables(model())
    output = effect("output", "candidate", np.full(SEQUENCES, 1.0), metric="error")
    output += effect("output", "candidate", np.full(SEQUENCES, 1e4), metric="energy")
    found = attribution_of(tables(model(), effects=frame("effects", output)))
    assert attribution_of(given).status == "indistinguishable"
    assert found.status == "drift"
    assert "behind the last block" in found.verdict
    assert "At the output: 40.0 dB" in found.verdict


def test_a_drift_between_the_blocks_is_not_put_on_them() -> None:
    """The candidate's stream is shifted in front of layer 1, as by another attention."""
    given = tables(model())
    paired = given.frames["paired"]
    later = (paired["layer"] >= 1) & (paired["view"] == "end")
    paired.loc[later, "error"] = paired.loc[later, "energy_a"] * 1e-3
    output = effect("output", "candidate", np.full(SEQUENCES, 1.0), metric="error")
    output += effect("output", "candidate", np.full(SEQUENCES, 1e3), metric="energy")
    frames = {**given.frames, "effects": frame("effects", output)}
    found = attribution_of(type(given)(frames, given.about, given.blocks))
    assert statuses(found) == ["indistinguishable", "inherited", "inherited"]
    assert found.first_bad is None
    assert "comes in between layers 0 and 1 (30.0 dB there" in found.verdict


def test_what_stays_when_all_blocks_are_put_back_is_made_elsewhere() -> None:
    given = tables(changed(1, act=quick_gelu))
    output = given.effects("output")["candidate"]["error"].values
    rows = effect("patch", "back_all", 0.4 * output, count=TOKENS * WORDS)
    patch = frame("effects", rows)
    effects = joined(given.frames["effects"], patch)
    found = attribution_of(tables(changed(1, act=quick_gelu), effects=effects))
    assert found.patched_all is not None
    assert found.patched_all.value == pytest.approx(0.6)
    assert "With every block put back 40 % of the final error stays" in found.verdict


def test_another_form_of_the_same_function_is_no_drift() -> None:
    """Hidden channels in another order, with their rows of `down`: the output is the same."""
    order = np.random.default_rng(0).permutation(WIDE)
    own = model()[1]
    found = attribution_of(tables(changed(1, up=own.up[:, order], down=own.down[order])))
    assert found.blocks[1].stages[1].status == "drift"
    assert found.status == "indistinguishable"
    assert "cannot be told apart" in found.verdict


def test_a_form_that_shifts_the_stream_is_no_drift_where_the_output_agrees() -> None:
    given = tables(changed(1, norm=rms_norm))
    same = tables(model()).frames["effects"]
    found = attribution_of(tables(changed(1, norm=rms_norm), effects=same))
    assert attribution_of(given).status == "drift"
    assert found.status == "indistinguishable"
    assert "which the output does not see: another form of the same function" in found.verdict


# Not finite


def test_the_first_site_with_a_nan_in_one_model_is_the_finding() -> None:
    broken = model()[1].up.copy()
    broken[0, 5] = np.nan
    found = attribution_of(tables(changed(1, up=broken)))
    assert found.status == "drift"
    assert found.first_bad == (1, name(1), "up")
    assert found.verdict == (
        f"Layer 1, stage up: the candidate has {SEQUENCES * TOKENS} values that are not finite "
        f"at {name(1)}/gate, the other model has none; no site before it differs so."
    )
    assert statuses(found) == ["indistinguishable", "local", "inherited"]
    assert found.output is not None
    assert found.output.status == "drift"
    assert math.isnan(found.output.sqnr_db)


def test_a_nan_of_the_reference_alone_is_told_as_its_own() -> None:
    broken = model()[0].up.copy()
    broken[:, 0] = np.nan
    found = attribution_of(tables(model(), changed(0, up=broken)))
    assert (
        "the reference has 96 values that are not finite at layers.0.ffn/gate" in found.verdict
    )


def test_a_nan_in_both_models_is_no_difference() -> None:
    broken = model()[2].up.copy()
    broken[:, 0] = np.nan
    found = attribution_of(tables(changed(2, up=broken), changed(2, up=broken)))
    assert found.first_bad is None
    assert "not finite" not in found.verdict


def test_a_block_that_is_nan_in_both_models_is_not_called_healthy() -> None:
    broken = np.full_like(model()[2].down, np.nan)
    found = attribution_of(tables(changed(2, down=broken), changed(2, down=broken)))
    assert statuses(found) == ["indistinguishable", "indistinguishable", "unpaired"]
    assert found.blocks[2].reason == "no value of its output is finite in both models"
    assert "No block that could be paired is above its floor. 1 block cannot" in found.verdict
    assert found.status == "drift"


# Unpaired


def test_models_trained_apart_are_not_compared_value_by_value() -> None:
    given = tables(changed(0, norm=rms_norm))
    given.frames["paired"]["reason"] = "the models were trained apart"
    frames = {**given.frames, "paired_channels": frame("paired_channels", [])}
    found = attribution_of(type(given)(frames, given.about, given.blocks))
    assert statuses(found) == ["unpaired"] * LAYERS
    assert found.status == "drift"
    assert all(math.isnan(b.end_db) and math.isfinite(b.cka) for b in found.blocks)
    assert "3 blocks cannot be paired value by value (the models were trained" in found.verdict
    assert "their CKA is" in found.verdict


# Whole models


def test_a_run_without_an_output_is_judged_by_its_blocks() -> None:
    nothing = frame("effects", [])
    healthy = attribution_of(tables(model(), effects=nothing))
    assert (healthy.status, healthy.output) == ("indistinguishable", None)
    assert healthy.verdict == "Nothing is above the noise floor in 3 blocks."
    assert attribution_of(tables(changed(0, norm=rms_norm), effects=nothing)).status == "drift"


def test_an_empty_run_says_that_nothing_is_there() -> None:
    empty = {k: v.iloc[:0] for k, v in tables(model()).frames.items()}
    found = attribution_of(type(tables(model()))(empty))
    assert found.blocks == ()
    assert found.verdict == "No block of one model was compared with one of the other."


def test_an_attribution_is_plain_json(quick: Attribution) -> None:
    data = json.loads(quick.to_json())
    assert data["blocks"][1]["status"] == "local"
    assert data["blocks"][0]["end_db"] == "inf"
    table = quick.table()
    assert isinstance(table, pd.DataFrame)
    assert table["status"].tolist() == statuses(quick)


def test_the_toy_is_what_it_says() -> None:
    """Local and inherited of the toy, told by hand once."""
    own, candidate = model(), changed(0, norm=rms_norm)
    x = INPUT
    for a in own:
        x = x + a.run(x)["out"]
    assert np.allclose(run(own)[1], x @ HEAD)
    block: BlockAttribution = attribution_of(tables(candidate)).blocks[0]
    y = candidate[0].run(INPUT)["out"]
    assert block.energy == pytest.approx(((y - own[0].run(INPUT)["out"]) ** 2).sum())
