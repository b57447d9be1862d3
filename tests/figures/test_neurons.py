"""Neurons: their weights against how gate and value move, few or too many to draw."""

import numpy as np
import pytest

from ffn_probe.figures.neurons import (
    MOST,
    Neurons,
    correlation_chart,
    neuron_chart,
    neurons_of,
    reach,
)
from ffn_probe.runs import WeightGeometry
from ffn_probe.sketches import Channels, Joint


def of(neurons: int, rows: int = 60, seed: int = 0) -> tuple[Joint, Channels, WeightGeometry]:
    rng = np.random.default_rng(seed)
    g, z = rng.normal(size=(2, rows, neurons)) * np.linspace(0.5, 2, neurons)
    rho = np.linspace(-0.9, 0.9, neurons)
    u = rho * g + np.sqrt(1 - rho**2) * z
    act = np.maximum(g, 0)
    size, channels = np.ones(neurons, np.float32), np.ones(64, np.float32)
    weights = WeightGeometry(
        rho.astype(np.float32), size, size, size, channels, channels, channels, channels
    )
    return Joint.of(g, u, act), Channels.of(act * u), weights


def test_the_entries_are_those_of_the_sketches() -> None:
    joint, hidden, weights = of(12)
    found = neurons_of(joint, hidden, weights)
    np.testing.assert_array_equal(found.correlation, joint.corr_gate_value)
    np.testing.assert_array_equal(found.hidden_rms, hidden.rms)
    np.testing.assert_allclose(found.cosine, weights.cos_gate_up)
    np.testing.assert_array_equal(found.ranked, np.argsort(-hidden.rms))
    assert found.aligned == 5 / 8


def test_aligned_neurons_are_listed_by_the_cosine_of_their_weights() -> None:
    found = neurons_of(*of(10))
    expected = [k for k in range(10) if abs(found.cosine[k]) > 5 / 8]
    assert set(found.outliers().tolist()) == set(expected)
    assert np.all(np.diff(np.abs(found.cosine[found.outliers()])) <= 1e-7)


def test_without_weights_those_are_listed_that_correlate() -> None:
    joint, hidden, _ = of(10)
    found = neurons_of(joint, hidden)
    listed = found.outliers()
    assert not found.known.any()
    assert set(listed) == set(np.flatnonzero(np.abs(joint.corr_gate_value) > 0.5))


def test_weights_of_another_width_are_left_out() -> None:
    joint, hidden, _ = of(10)
    assert neurons_of(joint, hidden, of(9)[2]).cosine.size == 0
    assert np.isnan(neurons_of(joint, of(9)[1]).hidden_rms).all()


def test_a_neuron_without_spread_is_not_drawn_and_not_listed() -> None:
    joint, hidden, weights = of(8)
    broken = Joint.from_row({**joint.to_row(), "c_gg": np.zeros(8)})
    found = neurons_of(broken, hidden, weights)
    assert not found.known.any()
    assert len(neuron_chart(found, "#000000").data[0].x) == 0
    assert neurons_of(broken, hidden).outliers().size == 0


def test_a_mark_is_a_neuron_and_grows_with_its_hidden() -> None:
    found = neurons_of(*of(30))
    (marks,) = neuron_chart(found, "#3f7fc6").data
    ids = np.asarray(marks.customdata)[:, 0].astype(int)
    assert sorted(ids) == list(range(30))
    np.testing.assert_allclose(marks.x, found.cosine[ids], rtol=1e-6)
    np.testing.assert_allclose(marks.y, found.correlation[ids], rtol=1e-6)
    assert np.all(np.diff(marks.marker.size) <= 0)


def test_of_too_many_neurons_the_smaller_ones_are_counted() -> None:
    found = neurons_of(*of(MOST + 500, rows=12))
    cells, marks = neuron_chart(found, "#3f7fc6").data
    assert len(marks.x) == MOST
    assert np.asarray(cells.customdata).sum() == 500
    drawn = np.asarray(marks.customdata)[:, 0].astype(int)
    rest = np.setdiff1d(np.arange(MOST + 500), drawn)
    assert found.hidden_rms[drawn].min() >= found.hidden_rms[rest].max()


def test_compared_charts_reach_as_far_as_either() -> None:
    wide = neurons_of(*of(10))
    narrow = Neurons(np.array([0.04]), np.array([-0.13]), *(np.ones(1),) * 3, aligned=0.1)
    assert reach(narrow) == (0.05, 0.2)
    assert reach(wide, narrow) == (1.0, 1.0)
    assert reach() == (0.02, 0.02)
    figure = neuron_chart(narrow, "#000000", reach=reach(narrow))
    diagonal = figure.layout.shapes[0]
    assert (diagonal.x0, diagonal.y0, diagonal.x1, diagonal.y1) == (-0.05, -0.05, 0.05, 0.05)
    assert len(figure.layout.shapes) == 1  # the limit of aligned neurons is out of sight


def test_correlations_alone_are_shares_of_the_neurons() -> None:
    found = neurons_of(*of(50)[:2])
    figure = correlation_chart([("a", "#3f7fc6", found), ("b", "#d9722e", found)])
    assert figure.data[0].y[::2].sum() == pytest.approx(1)
    assert figure.layout.showlegend
