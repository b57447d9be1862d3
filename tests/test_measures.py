"""Every measure against its definition in numpy, closed forms, and tensors behind a run."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
import torch

import ffn_probe as fp
from ffn_probe.anatomy import ROLES, Block, Norm
from ffn_probe.errors import UnknownName
from ffn_probe.formats import FORMATS, fake_quantize, int8_sqnr_db
from ffn_probe.measures import (
    MEASURES,
    PREDICTED,
    QUANT_KEYS,
    SILU_DIP,
    MeasureInput,
    measure,
    measure_all,
)
from ffn_probe.sketches import Joint, QuantNoise, Summary
from tests.probes.models import tensors_of, tiny, tokens

RNG = np.random.default_rng(404)
FLOAT_MAX = float(np.finfo(np.float32).max)
BIN = 2.0**-7  # width of a histogram's bin; twice the bound of a quantile

REQUIRED = {
    "mean", "std", "rms", "skew", "kurtosis_fisher", "kurtosis_pearson", "he_kurtosis",
    "crest", "absmax", "p50_abs", "p99_abs", "p99_9_abs", "p99_99_abs", "zero_share",
    "near_zero_share", "nonfinite", "nan", "pos_inf", "neg_inf", "dead_channels",
    "dead_share", "outlier_channels", "spike_ratio", "gate_open", "silu_dip",
    "smallest_half_energy", "corr_gate_value", "hidden_ratio", "branch_ratio", "norm_r",
    "exponent_range", "headroom_fp16", "headroom_e4m3fn", "headroom_e5m2", "sqnr_int8_law",
    "sqnr_int8_predicted", "sqnr_e4m3fn_predicted", "sqnr_e5m2_predicted",
    "sqnr_fp16_predicted", "sqnr_bf16_predicted", "sqnr_int4_predicted", "sqnr_int8_tensor",
    "sqnr_int8_token", "sqnr_int8_channel", "sqnr_int4_group", "sqnr_fp16_none",
    "sqnr_bf16_none", "sqnr_e4m3fn_tensor", "sqnr_e5m2_tensor", "sqnr_mxfp8_block",
    "sqnr_mxfp6_block", "sqnr_mxfp4_block", "sqnr_nvfp4_block",
}  # fmt: skip


def noise_of(x: np.ndarray) -> QuantNoise:
    """What each format that fits the width makes of the rows."""
    found = {}
    for key in QUANT_KEYS:
        name, granularity = key.split(":")
        if granularity in {"group", "block"} and x.shape[1] % 128:
            continue
        found[key] = fake_quantize(x, name, granularity=granularity)
    return QuantNoise.measured(x, found)


def at(
    x: np.ndarray,
    role: str = "resid",
    *,
    joint: Joint | None = None,
    activation: str | None = None,
    siblings: Mapping[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """The measures of rows seen at a role."""
    summary = Summary.of(x, joint=joint, quant=noise_of(x.astype(np.float32)))
    block = None if activation is None else made_block(activation)
    beside = {name: Summary.of(rows) for name, rows in (siblings or {}).items()}
    given = MeasureInput(summary, role, block, beside)
    return {entry.name: value for entry, value in measure_all(given)}


def made_block(activation: str) -> Block:
    return Block(
        name="mlp", layer=0, kind="glu", activation=activation, norm=Norm("rmsnorm"),
        projections={}, d_model=4, d_ff=8,
    )  # fmt: skip


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * scipy.stats.norm.cdf(x)


def gaussian_pair(power: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Two independent standard normals, spread evenly (Sobol), so that tails are true."""
    points = scipy.stats.qmc.Sobol(2, rng=5).random_base2(power)
    g, u = scipy.stats.norm.ppf(np.clip(points, 1e-12, 1 - 1e-12)).T
    return g.reshape(-1, 256), u.reshape(-1, 256)


GATE, VALUE = gaussian_pair()

# ---- the table --------------------------------------------------------------------------


def test_the_table_has_every_measure_once() -> None:
    names = [entry.name for entry in MEASURES]
    assert set(names) >= REQUIRED
    assert len(names) == len(set(names))


def test_every_measure_is_described() -> None:
    for entry in MEASURES:
        assert all((entry.unit, entry.label, entry.formula, entry.source)), entry.name
        assert entry.direction in {"high", "low", "both", "none"}, entry.name
    labels = [entry.label for entry in MEASURES]
    assert len(labels) == len(set(labels))


def test_every_elementwise_format_in_use_is_predicted_and_measured() -> None:
    used = {key.split(":")[0] for key in QUANT_KEYS}
    blocks = {"mxfp8", "mxfp6", "mxfp6_e3m2", "mxfp4", "nvfp4"}
    assert used - blocks == set(PREDICTED)
    for key in QUANT_KEYS:
        name, granularity = key.split(":")
        assert granularity in FORMATS[name].granularities


def test_an_unknown_measure_is_refused_with_a_guess() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'kurtosis_fisher'"):
        measure("kurtosis_fischer")
    with pytest.raises(UnknownName, match="no measure"):
        list(measure_all(MeasureInput(Summary.empty(3), "resid"), ["rms", "rmss"]))


def test_chosen_measures_come_in_the_order_asked_for() -> None:
    given = MeasureInput(Summary.of(np.ones((2, 2))), "out")
    assert [m.name for m, _ in measure_all(given, ["rms", "mean"])] == ["rms", "mean"]


# ---- definitions ------------------------------------------------------------------------


def ranked(x: np.ndarray, q: float) -> float:
    return float(np.quantile(np.abs(x), q, method="inverted_cdf"))


def channel_rms(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).mean(axis=0))


def typical(x: np.ndarray) -> float:
    return float(np.median(channel_rms(x)[np.abs(x).max(axis=0) > 0]))


def half_energy(x: np.ndarray) -> float:
    square = np.sort(x.ravel() ** 2)
    return float(square[: square.size // 2].sum() / square.sum())


def spike(x: np.ndarray) -> float:
    tops = np.abs(x).max(axis=1)
    return float(tops.max() / np.median(tops))


def rms(x: np.ndarray) -> float:
    return float(np.sqrt((x**2).mean()))


def top(x: np.ndarray) -> float:
    return float(np.abs(x).max())


Definition = Callable[[np.ndarray], float]
DEFINITIONS: dict[str, tuple[Definition, float]] = {
    "mean": (np.mean, 1e-9),
    "std": (np.std, 1e-9),
    "rms": (rms, 1e-9),
    "skew": (lambda x: float(scipy.stats.skew(x, axis=None)), 1e-9),
    "kurtosis_fisher": (lambda x: float(scipy.stats.kurtosis(x, axis=None)), 1e-9),
    "kurtosis_pearson": (
        lambda x: float(scipy.stats.kurtosis(x, axis=None, fisher=False)),
        1e-9,
    ),
    "he_kurtosis": (
        lambda x: float((channel_rms(x) ** 4).mean() / (channel_rms(x) ** 2).mean() ** 2),
        1e-9,
    ),
    "crest": (lambda x: top(x) / rms(x), 1e-9),
    "absmax": (top, 0.0),
    "p50_abs": (lambda x: ranked(x, 0.5), BIN / 2),
    "p99_abs": (lambda x: ranked(x, 0.99), BIN / 2),
    "p99_9_abs": (lambda x: ranked(x, 0.999), BIN / 2),
    "p99_99_abs": (lambda x: ranked(x, 0.9999), BIN / 2),
    "zero_share": (lambda x: float((x == 0).mean()), 0.0),
    "near_zero_share": (lambda x: float((np.abs(x) <= 0.01 * rms(x)).mean()), 0.05),
    "nonfinite": (lambda _: 0.0, 0.0),
    "dead_channels": (lambda x: float((np.abs(x).max(axis=0) <= 1e-3 * typical(x)).sum()), 0.0),
    "dead_share": (lambda x: float((np.abs(x).max(axis=0) <= 1e-3 * typical(x)).mean()), 0.0),
    "outlier_channels": (lambda x: float((channel_rms(x) > 6 * typical(x)).sum()), 0.0),
    "spike_ratio": (spike, 2.0**-4),
    "smallest_half_energy": (half_energy, 0.01),
    "exponent_range": (
        lambda x: float(np.log2(top(x) / ranked(x[x != 0], 0.001))),
        0.02,
    ),
    "headroom_fp16": (lambda x: 65504 / top(x), 1e-12),
    "headroom_e4m3fn": (lambda x: 448 / top(x), 1e-12),
    "headroom_e5m2": (lambda x: 57344 / top(x), 1e-12),
    "sqnr_int8_law": (lambda x: 20 * math.log10(127 * math.sqrt(12) * rms(x) / top(x)), 1e-9),
}


def made_streams() -> dict[str, np.ndarray]:
    normal = RNG.standard_normal((3000, 128))
    tail = RNG.standard_t(4, (3000, 128)) * np.exp(RNG.normal(0, 0.5, (3000, 1)))
    uneven = normal * np.where(np.arange(128) < 3, 30.0, 1.0)
    uneven[:, [7, 90]] = 0.0
    uneven[:, 91] *= 1e-7
    relu = np.maximum(normal, 0) ** 2
    shifted = 40 + normal * np.exp(normal[:, :1])
    found = {
        "gaussian": normal,
        "heavy": tail,
        "uneven": uneven,
        "relu2": relu,
        "shifted": shifted,
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


STREAMS = made_streams()
FOUND = {name: at(x, "hidden") for name, x in STREAMS.items()}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_measure_is_its_definition_in_numpy(name: str, stream: str) -> None:
    definition, allowed = DEFINITIONS[name]
    expected = definition(STREAMS[stream].astype(np.float64))
    assert FOUND[stream][name] == pytest.approx(expected, rel=allowed, abs=1e-12)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("key", QUANT_KEYS)
def test_measured_decibels_are_those_of_the_quantized_values(key: str, stream: str) -> None:
    x = STREAMS[stream]
    name, granularity = key.split(":")
    wide = x.astype(np.float64)
    error = fake_quantize(x, name, granularity=granularity) - wide
    expected = 10 * np.log10((wide**2).sum() / (error**2).sum())
    assert FOUND[stream][f"sqnr_{name}_{granularity}"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", PREDICTED)
def test_predicted_decibels_are_the_measured_ones(name: str, stream: str) -> None:
    x = STREAMS[stream].astype(np.float64)
    error = fake_quantize(STREAMS[stream], name) - x
    measured = 10 * np.log10((x**2).sum() / (error**2).sum())
    assert FOUND[stream][f"sqnr_{name}_predicted"] == pytest.approx(measured, abs=0.1)


def test_non_finite_values_are_counted_by_kind_and_left_out() -> None:
    x = STREAMS["gaussian"].copy()
    x[0, :6] = np.nan, np.nan, np.nan, np.inf, np.inf, -np.inf
    found, rest = at(x), x[np.isfinite(x)].astype(np.float64)
    assert [found[n] for n in ("nan", "pos_inf", "neg_inf", "nonfinite")] == [3, 2, 1, 6]
    assert found["rms"] == pytest.approx(rms(rest), rel=1e-12)
    assert found["absmax"] == top(rest)


def test_the_gates_shares() -> None:
    x = (RNG.standard_normal((4000, 64)) - 0.3).astype(np.float32)
    x[:, 0] = 0.0
    found = at(x, "gate", activation="silu")
    assert found["gate_open"] == pytest.approx((x > 0).mean(), abs=1e-12)
    assert found["silu_dip"] == pytest.approx((x < SILU_DIP).mean(), abs=2e-4)


def test_a_token_norm_ratio_is_mu_over_sigma() -> None:
    x = RNG.standard_normal((201, 2000))
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    sizes = np.exp(RNG.normal(0, 3, (201, 1)))
    for r in (0.01, 0.1, -0.3):
        ratios = r * np.exp(RNG.normal(0, 1, (201, 1)))
        found = at((x + ratios) * sizes, "resid")["norm_r"]
        assert found == pytest.approx(np.median(np.abs(ratios)), rel=2.0**-4)


def test_the_branch_ratio_is_out_over_resid() -> None:
    out, resid = RNG.standard_normal((2, 300, 8)) * np.array([0.2, 5.0]).reshape(2, 1, 1)
    found = at(out, "out", siblings={"resid": resid})
    assert found["branch_ratio"] == pytest.approx(rms(out) / rms(resid), rel=1e-12)


def test_a_planted_spike_channel_and_dead_channel_are_seen() -> None:
    x = RNG.standard_normal((999, 64))
    quiet = at(x)
    assert quiet["spike_ratio"] < 3
    assert quiet["dead_channels"] == quiet["outlier_channels"] == 0
    x[:, 5], x[:, 9] = 0, 100 * x[:, 9]
    x[500, 20] = 4136 * np.median(np.abs(x).max(axis=1))
    found = at(x)
    assert found["spike_ratio"] == pytest.approx(4136, rel=2.0**-4)
    assert (found["dead_channels"], found["dead_share"]) == (1, 1 / 64)
    assert found["outlier_channels"] >= 1


# ---- where a measure does not apply -----------------------------------------------------

ONLY = {
    "gate": {"gate_open", "silu_dip"},
    "hidden": {"smallest_half_energy", "corr_gate_value", "hidden_ratio"},
    "out": {"branch_ratio"},
    "resid": {"norm_r"},
}


@pytest.mark.parametrize("role", ROLES)
def test_a_measure_of_one_role_is_absent_at_the_others(role: str) -> None:
    x = RNG.standard_normal((50, 128)).astype(np.float32)
    found = at(x, role, joint=Joint.of(x, x, x), activation="silu", siblings={"resid": x})
    expected = set.union(*ONLY.values()) & found.keys()
    assert expected == ONLY.get(role, set())


@pytest.mark.parametrize("activation", ["gelu", "relu", "quick_gelu", "gpt_oss_swiglu"])
def test_silus_dip_is_no_measure_of_another_activation(activation: str) -> None:
    x = RNG.standard_normal((50, 4))
    assert "silu_dip" not in at(x, "gate", activation=activation)
    assert "silu_dip" in at(x, "gate", activation="clamped_swiglu")


def test_a_ratio_without_its_sibling_is_absent() -> None:
    x = np.ones((3, 4))
    assert "branch_ratio" not in at(x, "out")
    assert "branch_ratio" not in at(x, "out", siblings={"resid": np.zeros((3, 4))})


ODD: dict[str, Any] = {
    "nothing": np.zeros((0, 4), np.float32),
    "one value": np.full((1, 1), 0.3, np.float32),
    "one row": RNG.standard_normal((1, 128)).astype(np.float32),
    "only NaN": np.full((3, 4), np.nan, np.float32),
    "only infinities": np.array([[np.inf, -np.inf]], np.float32),
    "all kinds": np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.0]], np.float32),
    "zeros": np.zeros((5, 128), np.float32),
    "a constant": np.full((5, 128), -0.1, np.float32),
    "float32's largest": np.array([[FLOAT_MAX, -FLOAT_MAX], [FLOAT_MAX, 1.0]], np.float32),
    "float32's smallest": np.full((2, 128), 1e-45, np.float32),
    "beyond float32": np.array([[1e300, -1e300], [1e200, 5.0]]),
    "below float32": np.array([[1e-300, -1e-200], [0.0, 1e-310]]),
    "half": RNG.standard_normal((4, 128)).astype(np.float16),
}


@pytest.mark.parametrize("role", ["gate", "hidden", "out", "resid"])
@pytest.mark.parametrize("values", ODD.values(), ids=ODD.keys())
def test_odd_values_give_numbers_or_nothing(values: np.ndarray, role: str) -> None:
    joint = Joint.of(values, values, values)
    quant = QuantNoise.measured(values, {"int8:tensor": np.zeros_like(values)})
    summary = Summary.of(values, joint=joint, quant=quant)
    given = MeasureInput(summary, role, None, {"resid": summary})
    found = {entry.name: value for entry, value in measure_all(given)}
    assert not any(math.isnan(value) for value in found.values())
    assert found["nonfinite"] == (~np.isfinite(values)).sum()
    if not np.isfinite(values).any():
        assert found.keys() == {"nonfinite", "nan", "pos_inf", "neg_inf"}


def test_a_ratio_to_what_overflowed_is_absent_and_not_zero() -> None:
    summary = Summary.of(np.array([[1e300, -1e300], [1e200, 5.0]]))
    found = {entry.name: value for entry, value in measure_all(MeasureInput(summary, "out"))}
    assert (found["absmax"], found["rms"]) == (1e300, math.inf)
    assert (
        not {"crest", "sqnr_int8_law", "sqnr_int8_predicted", "exponent_range"} & found.keys()
    )


def test_a_constant_has_a_level_and_no_shape() -> None:
    found = at(np.full((5, 128), -0.25, np.float32))
    assert (found["mean"], found["std"], found["crest"]) == (-0.25, 0.0, 1.0)
    assert not {"skew", "kurtosis_fisher", "kurtosis_pearson"} & found.keys()
    assert found["exponent_range"] == 0
    assert found["sqnr_bf16_none"] == found["sqnr_bf16_predicted"] == math.inf


# ---- published values -------------------------------------------------------------------


def test_silus_minimum() -> None:
    found = scipy.optimize.minimize_scalar(
        silu, bounds=(-3, 0), method="bounded", options={"xatol": 1e-10}
    )
    assert pytest.approx(found.x, abs=1e-6) == SILU_DIP
    assert float(silu(np.float64(SILU_DIP))) == pytest.approx(-0.278465, abs=1e-6)


@pytest.mark.parametrize(
    ("activation", "square", "kurtosis"),
    [
        (silu, 0.35578, 21.785),
        (gelu, 0.42522, 21.647),
        (lambda g: g, 1.0, 9.0),
        (lambda g: np.maximum(g, 0), 0.5, 18.0),
    ],
    ids=["swiglu", "geglu", "bilinear", "reglu"],
)
def test_moments_of_gated_products(
    activation: Callable[[np.ndarray], np.ndarray], square: float, kurtosis: float
) -> None:
    found = at(activation(GATE) * VALUE, "hidden")
    assert found["rms"] ** 2 == pytest.approx(square, rel=0.002)
    assert found["kurtosis_pearson"] == pytest.approx(kurtosis, rel=0.02)


@pytest.mark.parametrize(
    ("hidden", "share"),
    [
        (silu(GATE) * VALUE, 0.0080),
        (gelu(GATE), 0.0138),
        (GATE, 0.071),
        (np.maximum(GATE, 0) ** 2, 0.0),
    ],
    ids=["swiglu", "gelu", "gaussian", "relu2"],
)
def test_energy_in_the_smallest_half(hidden: np.ndarray, share: float) -> None:
    found = at(hidden, "hidden")["smallest_half_energy"]
    assert found == pytest.approx(share, abs=0.0005)


def test_kurtosis_is_centred() -> None:
    """The uncentred ratios of the same values are 7.23 and 7.93."""
    found = at(gelu(GATE), "hidden")
    assert found["kurtosis_fisher"] == pytest.approx(3.10, abs=0.02)
    assert found["kurtosis_pearson"] == pytest.approx(6.10, abs=0.02)


@pytest.mark.parametrize("rho", [0.0, 0.4, -0.9])
@pytest.mark.parametrize("activation", [silu, gelu], ids=["swiglu", "geglu"])
def test_the_mean_hidden_tells_the_correlation(
    rho: float, activation: Callable[[np.ndarray], np.ndarray]
) -> None:
    gate, value = 2.0 * GATE, 0.5 * (rho * GATE + math.sqrt(1 - rho**2) * VALUE)
    act = activation(gate)
    found = at(act * value, "hidden", joint=Joint.of(gate, value, act))
    assert found["corr_gate_value"] == pytest.approx(rho, abs=0.002)
    assert found["hidden_ratio"] == pytest.approx(rho, abs=0.003)


@pytest.mark.parametrize(
    ("outliers", "size", "expected"), [(0, 1, 1.0005), (8, 30, 206.7), (1, 1e4, 4096.0)]
)
def test_he_kurtosis_of_4096_channels(outliers: int, size: float, expected: float) -> None:
    x = RNG.standard_normal((2048, 4096), np.float32)
    x[:, :outliers] *= size
    found = {
        e.name: v for e, v in measure_all(MeasureInput(Summary.of(x), "resid"), ["he_kurtosis"])
    }
    assert found["he_kurtosis"] == pytest.approx(expected, rel=0.02)


def test_the_share_left_of_silus_minimum_of_a_standard_gate() -> None:
    assert at(GATE, "gate")["silu_dip"] == pytest.approx(
        scipy.stats.norm.cdf(-1.278465), abs=1e-4
    )


def test_int8_loses_to_e4m3_beyond_a_crest_of_11_7() -> None:
    x = RNG.standard_normal((512, 1024)).astype(np.float32)
    for crest in (8.0, 16.0):
        x[0, 0] = crest
        found = at(x)
        assert found["crest"] == pytest.approx(crest, rel=0.01)
        better = found["sqnr_int8_tensor"] > found["sqnr_e4m3fn_tensor"]
        assert better == (found["sqnr_int8_law"] > int8_sqnr_db(11.7)) == (crest < 11.7)
        assert found["sqnr_int8_law"] == pytest.approx(found["sqnr_int8_tensor"], abs=0.1)


# ---- through a run ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[Any, Any]]:
    """The measures of a recorded model, and the tensors that flowed."""
    model = tiny(width=32, hidden=128).eval()
    batches = [tokens(sequences=2, length=24, seed=seed) for seed in range(12)]
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = fp.record(model, batches, to=folder, rows="all")
    parts = [tensors_of(model, batch) for batch in batches]
    truth = {
        key: torch.cat([p[key].flatten(0, 1) for p in parts]).detach().double().numpy()
        for key in parts[0]
    }
    frame = run.measures().set_index(["layer", "role", "measure"])["value"]
    return frame, truth


@pytest.mark.parametrize("name", [n for n in DEFINITIONS if n != "smallest_half_energy"])
@pytest.mark.parametrize("role", ROLES)
def test_a_runs_measure_is_that_of_its_tensors(
    name: str, role: str, recorded: tuple[pd.DataFrame, dict[Any, Any]]
) -> None:
    frame, truth = recorded
    definition, allowed = DEFINITIONS[name]
    expected = definition(truth[1, role])
    assert frame[1, role, name] == pytest.approx(expected, rel=max(allowed, 1e-4), abs=1e-6)


def test_a_runs_measures_of_several_sites(
    recorded: tuple[pd.DataFrame, dict[Any, Any]],
) -> None:
    frame, truth = recorded
    for layer in (0, 1):
        roles = ("resid", "gate", "value", "hidden", "out")
        x, g, u, h, y = (truth[layer, role] for role in roles)
        assert frame[layer, "out", "branch_ratio"] == pytest.approx(rms(y) / rms(x), rel=1e-5)
        expected = np.corrcoef(g.ravel(), u.ravel())[0, 1]
        assert frame[layer, "hidden", "corr_gate_value"] == pytest.approx(expected, abs=1e-5)
        expected = 2 * h.mean() / (g.std() * u.std())
        assert frame[layer, "hidden", "hidden_ratio"] == pytest.approx(expected, abs=1e-5)
        assert frame[layer, "gate", "gate_open"] == pytest.approx((g > 0).mean(), abs=1e-3)
        assert frame[layer, "gate", "silu_dip"] == pytest.approx(
            (g < SILU_DIP).mean(), abs=2e-3
        )
        ratio = np.median(np.abs(x.mean(axis=1)) / x.std(axis=1))
        assert frame[layer, "resid", "norm_r"] == pytest.approx(ratio, rel=2.0**-4)


def test_a_runs_measured_decibels_are_near_those_of_all_rows(
    recorded: tuple[pd.DataFrame, dict[Any, Any]],
) -> None:
    frame, truth = recorded
    x = truth[1, "hidden"].astype(np.float32)
    wide = x.astype(np.float64)
    for key in QUANT_KEYS:
        name, granularity = key.split(":")
        error = fake_quantize(x, name, granularity=granularity) - wide
        expected = 10 * np.log10((wide**2).sum() / (error**2).sum())
        found = frame[1, "hidden", f"sqnr_{name}_{granularity}"]
        assert found == pytest.approx(expected, abs=1.5), key
