"""What two right implementations may differ by is under the floor; what a bug makes is not."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, ndtr

from ffn_probe.attribution.floors import above, rounding_floor, sqnr_db, status

NAN = math.nan
RNG = np.random.default_rng(5)


def level(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    return sqnr_db(float(a.square().sum()), float((b - a).square().sum()))


def block(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, *, late: bool) -> torch.Tensor:
    """RMSNorm, up, GELU, down; `late` casts after the gain, and sums in another order."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    gain = torch.linspace(0.5, 1.5, x.shape[-1])
    normed = (normed * gain).to(x.dtype) if late else normed.to(x.dtype) * gain.to(x.dtype)
    order = torch.arange(x.shape[-1]).flip(0) if late else torch.arange(x.shape[-1])
    gate = (normed[..., order].float() @ up[order].float()).to(x.dtype)
    hidden = torch.nn.functional.gelu(gate)
    return (hidden.float() @ down.float()).to(x.dtype)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_another_order_of_casts_and_sums_is_under_the_floor(kind: torch.dtype) -> None:
    x, up, down = (
        torch.as_tensor(RNG.standard_normal(s) / math.sqrt(s[0]), dtype=kind)
        for s in ((256, 512), (512, 1024), (1024, 512))
    )
    apart = level(block(x, up, down, late=False), block(x, up, down, late=True))
    floor = rounding_floor([str(kind).removeprefix("torch.")], "out")
    assert math.isfinite(apart)
    assert status(apart, floor) == "indistinguishable"
    assert apart < floor + 30  # the floor is no wish: real rounding comes near it


def test_the_cast_order_of_a_norm_in_bfloat16_is_51_db() -> None:
    assert rounding_floor(["bfloat16"], "normed") == pytest.approx(51.0, abs=0.3)


@pytest.mark.parametrize("role", ["gate_act", "hidden", "out"])
def test_quick_gelu_in_bfloat16_is_above_the_floor(role: str) -> None:
    gate = RNG.standard_normal(100_000)
    right, quick = gate * ndtr(gate), gate * expit(1.702 * gate)
    apart = sqnr_db(float((right**2).sum()), float(((quick - right) ** 2).sum()))
    assert apart == pytest.approx(39.5, abs=0.2)
    assert above(apart, rounding_floor(["bfloat16"], role))


def test_tanh_gelu_is_above_the_floor_of_float32_and_under_that_of_bfloat16() -> None:
    assert above(74.1, rounding_floor(["float32"], "gate_act"))
    assert not above(74.1, rounding_floor(["bfloat16"], "gate_act"))


def test_the_coarsest_dtype_counts() -> None:
    one = rounding_floor(["float32", "bfloat16"], "out")
    assert (
        one
        == rounding_floor(["bfloat16"], "out")
        == rounding_floor(["float32, bfloat16"], "out")
    )
    assert rounding_floor(["made up"], "out") == rounding_floor(["float32"], "out")
    assert rounding_floor([], "out") == rounding_floor(["float32"], "out")


def test_more_blocks_make_more_noise() -> None:
    one, many = (rounding_floor(["float32"], "logits", blocks=n) for n in (1, 100))
    assert one - many == pytest.approx(20.0)
    assert rounding_floor(["float32"], "logits", blocks=0) == one


def test_a_drift_has_twice_the_power_of_the_floor() -> None:
    assert not above(97.1, 100.0)
    assert above(96.9, 100.0)
    assert (status(96.9, 100.0), status(97.1, 100.0)) == ("drift", "indistinguishable")


def test_without_a_floor_everything_but_equality_is_a_drift() -> None:
    assert above(300.0, math.nan)
    assert not above(math.inf, math.nan)
    assert not above(math.nan, 100.0)


@pytest.mark.parametrize(
    ("signal", "error", "expected"),
    [(100.0, 1.0, 20.0), (1.0, 0.0, math.inf), (0.0, 1.0, -math.inf), (1.0, 10.0, -10.0)],
)
def test_a_level_is_signal_over_error(signal: float, error: float, expected: float) -> None:
    assert sqnr_db(signal, error) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("signal", "error"),
    [
        (0.0, 0.0),
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, 1.0),
        (1.0, math.inf),
        (-1.0, 1.0),
    ],
)
def test_what_cannot_be_a_level_is_not_a_number(signal: float, error: float) -> None:
    assert math.isnan(sqnr_db(signal, error))
