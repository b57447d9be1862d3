import math

import pytest
import torch

from ffn_probe.replay.norming import CAUSES, norm_split
from ffn_probe.replay.parts import NormPart


def rows_with(r: float, count: int = 200, width: int = 512) -> torch.Tensor:
    """Return rows whose mean over standard deviation is exactly r."""
    x = torch.randn(
        count, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    x = (x - x.mean(1, keepdim=True)) / x.std(1, unbiased=False, keepdim=True)
    return x + r


def sqnr_db(found: dict[str, torch.Tensor], name: str = "observed") -> float:
    return 10 * math.log10(float(found["energy"].sum() / found[name].sum()))


@pytest.mark.parametrize(("r", "db"), [(0.01, 40.00), (0.1, 20.03), (0.3, 10.74)])
def test_a_naive_swap_has_the_sqnr_of_the_mean(r, db):
    found = norm_split(NormPart("layernorm"), NormPart("rmsnorm"), rows_with(r))
    assert sqnr_db(found) == pytest.approx(db, abs=0.01)
    exact = math.sqrt(2 - 2 / math.sqrt(1 + r * r))
    assert sqnr_db(found) == pytest.approx(-20 * math.log10(exact), abs=1e-6)


def test_the_prediction_is_what_is_seen_with_gain_bias_and_a_changed_gain():
    generator = torch.Generator().manual_seed(1)
    gain, bias, other = (torch.randn(512, generator=generator).double() for _ in range(3))
    for a, b in (
        (NormPart("layernorm", gain, bias), NormPart("rmsnorm", gain)),
        (NormPart("layernorm", gain, bias), NormPart("rmsnorm", other, bias)),
        (NormPart("rmsnorm", gain), NormPart("layernorm", other, bias)),
        (NormPart("layernorm", gain, bias), NormPart("rmsnorm_1p", gain)),
    ):
        found = norm_split(a, b, rows_with(0.2))
        assert torch.allclose(found["predicted"], found["observed"], rtol=1e-6)


def test_each_cause_is_alone_where_the_others_are_not():
    centred, bias = rows_with(0.0), torch.full((512,), 0.5, dtype=torch.float64)
    found = norm_split(NormPart("layernorm", None, bias), NormPart("rmsnorm"), centred)
    assert float(found["bias_loss"].mean()) == pytest.approx(512 * 0.25)
    assert max(float(found[c].max()) for c in CAUSES if c != "bias_loss") < 1e-20
    leaking = norm_split(NormPart("layernorm"), NormPart("rmsnorm"), rows_with(0.1))
    assert float(leaking["mean_leakage"].mean()) == pytest.approx(512 * 0.01)
    assert float(leaking["scale"].mean()) == pytest.approx(
        512 * (math.sqrt(1.01) - 1) ** 2, rel=1e-6
    )


def test_eps_is_seen_and_not_predicted():
    small = rows_with(0.0) * 1e-3
    a, b = NormPart("layernorm", eps=1e-5), NormPart("rmsnorm", eps=1e-6)
    found = norm_split(a, b, small)
    assert float(found["predicted"].max()) < 1e-20
    assert float(found["observed"].min()) > 1
