"""The numbers of a gate against closed forms and numpy."""

import numpy as np
import pytest
from scipy.stats import norm

from ffn_probe.figures.activation_curve import CURVES, DIPS
from ffn_probe.figures.gate_density import GateSide, gate_density
from ffn_probe.figures.gate_facts import FACTS, gate_facts, told
from ffn_probe.runs import WeightGeometry
from ffn_probe.sketches import BitHistogram, Joint

ROWS, NEURONS = 60_000, 4


def drawn(rho: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    g, z = rng.normal(size=(2, ROWS, NEURONS))
    return 1.5 * g, 0.7 * (rho * g + np.sqrt(1 - rho**2) * z)


def facts(
    g: np.ndarray, u: np.ndarray, activation: str = "silu", **more: object
) -> dict[str, float]:
    act = CURVES[activation](g.ravel()).reshape(g.shape)
    return gate_facts(
        BitHistogram.of(g), hidden=BitHistogram.of(act * u), joint=Joint.of(g, u, act),
        activation=activation, **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("rho", [0.0, 0.6, -0.9])
def test_a_gaussian_gate_has_the_numbers_of_theory(activation: str, rho: float) -> None:
    found = facts(*drawn(rho), activation)
    assert found["open"] == pytest.approx(0.5, abs=0.005)
    assert found["dip"] == pytest.approx(norm.cdf(DIPS[activation] / 1.5), abs=0.01)
    assert found["rho"] == pytest.approx(rho, abs=0.01)
    assert found["theory"] == pytest.approx(rho * 1.5 * 0.7 / 2, abs=0.01)
    assert found["hidden"] == pytest.approx(found["theory"], abs=0.01)
    assert found["ratio"] == pytest.approx(rho, abs=0.02)


def test_spreads_are_of_all_neurons_together() -> None:
    g, u = drawn(0.3)
    g = g + np.array([-3.0, 0.0, 1.0, 2.0])
    found = facts(g, u)
    assert found["gate_std"] == pytest.approx(g.std())
    assert found["value_std"] == pytest.approx(u.std())
    assert found["gate_mean"] == pytest.approx(g.mean())
    assert found["pairs"] == g.size
    within = [abs(np.corrcoef(g[:, k], u[:, k])[0, 1]) for k in range(NEURONS)]
    assert found["neuron_rho"] == pytest.approx(np.mean(within))


def test_weights_say_how_many_neurons_are_aligned() -> None:
    cosine = np.array([0.9, -0.6, 0.1, np.nan], np.float32)
    four, d_model = np.ones(4, np.float32), np.ones(100, np.float32)
    weights = WeightGeometry(cosine, four, four, four, d_model, d_model, d_model, d_model)
    found = facts(*drawn(0.0), weights=weights)
    assert found["aligned"] == pytest.approx(2 / 3)  # beyond 5 / sqrt(100)
    assert found["cosine"] == pytest.approx((0.9 + 0.6 + 0.1) / 3)
    assert found["random"] == pytest.approx(np.sqrt(2 / np.pi) / 10)


def test_a_plain_mlp_has_only_the_numbers_of_its_gate() -> None:
    g, _ = drawn(0.0)
    hidden = BitHistogram.of(np.maximum(g, 0))
    found = gate_facts(BitHistogram.of(g), hidden=hidden, activation="relu")
    assert set(found) == {"open", "zero"}
    assert found["zero"] == pytest.approx(0.5, abs=0.005)
    assert "falls" not in told(found, "relu")


def test_nothing_seen_says_nothing() -> None:
    assert gate_facts(BitHistogram.empty(), joint=Joint.empty(3), activation="silu") == {}
    assert told({}, "silu") == ""


def test_a_constant_gate_has_no_correlation() -> None:
    g = np.full((50, 2), 2.0)
    found = facts(g, g)
    assert "rho" not in found
    assert "ratio" not in found
    assert found["open"] == 1.0


def test_every_number_is_described() -> None:
    names = {fact.name for fact in FACTS}
    assert set(facts(*drawn(0.1))) <= names


# ---- the chart --------------------------------------------------------------------------


def test_the_chart_shades_where_each_activation_falls() -> None:
    sides = [GateSide("a", BitHistogram.of(drawn(0.0)[0]), "silu"),
             GateSide("<i>b", BitHistogram.of(0.5 * drawn(0.0, 1)[0]), "gelu")]  # fmt: skip
    figure = gate_density(sides)
    scale = sides[0].values.robust_sigma()
    ends = [s.x1 for s in figure.layout.shapes]
    assert ends == [pytest.approx(np.arcsinh(DIPS[n] / scale)) for n in ("silu", "gelu")]
    assert [t.name for t in figure.data] == [
        "a", "&lt;i&gt;b", "silu (right axis)", "gelu (right axis)"
    ]  # fmt: skip
    curve = figure.data[2]
    gates = np.asarray(curve.customdata, np.float64)
    np.testing.assert_allclose(curve.y, CURVES["silu"](gates), atol=1e-4)


def test_the_densities_of_the_chart_have_area_one() -> None:
    figure = gate_density([GateSide("a", BitHistogram.of(drawn(0.0)[0]))])
    (line,) = figure.data
    assert np.trapezoid(line.y, line.x) == pytest.approx(1, abs=1e-3)
