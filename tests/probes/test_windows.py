"""A training with a probe on keeps its history, and the size of its model's shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ffn_probe as fp
from ffn_probe.runs import Run
from ffn_probe.runs import compact as compacting
from ffn_probe.runs.parts import part_files
from tests.probes.models import tensors_of, tiny, tokens

STEPS = 20
MERGED = ("moments", "histograms", "channels", "extremes", "joint")


def train(to: Path, *, every: int = 1, window: int = 2) -> Run:
    """Run a model step by step; it does not learn, so that its values are known."""
    model = tiny().eval()
    options: dict[str, Any] = {"every": every, "window": window, "rows": "all"}
    with fp.attach(model, to=to, example=tokens(), **options) as probe, torch.no_grad():
        for step in range(STEPS):
            model(**tokens(seed=step))
            probe.step(loss=float(step))
    return probe.run


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("merged") / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compacting, "MOST", 10**6)
        return train(tmp_path_factory.mktemp("plain") / "run")


def size(run: Run) -> int:
    return sum(path.stat().st_size for t in MERGED for path in part_files(run.folder, t))


def test_every_window_has_its_trends_however_many_were_merged(merged: Run) -> None:
    frame = merged.trends(["absmax", "rms", "q50"], site="layers.1/hidden")
    assert frame["window"].tolist() == list(range(10))
    assert frame["first_step"].tolist() == list(range(0, 20, 2))
    assert frame["last_step"].tolist() == list(range(1, 20, 2))
    model = tiny().eval()
    for window, line in enumerate(frame.to_dict("records")):
        seen = [tensors_of(model, tokens(seed=2 * window + k))[1, "hidden"] for k in (0, 1)]
        values = torch.cat(seen).detach().double().numpy()
        assert line["rows"] == values.size // values.shape[-1]
        assert line["absmax"] == np.abs(values).max().astype(np.float32)
        assert line["rms"] == pytest.approx(np.sqrt((values**2).mean()), rel=1e-5)


def test_a_recording_that_merges_is_one_that_does_not(merged: Run, plain: Run) -> None:
    assert {len(part_files(merged.folder, table)) for table in MERGED} == {1}
    assert {len(part_files(plain.folder, table)) for table in MERGED} == {10}
    assert plain.sites == merged.sites
    for site in plain.sites:
        assert plain.summary(site).equals(merged.summary(site))
    assert plain.trends().equals(merged.trends())
    assert size(merged) < 0.4 * size(plain)


def test_steps_that_were_not_watched_are_in_no_window(tmp_path: Path) -> None:
    frame = train(tmp_path / "run", every=3).trends(["rms"], site="layers.0/out")
    assert frame[["first_step", "last_step"]].to_numpy().tolist() == [
        [0, 3], [6, 9], [12, 15], [18, 18],
    ]  # fmt: skip


def test_what_cannot_be_merged_is_a_note_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compacting.pq, "ParquetWriter", full)
    run = train(tmp_path / "run")
    assert run.closed
    told = [text for text in run.problems if "could not be merged" in text]
    assert {text.split()[4] for text in told} == {*MERGED, "trends", "metrics"}
    assert all("No space left on device" in text for text in told)
    assert len(part_files(run.folder, "moments")) == 10
    assert len(run.trends(["rms"], site="layers.0/out")) == 10
