import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn_probe.sketches import Moments

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e6])
def test_statistics_agree_with_scipy(mean: float) -> None:
    values = mean + RNG.standard_gamma(2.0, 5000)
    sketch = Moments.of(values)
    assert sketch.mean == pytest.approx(values.mean(), rel=1e-12)
    assert sketch.std == pytest.approx(values.std(), rel=1e-9)
    assert sketch.rms == pytest.approx(np.sqrt((values**2).mean()), rel=1e-12)
    assert sketch.energy == pytest.approx((values**2).sum(), rel=1e-12)
    assert sketch.skew == pytest.approx(scipy.stats.skew(values), rel=1e-6)
    assert sketch.kurtosis_fisher == pytest.approx(scipy.stats.kurtosis(values), rel=1e-6)
    assert sketch.kurtosis_pearson == pytest.approx(sketch.kurtosis_fisher + 3)


def test_merging_unequal_parts_with_far_means_agrees_with_scipy() -> None:
    parts = [RNG.normal(100.0 * i, 1 + i, size) for i, size in enumerate((3, 5000, 40, 1))]
    merged = Moments.empty()
    for part in parts:
        merged = merged.merge(Moments.of(part))
    whole = np.concatenate(parts)
    assert merged.variance == pytest.approx(whole.var(), rel=1e-12)
    assert merged.skew == pytest.approx(scipy.stats.skew(whole), rel=1e-10)
    assert merged.kurtosis_fisher == pytest.approx(scipy.stats.kurtosis(whole), rel=1e-10)


def test_a_large_mean_does_not_cancel() -> None:
    values = np.float32(1e4) + RNG.standard_normal(100_000).astype(np.float32)
    parts = [Moments.of(part) for part in np.array_split(values, 97)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.std == pytest.approx(values.astype(np.float64).std(), rel=1e-9)


def test_nonfinite_values_are_counted_and_left_out() -> None:
    sketch = Moments.of(np.array([1.0, np.nan, np.inf, -np.inf, np.inf, 3.0]))
    assert (sketch.count, sketch.nan, sketch.pos_inf, sketch.neg_inf) == (2, 1, 2, 1)
    assert sketch.nonfinite == 4
    assert (sketch.mean, sketch.variance) == (2.0, 1.0)


def test_no_values_have_no_ratios() -> None:
    empty = Moments.of(np.zeros(0))
    ratios = (empty.variance, empty.std, empty.rms, empty.skew, empty.kurtosis_pearson)
    assert all(math.isnan(x) for x in ratios)
    assert empty.energy == 0


@given(value=st.floats(-1e30, 1e30), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5))
@settings(deadline=None)
def test_a_constant_has_no_spread_however_it_is_merged(value: float, sizes: list[int]) -> None:
    merged = Moments.empty()
    for size in sizes:
        merged = merged.merge(Moments.of(np.full(size, value)))
    assert merged.mean == value
    assert merged.variance == 0
    assert math.isnan(merged.kurtosis_pearson)


def test_constants_one_rounding_apart_have_no_kurtosis() -> None:
    near = Moments.of(np.array([0.1, np.nextafter(0.1, 1)]))
    assert math.isnan(near.kurtosis_pearson)


def test_float32_max_does_not_overflow() -> None:
    top = float(np.finfo(np.float32).max)
    sketch = Moments.of(np.array([top, -top, top, -top], dtype=np.float32))
    assert (sketch.mean, sketch.std) == (0.0, pytest.approx(top))
    assert sketch.kurtosis_pearson == pytest.approx(1.0)


def test_float64_max_overflows_quietly() -> None:
    top = float(np.finfo(np.float64).max)
    sketch = Moments.of(np.array([top, top, -top]))
    assert sketch.count == 3
    assert sketch.mean == pytest.approx(top / 3)
    assert sketch.m2 == math.inf
    assert sketch.merge(sketch).count == 6


def test_counts_beyond_float64_integers_stay_exact() -> None:
    row = Moments.of(np.ones(1)).to_row() | {"count": 2**60 + 1}
    assert Moments.from_row(row).merge(Moments.of(np.ones(2))).count == 2**60 + 3


def test_a_fourth_power_beyond_float64_is_infinite_and_says_nothing_finite() -> None:
    sketch = Moments.of(np.array([1e100, -1e100, 3e99]))
    assert (sketch.m4, sketch.merge(sketch).m4) == (math.inf, math.inf)
    assert sketch.kurtosis_pearson == math.inf
    assert sketch.std == pytest.approx(np.std([1e10, -1e10, 3e9]) * 1e90)


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-60, 2.0**60, 2.0**124])
def test_shape_does_not_depend_on_the_scale(scale: float) -> None:
    values = np.round(RNG.standard_gamma(2.0, 400) * 64) / 64
    plain, scaled = Moments.of(values), Moments.of((values * scale).astype(np.float32))
    assert scaled.skew == pytest.approx(plain.skew, rel=1e-9)
    assert scaled.kurtosis_pearson == pytest.approx(plain.kurtosis_pearson, rel=1e-9)
    assert scaled.rms / scale == pytest.approx(plain.rms, rel=1e-12)
