import numpy as np
import pytest

from ffn_probe.errors import SketchError
from ffn_probe.sketches import JOINT_BINS, JOINT_EDGES, Joint

RNG = np.random.default_rng(3)


def glu(rows: int, neurons: int, rho: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated Gaussian gate and value, and the SiLU of the gate."""
    gate = RNG.standard_normal((rows, neurons))
    value = rho * gate + np.sqrt(1 - rho**2) * RNG.standard_normal((rows, neurons))
    return gate, value, gate / (1 + np.exp(-gate))


def test_correlations_of_each_neuron_agree_with_numpy() -> None:
    gate, value, act = glu(300, 5, 0.4)
    sketch = Joint.of(gate + 50, value - 3, act)
    for i in range(5):
        expected = np.corrcoef(gate[:, i], value[:, i])[0, 1]
        assert sketch.corr_gate_value[i] == pytest.approx(expected, rel=1e-9)
        expected = np.corrcoef(act[:, i], value[:, i])[0, 1]
        assert sketch.corr_act_value[i] == pytest.approx(expected, rel=1e-9)


def test_pooled_totals_are_those_of_one_population() -> None:
    gate, value, act = glu(200, 7, -0.3)
    gate, value = gate * np.arange(1, 8) + np.arange(7), value + np.arange(7) ** 2
    totals = Joint.of(gate, value, act).pooled()
    g, u, a = gate.ravel(), value.ravel(), act.ravel()
    assert totals.count == g.size
    assert totals.corr_gate_value == pytest.approx(np.corrcoef(g, u)[0, 1], rel=1e-10)
    assert totals.corr_act_value == pytest.approx(np.corrcoef(a, u)[0, 1], rel=1e-10)
    expected = 2 * (a * u).mean() / (g.std() * u.std())
    assert totals.hidden_ratio == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
def test_stein_identity_of_a_swiglu(rho: float) -> None:
    totals = Joint.of(*glu(4000, 50, rho)).pooled()
    assert totals.hidden_ratio == pytest.approx(rho, abs=0.02)


def test_the_grid_counts_every_kept_pair_where_it_belongs() -> None:
    gate = np.array([[0.3, -5000.0, np.nan, 0.0]])
    value = np.array([[-0.3, 5000.0, 1.0, -0.0]])
    sketch = Joint.of(gate, value, gate)
    grid = sketch.grid.reshape(JOINT_BINS, JOINT_BINS)
    assert grid.sum() == sketch.count.sum() == 3
    row, column = (np.searchsorted(JOINT_EDGES, x, "right") - 1 for x in (0.3, -0.3))
    assert grid[row, column] == 1
    assert grid[0, JOINT_BINS - 1] == 1
    assert grid[JOINT_BINS // 2, JOINT_BINS // 2] == 1


def test_grid_agrees_with_numpy_inside_the_edges() -> None:
    gate, value, act = glu(100, 3, 0.2)
    expected, *_ = np.histogram2d(gate.ravel(), value.ravel(), [JOINT_EDGES, JOINT_EDGES])
    np.testing.assert_array_equal(Joint.of(gate, value, act).grid, expected.ravel())


def test_edges_are_symmetric_and_48_bins() -> None:
    np.testing.assert_array_equal(JOINT_EDGES, -JOINT_EDGES[::-1])
    assert (JOINT_BINS, JOINT_EDGES[-1]) == (48, 2.0**11)


def test_a_neuron_leaves_out_only_its_own_nonfinite_rows() -> None:
    gate, value, act = glu(10, 2, 0.0)
    value[3, 0] = np.inf
    assert Joint.of(gate, value, act).count.tolist() == [9, 10]


def test_hidden_may_be_given() -> None:
    gate, value, act = glu(10, 2, 0.0)
    sketch = Joint.of(gate, value, act, hidden=act * (value + 1))
    np.testing.assert_allclose(sketch.mean_hidden, (act * (value + 1)).mean(axis=0))


def test_no_spread_has_no_correlation() -> None:
    ones = np.ones((4, 2))
    totals = Joint.of(ones, ones, ones).pooled()
    assert np.isnan([totals.corr_gate_value, totals.hidden_ratio]).all()
    assert np.isnan(Joint.empty(2).pooled().corr_act_value)


def test_unlike_neuron_counts_do_not_merge() -> None:
    with pytest.raises(SketchError, match="2 and 3 neurons"):
        Joint.empty(2).merge(Joint.empty(3))


def test_products_beyond_float64_have_no_ratios() -> None:
    gate = np.array([[1e200], [-1e200], [1e199]])
    totals = Joint.of(gate, gate, np.ones_like(gate)).pooled()
    assert totals.count == 3
    assert np.isnan([totals.corr_gate_value, totals.hidden_ratio]).all()
