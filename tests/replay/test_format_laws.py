import math

import pytest
import torch

from ffn_probe.formats import fake_quantize
from ffn_probe.replay import Options, replay
from ffn_probe.replay.format_laws import law_of
from ffn_probe.swaps import Swap
from sample_runs.tiny_lm import held_back, load


def db(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise)


@pytest.mark.parametrize("granularity", ["tensor", "token", "channel"])
@pytest.mark.parametrize("shape", ["gaussian", "heavy"])
def test_the_law_of_int8_is_within_a_tenth_of_a_decibel(granularity, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 1024, generator=generator)
    if shape == "heavy":
        x = x * torch.randn(512, 1024, generator=generator)
    law = law_of(f"int8:{granularity}")
    y = torch.from_numpy(fake_quantize(x.numpy(), "int8", granularity=granularity))
    seen = float((y - x).double().square().sum())
    signal = float(x.double().square().sum())
    assert db(signal, float(law(x.double()).sum())) == pytest.approx(db(signal, seen), abs=0.1)
    crest = float(x.abs().max()) / (signal / x.numel()) ** 0.5
    if granularity == "tensor":
        assert db(signal, seen) == pytest.approx(52.87 - 20 * math.log10(crest), abs=0.1)


def test_e4m3_makes_31_5_decibels_of_anything():
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(1)).double()
    law = law_of("e4m3fn:tensor")
    assert db(float(x.square().sum()), float(law(x).sum())) == pytest.approx(31.5)


def test_formats_without_a_law_have_none():
    assert law_of("mxfp4") is None
    assert law_of("int8:group") is None


def test_errors_of_two_quantizations_add_in_power(tmp_path):
    swap = Swap(quantize={"hidden": "int8:token", "normed": "e4m3fn:token"})
    batches = held_back(count=2, sequences=2, length=64)
    run = replay(
        load("rms-swiglu"), None, batches, to=tmp_path / "r", swap=swap,
        options=Options(1, 1, 64),
    )  # fmt: skip
    frame = run.table("effects")
    both = frame[frame["part"] == "power_sum"].groupby("metric")["value"].sum()
    assert db(both["observed"], both["expected"]) == pytest.approx(0, abs=0.5)
    counts = frame[frame["part"] == "power_sum"].groupby("metric")["count"].sum()
    assert counts["observed"] == counts["expected"]
    stage = frame[frame["part"] == "int8:hidden"].groupby("metric")["value"].sum()
    seen = db(stage["energy"], stage["error"])
    assert seen == pytest.approx(db(stage["energy"], stage["expected_error"]), abs=0.5)
