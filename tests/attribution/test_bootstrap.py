"""Intervals hold the truth as often as they say, where whole folds or blocks are resampled."""

import numpy as np
import pytest
from scipy.signal import lfilter

from ffn_probe.attribution.attribution import Interval
from ffn_probe.attribution.bootstrap import BootstrapError, block_bootstrap, mean, ratio

SERIES = 800


def autoregressive(phi: float, n: int = 512) -> np.ndarray:
    """Return `SERIES` series x[i] = phi x[i-1] + noise, of mean zero."""
    noise = np.random.default_rng(7).standard_normal((SERIES, n + 300))
    return lfilter([1.0], [1.0, -phi], noise, axis=1)[:, 300:]


def coverage(phi: float, block: int) -> float:
    found = [block_bootstrap(x, block, resamples=500) for x in autoregressive(phi)]
    return sum(i.low < 0 < i.high for i in found) / SERIES


def test_single_values_of_a_series_pretend_to_know_too_much() -> None:
    assert coverage(0.9, block=1) == pytest.approx(0.36, abs=0.05)


def test_blocks_of_a_series_nearly_keep_their_word() -> None:
    assert coverage(0.9, block=32) == pytest.approx(0.86, abs=0.04)


def test_single_values_are_enough_where_nothing_depends() -> None:
    assert coverage(0.0, block=1) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("folds", "least"), [(4, 0.85), (6, 0.9), (16, 0.925)])
def test_the_interval_of_a_ratio_holds_it(folds: int, least: float) -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(1000):
        weight = rng.gamma(4, size=folds)
        found = ratio(weight * (0.3 + 0.2 * rng.standard_normal(folds)), weight)
        held.append(found.low < 0.3 < found.high)
    assert least < np.mean(held) < 0.975


def test_a_ratio_is_that_of_the_sums_not_a_mean_of_ratios() -> None:
    assert ratio(np.array([1.0, 0.0]), np.array([1.0, 3.0])).value == 0.25


def test_folds_that_agree_leave_nothing_open() -> None:
    found = ratio(np.array([0.5, 1.0, 1.5, 2.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found == Interval(0.5, 0.5, 0.5)


def test_three_folds_are_too_few_for_an_interval() -> None:
    found = ratio(np.ones(3), np.arange(1.0, 4.0))
    assert found.value == 0.5
    assert np.isnan([found.low, found.high]).all()
    assert not found.excludes_zero


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_fold_that_is_not_finite_is_not_passed_over(wrong: float) -> None:
    values, weights = np.arange(1.0, 7.0), np.ones(6)
    broken = values.copy()
    broken[2] = wrong
    for found in (ratio(broken, weights), ratio(values, broken)):
        assert np.isnan([found.value, found.low, found.high]).all()


def test_nothing_over_nothing_is_not_a_number() -> None:
    for found in (ratio(np.zeros(5), np.zeros(5)), ratio(np.zeros(0), np.zeros(0))):
        assert np.isnan([found.value, found.low, found.high]).all()


def test_the_same_folds_give_the_same_interval() -> None:
    values = np.random.default_rng(0).standard_normal(16)
    assert mean(values) == mean(values.copy())
    assert mean(values).value == pytest.approx(values.mean(), rel=1e-12)
    assert block_bootstrap(values, 2) == block_bootstrap(values, 2)


def test_a_series_shorter_than_four_blocks_has_no_interval() -> None:
    assert np.isnan(block_bootstrap(np.arange(127.0), 32).low)
    assert np.isfinite(block_bootstrap(np.arange(128.0), 32).low)


def test_what_cannot_be_resampled_is_told() -> None:
    with pytest.raises(BootstrapError, match=r"a block of 5 is not within 1\.\.4 values"):
        block_bootstrap(np.zeros(4), 5)
    with pytest.raises(BootstrapError, match="2 values with 1 not finite"):
        block_bootstrap(np.array([1.0, np.nan]), 1)
    with pytest.raises(BootstrapError, match="0 values"):
        block_bootstrap(np.zeros(0), 1)
