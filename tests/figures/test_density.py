"""Two histograms on shared bins: shares, places in the tensor's unit, lone values."""

import math

import numpy as np
import pytest

from ffn_probe.figures.density import shared_density
from ffn_probe.figures.overlay import overlay
from ffn_probe.sketches import BitHistogram

NORMAL = np.random.default_rng(0).standard_normal(4000).astype(np.float32)


def test_both_densities_hold_all_of_their_values() -> None:
    density = shared_density(BitHistogram.of(NORMAL), BitHistogram.of(NORMAL * 30))
    widths = np.diff(density.edges)
    assert np.sum(density.a * widths) == pytest.approx(1)
    assert np.sum(density.b * widths) == pytest.approx(1)
    assert density.values(density.edges)[-1] > 60


def test_a_tick_stands_at_its_value() -> None:
    density = shared_density(BitHistogram.of(NORMAL * 0.01))
    assert {text for _, text in density.ticks} >= {"-0.01", "0", "0.01"}
    for place, text in density.ticks:
        assert math.sinh(place) * density.scale == pytest.approx(float(text), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 7.5, -1e-30, 3e38])
def test_one_value_is_one_column_and_not_a_gap(value: float) -> None:
    histogram = BitHistogram.of(np.full(9, value, np.float32))
    density = shared_density(BitHistogram.of(NORMAL), histogram)
    x, y = density.outline(density.b, 1e-9)
    raised = np.flatnonzero(y > 1e-9)
    assert raised.size == 2
    assert y[0] == y[-1] == 1e-9
    assert np.all(np.diff(x) >= 0)
    low, high = x[raised]
    assert low <= math.asinh(value / density.scale) <= high


def test_the_largest_floats_can_be_drawn() -> None:
    figure = overlay(
        BitHistogram.of(NORMAL), BitHistogram.of(np.array([3e38, -3e38], np.float32))
    )
    assert np.isfinite(figure.data[1].customdata).all()


def test_values_that_are_not_finite_are_no_part_of_the_density() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1.0, 2.0], np.float32)
    density = shared_density(BitHistogram.of(odd))
    assert np.sum(density.a * np.diff(density.edges)) == pytest.approx(1)
    assert np.isfinite(density.edges).all()


def test_of_nothing_there_is_an_empty_picture() -> None:
    empty = BitHistogram.empty()
    assert shared_density(empty, empty).powers is None
    assert len(overlay(empty, empty).data) == 2


def test_an_overlay_has_axes_names_and_units() -> None:
    figure = overlay(BitHistogram.of(NORMAL), BitHistogram.of(NORMAL + 1), names=("<i>", "b"))
    assert "unit of the tensor" in figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text == "density (log scale)"
    assert [trace.name for trace in figure.data] == ["&lt;i&gt;", "b"]
    assert figure.data[0].x.dtype == np.float32


def test_cumulative_shares_end_at_one_and_are_half_at_the_median() -> None:
    figure = overlay(BitHistogram.of(NORMAL), cumulative=True)
    (trace,) = figure.data
    assert trace.y[-1] == pytest.approx(1)
    value = np.interp(0.5, trace.y, trace.customdata)
    assert value == pytest.approx(float(np.median(NORMAL)), abs=0.05)


# ---- the logarithmic axis ---------------------------------------------------------------


def test_a_log_axis_shows_the_decades_below_the_robust_sigma() -> None:
    spread = np.concatenate([NORMAL, NORMAL * 1e-3]).astype(np.float32)
    histogram = BitHistogram.of(spread)
    plain, log = shared_density(histogram), shared_density(histogram, axis="log")
    assert log.scale == pytest.approx(np.quantile(np.abs(spread), 0.001), rel=0.05)
    assert np.sum(log.a * np.diff(log.edges)) == pytest.approx(1)
    both = (
        log.places(np.array([-1e-3, 1e-3, 1.0])),
        plain.places(np.array([-1e-3, 1e-3, 1.0])),
    )
    assert both[0][2] - both[0][1] > 3 * both[1][2] / 2
    assert {text for _, text in log.ticks} & {"0.001", "-0.001"}


def test_exact_zeros_do_not_move_a_log_axis() -> None:
    zeros = np.concatenate([NORMAL, np.zeros(40_000, np.float32)])
    scales = [shared_density(BitHistogram.of(x), axis="log").scale for x in (NORMAL, zeros)]
    assert scales[1] == pytest.approx(scales[0])
    only = shared_density(BitHistogram.of(np.zeros(5, np.float32)), axis="log")
    assert np.isfinite(only.edges).all()


@pytest.mark.parametrize("least", [1e-44, 1e-30, 1e-9])
def test_a_log_axis_spans_eight_decades_at_most(least: float) -> None:
    values = np.array([least] * 50 + [1.0, -1.0] * 25, np.float32)
    density = shared_density(BitHistogram.of(values), axis="log")
    assert density.scale >= 1e-8
    assert np.isfinite(density.edges).all()


def test_places_and_values_are_inverse() -> None:
    density = shared_density(BitHistogram.of(NORMAL), axis="log")
    values = np.array([-3.0, -0.01, 0.0, 0.5])
    assert density.values(density.places(values)) == pytest.approx(values)


def test_both_axes_say_which_they_are() -> None:
    histogram = BitHistogram.of(NORMAL)
    titles = [
        overlay(histogram, axis=axis).layout.xaxis.title.text for axis in ("asinh", "log")
    ]
    assert ["asinh" in title for title in titles] == [True, False]
    assert "log of |x|" in titles[1]
