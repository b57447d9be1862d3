"""The two recorded trainings: one is well, the other overflows, and both are told as such."""

import math
from pathlib import Path

import pytest
import torch

import ffn_probe as fp
from ffn_probe.figures.history import history
from sample_runs import training
from sample_runs.training import HERE, RECIPES, record_training

MOST_BYTES = 1_500_000


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_stored_training_is_whole_and_small(name: str) -> None:
    run = fp.Run.open(HERE / name)
    assert run.closed
    assert run.problems == ()
    assert run.manifest.tags == {"sample": name}
    frame = run.trends(["rms"])
    assert frame["window"].nunique() >= 40
    assert len(frame) == frame["window"].nunique() * 4 * 7
    assert set(run.table("metrics")["name"]) == {"loss", "grad_norm", "lr"}
    size = sum(path.stat().st_size for path in (HERE / name).rglob("*") if path.is_file())
    assert size < MOST_BYTES


def test_the_healthy_training_learns_and_raises_no_alarm() -> None:
    found = history(fp.Run.open(HERE / "train-healthy"))
    _, loss = found.metric("loss")
    assert loss[:10].mean() > 5
    assert loss[-50:].mean() < 2.6
    assert found.alarms == ()


def test_the_hot_training_overflows_first_in_layer_0_and_was_growing_before() -> None:
    found = history(fp.Run.open(HERE / "train-hot"))
    sites = [a for a in found.alarms if a.kind == "non-finite" and "/" in a.where]
    assert sites[0].where == "layers.0.ffn/out"
    growing = {a.where for a in found.alarms if a.kind == "growth"}
    assert {"layers.0.ffn/hidden", "layers.0.ffn/out"} <= growing
    limit = next(a for a in found.alarms if a.kind == "limit")
    assert limit.where == "layers.0.ffn/hidden"
    assert limit.step < sites[0].step


def test_learning_rates_follow_their_recipes() -> None:
    healthy, hot = RECIPES["train-healthy"], RECIPES["train-hot"]
    assert healthy.rate(0) < 0.03 * healthy.peak
    assert healthy.rate(training.STEPS) == pytest.approx(healthy.peak / 8)
    assert hot.rate(0) == hot.peak
    assert hot.rate(training.STEPS) == pytest.approx(hot.peak * 128)
    assert math.isinf(hot.clip)


def test_a_training_is_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STEPS", 16)
    threads, runs = torch.get_num_threads(), []
    for name in ("a", "b"):
        record_training("train-healthy", tmp_path / name)
        runs.append(fp.Run.open(tmp_path / name))
    torch.set_num_threads(threads)
    assert runs[0].trends().equals(runs[1].trends())
    assert runs[0].table("metrics").equals(runs[1].table("metrics"))
