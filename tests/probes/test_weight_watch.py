"""The weights of a training are followed: norms, cosines and gains, on a schedule."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ffn_probe as fp
from ffn_probe.errors import AttachError
from ffn_probe.probes.weight_watch import WeightWatch
from tests.probes.models import Mixture, Tiny, tiny, tokens


def values_of(run: fp.Run, name: str) -> tuple[list[int], list[float]]:
    metrics = run.table("metrics")
    chosen = metrics[metrics["name"] == name].sort_values("step")
    return chosen["step"].tolist(), chosen["value"].tolist()


def train(model: Tiny, to: Path, steps: int = 12) -> fp.Run:
    with fp.attach(model, to=to, example=tokens(), window=2, weights_every=2) as probe:
        for _ in range(steps):
            model(**tokens())
            with torch.no_grad():
                model.layers[0].gate.weight.mul_(1.1)
            probe.step(loss=1.0)
    return probe.run


def test_what_is_kept_is_what_the_weights_are(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.layers[1].norm.weight[3] = -4.0
    run = train(model, tmp_path / "run")
    for index in (0, 1):
        layer, prefix = model.layers[index], f"weights/layers.{index}/"
        steps, _ = values_of(run, prefix + "cos_max")
        assert steps == [1, 5, 9]
        gate, up = (m.weight.detach().double().numpy() for m in (layer.gate, layer.up))
        cosine = (gate * up).sum(1) / np.linalg.norm(gate, axis=1) / np.linalg.norm(up, axis=1)
        gain = layer.norm.weight.detach().abs().numpy()
        expected = {
            "cos_mean": abs(cosine).mean(), "cos_max": abs(cosine).max(),
            "cos_aligned": (abs(cosine) > 5 / 4).mean(), "gain_max": gain.max(),
            "gain_spread": gain.max() / np.median(gain),
            "spectral_up": np.linalg.norm(up, 2),
            "spectral_down": np.linalg.norm(layer.down.weight.detach().numpy(), 2),
        }  # fmt: skip
        for name, value in expected.items():
            assert values_of(run, prefix + name)[1][-1] == pytest.approx(value, rel=2e-2)
    grown = values_of(run, "weights/layers.0/spectral_gate")[1]
    assert grown[1] / grown[0] == pytest.approx(1.1**4, rel=2e-2)


def test_the_spectral_norm_comes_from_below_and_the_same_every_time() -> None:
    model = tiny()
    block = fp.discover(model, tokens())[0]
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    readings = []
    for _ in range(2):
        watch = WeightWatch(model, [block], None, every=1)
        found = [{n: v for _, n, v in watch.metrics(w, w)} for w in range(4)]
        readings.append([one["weights/layers.0/spectral_down"] for one in found])
    exact = float(torch.linalg.matrix_norm(model.layers[0].down.weight.detach(), 2))
    assert readings[0] == readings[1]
    assert all(0.97 * exact < value <= exact * (1 + 1e-6) for value in readings[0])
    assert readings[0] == sorted(readings[0])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_neurons_that_align_are_told(tmp_path: Path) -> None:
    model = tiny()
    with fp.attach(
        model, to=tmp_path / "run", example=tokens(), window=1, weights_every=1
    ) as probe:
        for step in range(6):
            model(**tokens())
            if step == 3:
                with torch.no_grad():
                    model.layers[1].gate.weight[7] = -2 * model.layers[1].up.weight[7]
            probe.step()
        (found,) = probe.alarms
    assert (found.alarm.kind, found.alarm.where, found.last_step) == (
        "alignment",
        "layers.1",
        3,
    )
    assert found.alarm.value == pytest.approx(1, abs=1e-5)


def test_the_experts_of_a_mixture_are_one_block_by_their_largest() -> None:
    torch.manual_seed(0)
    model = Mixture().eval()
    block = fp.discover(model, tokens())[0]
    watch = WeightWatch(model, [block], None, every=1)
    found = {name.rpartition("/")[2]: value for _, name, value in watch.metrics(0, 0)}
    norms = [
        float(torch.linalg.matrix_norm(e.down_proj.weight.detach(), 2))
        for e in model.mlp.experts
    ]
    assert found["spectral_down"] == pytest.approx(max(norms), rel=3e-2)
    assert found["cos_max"] > found["cos_mean"] > 0


def test_weights_that_cannot_be_read_are_said_once(tmp_path: Path) -> None:
    model = tiny()
    with fp.attach(
        model, to=tmp_path / "run", example=tokens(), window=1, weights_every=1
    ) as probe:
        nn.utils.parametrize.register_parametrization(model.layers[0].up, "weight", Twice())
        for _ in range(3):
            model(**tokens())
            probe.step()
    notes = [text for text in probe.run.problems if "are not followed" in text]
    assert len(notes) == 1
    assert notes[0].startswith("the weights of layers.0 are not followed: ")
    assert values_of(probe.run, "weights/layers.1/cos_max")[0] == [0, 1, 2]


class Twice(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def test_they_are_left_alone_by_default_and_a_schedule_is_a_count(tmp_path: Path) -> None:
    run = fp.record(tiny().eval(), [tokens()], to=tmp_path / "run")
    assert len(run.table("metrics")) == 0
    with pytest.raises(AttachError, match="weights_every is -1; expected a whole number"):
        fp.attach(tiny(), to=tmp_path / "x", example=tokens(), weights_every=-1)
