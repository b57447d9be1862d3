"""The floors: balanced splits, their calibration, and swaps that cancel a common change."""

import numpy as np
import pytest

from ffn_probe.compare.change import judged, times
from ffn_probe.compare.floor import SPLITS, Noise, noise_of, splits, widening


@pytest.mark.parametrize("folds", [8, 9, 16])
def test_splits_are_balanced_disjoint_and_always_the_same(folds: int) -> None:
    one, other = splits(folds)
    assert one.shape == other.shape == (SPLITS, folds)
    assert np.all(one.sum(axis=1) == folds // 2)
    assert np.all(other.sum(axis=1) == folds // 2)
    assert not np.any(one * other)
    splits.cache_clear()
    assert np.array_equal(splits(folds)[0], one)


def test_every_fold_is_drawn_about_equally_often() -> None:
    one, other = splits(16)
    share = (one - other).mean(axis=0)
    assert np.abs(share).max() < 4 / np.sqrt(SPLITS)


def test_more_sites_and_fewer_folds_widen_the_floor() -> None:
    assert widening(16, 1) < widening(16, 10) < widening(16, 600)
    assert widening(16, 10) < widening(8, 10)
    # Student's t, 15 degrees of freedom, two-sided 5 % / 6 aspects: 3.036; over normal 1.96.
    assert widening(16, 1) == pytest.approx(3.0363 / 1.959964, rel=1e-3)


def test_halves_are_scaled_to_wholes_but_swaps_and_largest_values_are_not() -> None:
    given = {"folds": 16, "sites": 5}
    half = noise_of(1.0, paired=False, extreme=False, **given)
    swap = noise_of(1.0, paired=True, extreme=False, **given)
    largest = noise_of(1.0, paired=False, extreme=True, **given)
    assert half.floor * np.sqrt(2) == pytest.approx(swap.floor)
    assert largest.floor == swap.floor == pytest.approx(widening(16, 5))
    assert noise_of(np.nan, paired=False, extreme=False, **given) is None
    assert noise_of(np.inf, paired=False, extreme=False, **given) is None


def test_the_detectable_effect_is_never_below_threshold_or_floor() -> None:
    assert Noise(0.1, 0.2).mde(1.0) == 1.0
    # Above the floor by 0.84 standard errors, the quantile being 1.96 of them.
    assert Noise(0.1, 0.2).mde(0.05) == pytest.approx(0.2 + 0.1 * 0.841621 / 1.959964)


@pytest.mark.parametrize(
    ("size", "floor", "repeat", "status"),
    [
        (0.9, 0.0, None, "PASS"),
        (1.0, 0.0, None, "PASS"),
        (1.1, 0.5, None, "WARN"),
        (1.1, 1.2, None, "PASS"),
        (2.1, 0.5, None, "FAIL"),
        (2.1, 2.2, None, "PASS"),
        (2.1, 0.5, 3.0, "PASS"),
        (9.0, None, None, "WARN"),
        (np.nan, 0.5, None, "PASS"),
        (np.inf, 0.5, None, "FAIL"),
    ],
)
def test_a_change_must_be_over_threshold_and_floors(size, floor, repeat, status) -> None:
    assert judged(size, 1.0, floor=floor, repeat_floor=repeat) == status


def test_times_the_floor_is_absent_without_a_floor_or_a_change() -> None:
    assert times(-3.0, 1.5) == 2.0
    assert times(1.0, None) is None
    assert times(0.0, 0.0) is None
    assert times(1.0, 0.0) == np.inf
    assert times(np.nan, 1.0) is None
