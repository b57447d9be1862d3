import numpy as np
import pytest

from ffn_probe.sketches import Extremes

RNG = np.random.default_rng(5)


def test_the_top_is_the_largest_absolute_values_in_order() -> None:
    values = RNG.standard_normal((200, 30))
    sketch = Extremes.of(values, 10)
    order = np.argsort(-np.abs(values).ravel())[:10]
    np.testing.assert_array_equal(sketch.top["value"], values.ravel()[order])
    np.testing.assert_array_equal(sketch.top["channel"], order % 30)
    assert (sketch.min, sketch.max) == (values.min(), values.max())


def test_a_planted_spike_keeps_its_address() -> None:
    values = RNG.standard_normal((6, 4))
    values[2, 3] = -900.0
    rows = np.arange(6)
    sketch = Extremes.of(
        values, 3, step=41, sequence=rows // 3, position=rows % 3, token=100 + rows
    )
    assert sketch.top[0].tolist() == (-900.0, 41, 0, 2, 102, 3)


def test_unknown_addresses_are_minus_one() -> None:
    assert Extremes.of(np.ones((1, 1))).top[0].tolist() == (1.0, -1, -1, -1, -1, 0)


def test_ties_are_ordered_by_address() -> None:
    values = np.full((4, 2), 7.0)
    sketch = Extremes.of(values, 3, position=np.array([3, 1, 2, 0]))
    assert [(r["position"], r["channel"]) for r in sketch.top] == [(0, 0), (0, 1), (1, 0)]


def test_zeros_and_nonfinite_values_are_not_extremes() -> None:
    values = np.array([[0.0, np.nan], [np.inf, 2.0], [-np.inf, 0.0]])
    sketch = Extremes.of(values, 4)
    assert sketch.top["value"].tolist() == [2.0]
    assert (sketch.count, sketch.nan, sketch.pos_inf, sketch.neg_inf) == (6, 1, 1, 1)
    assert (sketch.min, sketch.max, sketch.absmax) == (0.0, 2.0, 2.0)


def test_spike_ratio_is_max_over_median_token() -> None:
    values = RNG.standard_normal((999, 16))
    values[5, 5] = 4000.0
    sizes = np.abs(values).max(axis=1)
    exact = sizes.max() / np.median(sizes)
    assert Extremes.of(values).spike_ratio == pytest.approx(exact, rel=2**-4)


def test_token_sizes_agree_with_numpy() -> None:
    values = RNG.normal(1.0, 3.0, (2001, 64))
    sketch = Extremes.of(values)
    rms = np.sqrt((values**2).mean(axis=1))
    ratio = np.abs(values.mean(axis=1)) / values.std(axis=1)
    assert float(sketch.token_rms.quantile(0.5)) == pytest.approx(np.median(rms), rel=2**-4)
    assert float(sketch.token_ratio.quantile(0.5)) == pytest.approx(np.median(ratio), rel=2**-4)


def test_a_token_without_finite_values_is_nan_and_one_without_spread_infinite() -> None:
    sketch = Extremes.of(np.array([[np.nan, np.inf], [0.1, 0.1], [0.0, 0.0]]))
    assert sketch.token_absmax.nan == 1
    assert sketch.token_rms.zeros == 1
    assert (sketch.token_ratio.pos_inf, sketch.token_ratio.nan) == (1, 2)


def test_nothing_seen_has_no_absmax() -> None:
    assert np.isnan(Extremes.empty().absmax)
    assert np.isnan(Extremes.empty().spike_ratio)


def test_mostly_zero_tokens_have_an_infinite_spike_ratio() -> None:
    values = np.zeros((9, 2))
    values[0, 0] = 1.0
    assert Extremes.of(values).spike_ratio == np.inf
    assert np.isnan(Extremes.of(np.zeros((9, 2))).spike_ratio)


def test_unlike_k_merge_at_the_smaller() -> None:
    values = RNG.standard_normal((20, 3))
    merged = Extremes.of(values[:10], 8).merge(Extremes.of(values[10:], 5))
    assert merged.equals(Extremes.of(values, 5))
