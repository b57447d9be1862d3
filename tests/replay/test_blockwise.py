import gc
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ffn_probe import discover
from ffn_probe.errors import ExampleError, RunError
from ffn_probe.replay import Options, replay
from ffn_probe.replay.blockwise import record_inputs, replay_blocks
from sample_runs.tiny_lm import held_back, load
from tests.replay.planted import with_rms_norms


def batches() -> list[dict[str, torch.Tensor]]:
    return held_back(count=3, sequences=2, length=48)


def sums(frame: pd.DataFrame, view: str) -> pd.Series:
    return frame[frame["view"] == view].groupby(["layer", "role"])["error"].sum()


def test_it_finds_what_a_replay_of_whole_models_finds(tmp_path):
    reference, candidate = load("ln-gelu"), with_rms_norms()
    record_inputs(reference, batches(), to=tmp_path / "inputs")
    theirs = discover(candidate, batches()[0])
    blockwise = replay_blocks(
        tmp_path / "inputs", lambda _: reference, lambda _: candidate, to=tmp_path / "b",
        blocks=theirs,
    )  # fmt: skip
    whole = replay(
        reference, candidate, batches(), to=tmp_path / "w", options=Options(1, 0, 512)
    )
    for view in ("local", "stage"):
        a, b = (sums(run.table("paired"), view) for run in (blockwise, whole))
        assert np.allclose(a, b, rtol=1e-4), view
    folds = [sorted(set(run.table("paired")["fold"])) for run in (blockwise, whole)]
    assert folds[0] == folds[1] == list(range(6))
    shares = [
        r.table("effects")
        .query("analysis == 'shapley'")
        .groupby(["layer", "part"])["value"]
        .sum()
        for r in (blockwise, whole)
    ]
    pd.testing.assert_series_equal(*shares, rtol=1e-4)
    told = blockwise.explain()
    assert {b.status for b in told.blocks} == {"local"}
    assert told.first_bad == (0, "layers.0.ffn", "norm")


def test_one_block_of_each_model_is_in_memory_at_a_time(tmp_path):
    record_inputs(load("rms-swiglu"), batches(), to=tmp_path / "inputs")
    alive: list[weakref.ref[nn.Module]] = []

    def fresh(_: object) -> nn.Module:
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1
        model = load("rms-swiglu")
        alive.append(weakref.ref(model))
        return model

    run = replay_blocks(tmp_path / "inputs", fresh, fresh, to=tmp_path / "r")
    assert len(alive) == 8
    assert run.table("paired")["error"].max() == 0
    assert run.explain().status == "indistinguishable"


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(RunError, match="record_inputs"):
        replay_blocks(tmp_path, lambda _: nn.Module(), lambda _: nn.Module(), to=tmp_path / "r")
    with pytest.raises(ExampleError, match="no batches"):
        record_inputs(load("ln-gelu"), [], to=tmp_path / "inputs")
