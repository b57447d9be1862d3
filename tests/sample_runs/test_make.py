import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sample_runs import make, tiny_lm
from sample_runs.tiny_lm import VARIANTS, load

FACTS = json.loads((make.HERE / "training.json").read_text())


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(make, "MODELS", tmp_path)
    monkeypatch.setattr(tiny_lm, "MODELS", tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def test_training_is_repeatable_and_lowers_the_loss(elsewhere: Path) -> None:
    def fit() -> tuple[dict[str, object], bytes]:
        losses = make.train("rms-swiglu", 16)
        return losses, (elsewhere / "rms-swiglu.safetensors").read_bytes()

    (first, weights), (second, again) = fit(), fit()
    assert first == second
    assert weights == again
    assert first["held_back"] < 5.3 < torch.tensor(256.0).log()


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    rates = [make.rate(step, 1000) for step in range(1001)]
    assert rates[0] < 0.02
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[make.WARMUP :] == sorted(rates[make.WARMUP :], reverse=True)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_stored_losses_are_those_of_the_stored_models(name: str) -> None:
    assert FACTS["models"][name]["held_back"] < 0.5 * FACTS["unigram"]
    assert FACTS["models"][name]["train"] == pytest.approx(
        sorted(FACTS["models"][name]["train"], reverse=True), abs=0.15
    )
    if FACTS["held_back_text"] != make.digest("held-back"):
        pytest.skip("this Python carries other sources than the recording one")
    reached = make.validate(load(name))
    assert reached == pytest.approx(FACTS["models"][name]["held_back"], abs=1e-3)


def test_unigram_baseline() -> None:
    if FACTS["held_back_text"] != make.digest("held-back"):
        pytest.skip("this Python carries other sources than the recording one")
    assert make.unigram() == pytest.approx(FACTS["unigram"], abs=1e-3)


def test_the_printed_table_names_every_model() -> None:
    table = make.learned(json.dumps(FACTS))
    assert table.splitlines()[1].split()[0] == "unigram"
    assert [line.split()[0] for line in table.splitlines()[2:]] == list(VARIANTS)
