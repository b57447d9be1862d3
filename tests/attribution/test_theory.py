"""Closed forms against numbers drawn or quantized; and the three words of a verdict."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, ndtr

from ffn_probe.attribution import theory
from ffn_probe.errors import UnknownName
from ffn_probe.formats import fake_quantize

RNG = np.random.default_rng(11)


def sqnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))


def layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)


def rms_norm(x: np.ndarray, eps: float = 0.0) -> np.ndarray:
    return x / np.sqrt((x**2).mean(1, keepdims=True) + eps)


def tokens(r: float, rows: int = 64, channels: int = 512) -> np.ndarray:
    """Return rows whose mean over their standard deviation is exactly r."""
    return layer_norm(RNG.standard_normal((rows, channels))) + r


# Norms


@pytest.mark.parametrize(("r", "decibels"), [(0.01, 40.0), (0.1, 20.03), (0.3, 10.74)])
def test_a_naive_norm_swap_costs_what_theory_says(r: float, decibels: float) -> None:
    x = tokens(r)
    assert theory.ln_to_rms_sqnr_db(r) == pytest.approx(decibels, abs=0.005)
    assert sqnr(layer_norm(x), rms_norm(x)) == pytest.approx(decibels, abs=0.005)


@given(st.floats(-5, 5))
def test_the_causes_of_a_norm_swap_add_to_its_error(r: float) -> None:
    parts = theory.ln_to_rms_parts(r)
    assert sum(parts.values()) == pytest.approx(theory.ln_to_rms_error(r), abs=1e-12)


@pytest.mark.parametrize("r", [0.03, 0.3, 1.0])
def test_the_causes_of_a_norm_swap_are_those_of_rows(r: float) -> None:
    x = tokens(r)
    root = math.sqrt(1 + r * r)
    scale, leak = (1 - root) * rms_norm(x), np.full_like(x, r)
    parts = theory.ln_to_rms_parts(r)
    assert parts["scale"] == pytest.approx((scale**2).mean(), rel=1e-9)
    assert parts["mean_leakage"] == pytest.approx((leak**2).mean(), rel=1e-9)
    assert parts["cross"] == pytest.approx(2 * (scale * leak).mean(), rel=1e-9)


def test_a_token_without_a_mean_is_the_same_under_both_norms() -> None:
    assert theory.ln_to_rms_sqnr_db(0.0) == math.inf
    assert theory.ln_to_rms_error(1e-9) == pytest.approx(1e-18, rel=1e-6)


def test_another_eps_matters_where_tokens_are_small() -> None:
    x = 0.01 * rms_norm(RNG.standard_normal((32, 256)))
    one, other = rms_norm(x, 1e-6), rms_norm(x, 1e-5)
    assert -theory.eps_change(0.01, 1e-6, 1e-5) == pytest.approx(0.0418, abs=5e-5)
    assert theory.eps_sqnr_db(0.01, 1e-6, 1e-5) == pytest.approx(sqnr(one, other), abs=1e-9)


@pytest.mark.parametrize(
    ("rms", "decibels"), [(1.0, 107), (0.1, 66.9), (0.03, 46), (0.01, 27.6)]
)
def test_the_error_of_eps_falls_with_the_tokens_rms(rms: float, decibels: float) -> None:
    assert theory.eps_sqnr_db(rms, 1e-6, 1e-5) == pytest.approx(decibels, abs=0.15)


def test_a_norm_of_nothing_is_refused() -> None:
    with pytest.raises(theory.TheoryError, match=r"RMS 0\.0 with eps 0\.0"):
        theory.eps_change(0.0, 0.0, 1e-5)
    assert theory.eps_sqnr_db(1.0, 1e-5, 1e-5) == math.inf


# Hidden values


@pytest.mark.parametrize("name", ["silu", "gelu", "relu"])
@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_a_gate_times_its_activation_is_half_its_variance(name: str, std: float) -> None:
    assert theory.stein_half(name, std) == pytest.approx(0.5, abs=1e-9)


def test_the_law_of_the_mean_is_not_that_of_every_activation() -> None:
    assert theory.stein_half("sigmoid") == pytest.approx(0.2066, abs=1e-4)


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.4])
def test_the_mean_hidden_is_half_the_covariance(rho: float) -> None:
    g, z = RNG.standard_normal((2, 1_000_000))
    gate, value = 2.0 * g, 0.5 * (rho * g + math.sqrt(1 - rho**2) * z)
    expected = theory.mean_hidden(rho, 2.0, 0.5)
    for hidden in (gate * expit(gate) * value, gate * ndtr(gate) * value):
        assert hidden.mean() == pytest.approx(expected, abs=4e-3)


@pytest.mark.parametrize(
    ("name", "second", "kurtosis"),
    [("silu", 0.35578, 21.785), ("gelu", 0.42522, 21.647), ("identity", 1.0, 9.0)],
)
def test_the_moments_of_a_gated_hidden(name: str, second: float, kurtosis: float) -> None:
    assert theory.hidden_moments(name) == pytest.approx((second, kurtosis), abs=5e-4)


def test_the_moments_of_a_hidden_are_those_of_numbers_drawn() -> None:
    g, u = 0.7 * RNG.standard_normal((2, 4_000_000))
    hidden = g * expit(g) * u
    second, kurtosis = theory.hidden_moments("silu", 0.7)
    assert (hidden**2).mean() == pytest.approx(second, rel=0.01)
    assert (hidden**4).mean() / second**2 == pytest.approx(kurtosis, rel=0.1)


def test_a_swiglu_has_three_quarters_of_the_mlps_output() -> None:
    assert theory.glu_std_factor() == pytest.approx(0.747, abs=5e-4)
    assert theory.glu_std_factor(0.784) == pytest.approx(0.58, abs=5e-3)


def test_the_factor_of_a_swiglu_is_that_of_blocks_drawn() -> None:
    channels, wide = 384, 1536
    x = rms_norm(RNG.standard_normal((2000, channels)))
    up = RNG.standard_normal((channels, wide)) / math.sqrt(channels)
    gate, value = RNG.standard_normal((2, channels, wide * 2 // 3)) / math.sqrt(channels)
    mlp = (x @ up) * ndtr(x @ up)
    glu = (x @ gate) * expit(x @ gate) * (x @ value)
    down = 0.02 * RNG.standard_normal((wide, channels))
    ratio = (glu @ down[: wide * 2 // 3]).std() / (mlp @ down).std()
    assert ratio == pytest.approx(theory.glu_std_factor(), rel=0.03)


@pytest.mark.parametrize(
    ("scale", "glu", "mlp"), [(0.01, 2, 1), (1.0, 2.15, 1.09), (50.0, 2, 1)]
)
def test_gated_blocks_grow_with_the_square_and_plain_ones_do_not(
    scale: float, glu: float, mlp: float
) -> None:
    growth = theory.growth_exponent
    assert growth("silu", scale, kind="glu") == pytest.approx(glu, abs=0.01)
    assert growth("silu", scale, kind="glu", aligned=True) == pytest.approx(glu, abs=0.03)
    assert growth("relu2", scale, kind="mlp") == pytest.approx(2, abs=1e-6)
    assert growth("gelu", scale, kind="mlp") == pytest.approx(mlp, abs=0.01)


@pytest.mark.parametrize(
    ("name", "dip", "least"),
    [("silu", theory.SILU_DIP, -0.278465), ("gelu", theory.GELU_DIP, -0.169971)],
)
def test_the_dips_are_where_the_activations_are_least(
    name: str, dip: float, least: float
) -> None:
    curve = theory.CURVES[name]
    found = minimize_scalar(
        lambda x: float(curve(np.array([x]))[0]), bounds=(-3, 0), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    assert dip == pytest.approx(found.x, abs=1e-6)
    assert curve(np.array([dip]))[0] == pytest.approx(least, abs=1e-6)


def test_an_unknown_activation_is_told() -> None:
    with pytest.raises(UnknownName, match=r"no curve 'sillu'\. Did you mean 'silu'"):
        theory.hidden_moments("sillu")


# Number formats


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "bf16", "fp16"])
@pytest.mark.parametrize("shape", ["normal", "laplace", "exponential"])
def test_floating_formats_have_one_sqnr_whatever_the_density(name: str, shape: str) -> None:
    x = getattr(RNG, shape)(size=(512, 1024))
    measured = sqnr(x, fake_quantize(x, name).astype(np.float64))
    assert measured == pytest.approx(theory.float_law_db(name), abs=0.15)


def test_e4m3_has_31_5_db() -> None:
    assert theory.float_law_db("e4m3fn") == pytest.approx(31.5, abs=0.05)


def test_int8_follows_the_crest() -> None:
    x = RNG.standard_t(5, (512, 4096))
    crest = np.abs(x).max() / math.sqrt((x**2).mean())
    assert sqnr(x, fake_quantize(x, "int8")) == pytest.approx(theory.int_law_db(crest), abs=0.1)


def test_the_law_of_floating_formats_refuses_others() -> None:
    with pytest.raises(theory.TheoryError, match="int8 is a format of kind int"):
        theory.float_law_db("int8")


def test_powers_of_errors_add() -> None:
    assert theory.combined_db(30.0, 33.0) == pytest.approx(28.24, abs=0.005)
    assert theory.combined_db() == math.inf


def test_the_budget_of_weights_and_activations_is_the_sum_of_powers() -> None:
    g, u = RNG.standard_normal((2, 256, 4096))
    x, w = g * expit(g) * u, RNG.standard_normal((4096, 256))
    qx = fake_quantize(x, "int8", granularity="token").astype(np.float64)
    qw = fake_quantize(w.T, "int8", granularity="token").T.astype(np.float64)
    exact = x @ w
    alone = sqnr(exact, qx @ w), sqnr(exact, x @ qw)
    both = sqnr(exact, qx @ qw)
    assert both == pytest.approx(theory.combined_db(*alone), abs=0.05)
    assert both < min(alone) - 0.2


# Verdict


def test_within_the_tolerance_is_expected() -> None:
    assert theory.verdict(30.86, 30.80, tolerance=0.1) == "expected"


def test_outside_the_tolerance_is_unexplained() -> None:
    assert theory.verdict(30.86, 20.0, tolerance=0.1) == "unexplained"
    assert theory.verdict(1.0, math.nan, tolerance=0.1) == "unexplained"
    assert theory.verdict(math.nan, 1.0, tolerance=0.1) == "unexplained"


def test_under_the_floor_nothing_is_claimed() -> None:
    assert theory.verdict(1e-9, 2e-9, tolerance=1e-10, floor=1e-8) == "indistinguishable"
    assert theory.verdict(1e-3, 2e-9, tolerance=1e-10, floor=1e-8) == "indistinguishable"
    assert theory.verdict(1e-3, 1e-3, tolerance=1e-10, floor=1e-8) == "expected"
    assert theory.verdict(0.0, 2e-8, tolerance=1e-10, floor=1e-8) == "unexplained"


# Shapes


def test_random_directions_have_the_cosine_of_their_width() -> None:
    generator = np.random.default_rng(0)
    for width in (16, 768):
        a, b = generator.standard_normal((2, 20_000, width))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert theory.random_cosine(width) == pytest.approx(np.abs(cosines).mean(), rel=0.02)
    assert theory.random_cosine(768) == pytest.approx(0.0288, abs=1e-4)
    assert theory.random_cosine(4096) == pytest.approx(0.0125, abs=1e-4)


@pytest.mark.parametrize(
    ("d_model", "rule", "width"),
    [
        (4096, {}, 11008),
        (5120, {}, 13824),
        (8192, {"multiplier": 1.3, "multiple_of": 4096}, 28672),
        (4096, {"multiplier": 1.3, "multiple_of": 1024}, 14336),
    ],
)
def test_the_widths_of_llama(d_model: int, rule: dict[str, float], width: int) -> None:
    assert theory.llama_width(d_model, **rule) == width
