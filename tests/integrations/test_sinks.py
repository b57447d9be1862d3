"""Numbers and alarms of a training arrive in TensorBoard, W&B and any callable."""

import importlib
import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import ffn_probe as fp
from ffn_probe.errors import FfnProbeError, UnknownName
from ffn_probe.integrations.needed import MissingPackage, needed
from ffn_probe.integrations.tensorboard_sink import TensorBoardSink
from ffn_probe.integrations.wandb_sink import WandbSink
from ffn_probe.probes.series import Series
from tests.probes.models import tiny, tokens


def train(to: Path, *, steps: int = 6, broken: int = -1, **options: Any) -> fp.Run:
    """A tiny training; from the step `broken` on the embedding is NaN."""
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with fp.attach(model, to=to, example=tokens(), window=2, **options) as probe:
        for step in range(steps):
            loss = loss_of(model(**tokens(seed=step)), tokens(seed=step))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step + 1 == broken:
                with torch.no_grad():
                    model.embedding.weight.fill_(torch.nan)
            probe.step(loss=loss)
    return probe.run


def loss_of(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"].flatten())


def test_any_callable_is_given_the_trends_of_every_window(tmp_path: Path) -> None:
    told: list[tuple[int, dict[str, float]]] = []

    def sink(step: int, values: Mapping[str, float]) -> None:
        told.append((step, dict(values)))

    run = train(tmp_path / "run", sinks=[sink])
    assert [step for step, _ in told] == [1, 3, 5]
    names = {
        f"ffn/layers.{layer}/{role}/{name}"
        for layer in (0, 1)
        for role in ("resid", "hidden", "out")
        for name in ("rms", "absmax", "dead_share", "branch_ratio")
        if name != "branch_ratio" or role == "out"
    }
    assert set(told[0][1]) == names | {"ffn/alarms"}
    trends = run.trends(["absmax"], site="layers.1/hidden")["absmax"].tolist()
    given = [values["ffn/layers.1/hidden/absmax"] for _, values in told]
    assert given == pytest.approx(trends, rel=1e-6)


def test_which_numbers_are_told_is_chosen_and_bounded(tmp_path: Path) -> None:
    told: list[Mapping[str, float]] = []
    chosen = Series(measures=("q50", "std"), roles=("gate",), prefix="x")
    train(tmp_path / "a", sinks=[lambda _, v: told.append(v)], series=chosen)
    assert set(told[0]) == {
        f"x/layers.{n}/gate/{m}" for n in (0, 1) for m in ("q50", "std")
    } | {"x/alarms"}
    rows = [
        {"layer": n, "block": f"b{n}", "role": "out", "expert": -1, "rms": 1.0}
        for n in range(90)
    ]
    few = Series(measures=("rms",), most=10).of(rows)
    assert 5 <= len(few) <= 10
    assert {"ffn/b0/out/rms", "ffn/b89/out/rms"} <= set(few)
    with pytest.raises(UnknownName, match="Did you mean 'absmax'"):
        Series(measures=("abs_max",))
    with pytest.raises(UnknownName, match="no role 'hiden'"):
        Series(roles=("hiden",))


def test_a_sink_that_fails_is_turned_off_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def broken(step: int, values: Mapping[str, float]) -> None:
        del values
        calls.append(step)
        raise ConnectionError("the server is gone")

    with caplog.at_level(logging.WARNING, "ffn_probe"):
        run = train(tmp_path / "run", sinks=[broken, lambda step, _: calls.append(step)])
    assert calls == [1, 1, 3, 5]
    assert run.manifest.steps == 6
    assert any("failed and is told nothing more" in text for text in run.problems)
    assert len(caplog.records) == 1


def test_tensorboard_shows_numbers_and_alarms(tmp_path: Path) -> None:
    importlib.import_module("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path / "events")
    run = train(tmp_path / "run", sinks=[sink], broken=3)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    shown = events.Scalars("ffn/layers.1/hidden/rms")
    assert [event.step for event in shown] == [1, 3]
    trends = run.trends(["rms"], site="layers.1/hidden")["rms"].tolist()
    assert [event.value for event in shown] == pytest.approx(trends[:2], rel=1e-6)
    (text,) = {t for t in events.Tags()["tensors"] if t.startswith("ffn/alarm")}
    said = [event.tensor_proto.string_val[0].decode() for event in events.Tensors(text)]
    assert any("non-finite at layers.0/resid" in line for line in said)


def test_a_writer_of_ones_own_stays_open(tmp_path: Path) -> None:
    importlib.import_module("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "events")) as writer:
        train(tmp_path / "run", sinks=[TensorBoardSink(writer)])
        writer.add_scalar("mine", 1.0, 9)
    assert len(list((tmp_path / "events").iterdir())) == 1


def test_wandb_keeps_numbers_and_alarms_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = importlib.import_module("wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(FfnProbeError, match="no run of wandb is active"):
        WandbSink()
    with wandb.init(project="tests", dir=str(tmp_path)) as logged:
        train(tmp_path / "run", sinks=[WandbSink()], broken=3)
        kept = dict(logged.summary)
    assert kept["ffn/step"] == 5
    assert kept["ffn/alarms"] >= 2
    assert "ffn/layers.0/out/branch_ratio" in kept
    until, data = time.monotonic() + 60, b""  # W&B's own process writes it
    while time.monotonic() < until and b"non-finite at layers.0/resid" not in data:
        time.sleep(0.1)
        data = b"".join(p.read_bytes() for p in (tmp_path / "wandb").rglob("*.wandb"))
    assert b"ffn/layers.1/hidden/rms" in data
    assert b"non-finite at layers.0/resid" in data


@pytest.mark.parametrize(
    ("module", "name", "missing", "extra"),
    [
        ("transformers_callback", "ProbeCallback", "transformers", "transformers"),
        ("lightning_callback", "LightningProbe", "lightning", "lightning"),
    ],
)
def test_an_integration_whose_framework_is_missing_says_how_to_get_it(
    module: str, name: str, missing: str, extra: str
) -> None:
    program = f"""
import sys
sys.modules.update({{{missing!r}: None, "pytorch_lightning": None}})
import ffn_probe.integrations.{module} as found
try:
    found.{name}
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert f"{name} needs {missing}" in done.stdout
    assert f"pip install 'ffn-probe[{extra}]'" in done.stdout


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(
        MissingPackage,
        match=r"it needs no_such_one or no_such_two.*pip install 'ffn-probe\[logs\]'",
    ):
        needed("no_such_one", "no_such_two", extra="logs", why="it")
    assert needed("no_such_one", "json", extra="logs", why="it").__name__ == "json"
