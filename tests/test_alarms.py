"""Each alarm: a planted fault is found where it is, a healthy training is left in peace."""

import math

import numpy as np
import pytest

from ffn_probe.alarms import (
    KINDS,
    LIMITS,
    SPIKE_LEAST,
    exponential,
    growth,
    metric_alarms,
    nonfinite,
    spike_scores,
)

STEPS = np.arange(2000, dtype=np.int64)
WINDOWS = np.arange(99, 6000, 100, dtype=np.int64)  # the last steps of sixty windows


def falling_loss(seed: int = 1) -> np.ndarray:
    """Return a loss that falls from 5.5 to 2.5 with the noise of batches."""
    noise = np.random.default_rng(seed).normal(0, 0.15, STEPS.size)
    return 2.5 + 3 * np.exp(-STEPS / 200) + noise


def plateau() -> np.ndarray:
    """Return magnitudes that grow fast at first and settle, as a training's do."""
    noise = np.random.default_rng(2).normal(0, 0.05, WINDOWS.size)
    return 10 * (1 - np.exp(-np.arange(1, 61) / 8)) * np.exp(noise)


# Non-finite


def test_the_first_window_with_a_value_that_is_not_finite_is_found() -> None:
    counts = np.zeros(60)
    counts[[17, 18, 40]] = [3.0, 9.0, 1e6]
    [alarm] = nonfinite("a/hidden", WINDOWS, counts)
    assert (alarm.kind, alarm.where, alarm.step, alarm.value) == (
        "non-finite", "a/hidden", 1799, 3.0,
    )  # fmt: skip
    assert "3 NaN or Inf" in alarm.text


def test_finite_values_raise_nothing() -> None:
    assert nonfinite("a/hidden", WINDOWS, np.zeros(60)) == ()
    assert nonfinite("a/hidden", WINDOWS, np.full(60, np.nan)) == ()
    assert nonfinite("a/hidden", WINDOWS[:0], np.zeros(0)) == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_metric_that_is_no_number_is_found_where_it_begins(value: float) -> None:
    loss = falling_loss()
    loss[700:704] = value
    [alarm] = metric_alarms("loss", STEPS, loss)
    assert (alarm.kind, alarm.step) == ("non-finite", 700)
    assert "4 of 2000 steps" in alarm.text


# Spikes


def test_a_falling_loss_has_no_spike() -> None:
    for seed in range(20):
        assert metric_alarms("loss", STEPS, falling_loss(seed)) == ()


def test_a_spike_is_one_alarm_with_its_largest_score() -> None:
    loss = falling_loss()
    loss[1500:1504] = [4.4, 6.0, 5.0, 4.2]
    [alarm] = metric_alarms("loss", STEPS, loss)
    before = loss[501:1501]
    assert (alarm.kind, alarm.step) == ("spike", 1500)
    assert alarm.value == pytest.approx((6.0 - before.mean()) / before.std(), rel=1e-9)
    assert "loss 6 at step 1501 (4 steps)" in alarm.text


@pytest.mark.parametrize(("score", "found"), [(6.9, 0), (7.1, 1)])
def test_a_spike_begins_at_seven_standard_deviations(score: float, found: int) -> None:
    loss = falling_loss()
    before = loss[500:1500]
    loss[1500] = before.mean() + score * before.std()
    assert len(metric_alarms("loss", STEPS, loss)) == found


def test_two_spikes_far_apart_are_two_alarms() -> None:
    loss = falling_loss()
    loss[[1400, 1900]] = 6.0
    assert [a.step for a in metric_alarms("loss", STEPS, loss)] == [1400, 1900]


def test_a_fall_is_no_spike() -> None:
    loss = falling_loss()
    loss[1500] = -5.0
    assert metric_alarms("loss", STEPS, loss) == ()


def test_scores_are_those_of_the_thousand_steps_before() -> None:
    loss = falling_loss(3)
    loss[100] = np.nan
    scores = spike_scores(STEPS, loss)
    for i in (SPIKE_LEAST, 500, 1500, 1999):
        before = loss[max(0, i - 1000) : i]
        before = before[np.isfinite(before)]
        assert scores[i] == pytest.approx((loss[i] - before.mean()) / before.std(), rel=1e-6)
    assert np.isnan(scores[: SPIKE_LEAST - 1]).all()
    assert np.isnan(scores[100])


def test_steps_that_are_not_logged_count_as_steps() -> None:
    sparse, loss = STEPS * 100, falling_loss()
    loss[1500] = 9.0
    score = spike_scores(sparse, loss)[1500]
    assert math.isnan(score)  # ten values lie in the last thousand steps, too few
    tens = spike_scores(STEPS * 10, loss)[1500]
    before = loss[1400:1500]
    assert tens == pytest.approx((9.0 - before.mean()) / before.std(), rel=1e-9)


@pytest.mark.parametrize("values", [np.zeros(50), np.full(50, 3.7), np.zeros(0), np.ones(1)])
def test_a_constant_has_no_spike(values: np.ndarray) -> None:
    steps = np.arange(values.size, dtype=np.int64)
    assert metric_alarms("loss", steps, values) == ()


# Growth


def test_an_exponential_is_recovered_from_its_history() -> None:
    values = 3.0 * 2 ** (WINDOWS / 700)
    fit = exponential(WINDOWS, values)
    assert fit is not None
    assert fit.doubling == pytest.approx(700, rel=1e-9)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.last == pytest.approx(values[-1], rel=1e-9)
    assert fit.reaches(1e6, int(WINDOWS[-1])) == pytest.approx(700 * np.log2(1e6 / 3), rel=1e-9)


def test_growth_towards_float16_is_told_before_it_gets_there() -> None:
    true = 500 * np.log2(65504 / 8)
    noise = np.random.default_rng(4).normal(0, 0.1, WINDOWS.size)
    values = 8 * 2 ** (WINDOWS / 500) * np.exp(noise)
    [alarm] = growth("a/hidden", WINDOWS, values)
    assert (alarm.kind, alarm.step) == ("growth", 5999)
    assert alarm.value == pytest.approx(true, abs=250)
    assert alarm.value > alarm.step
    assert "doubles every" in alarm.text
    assert "fp16 (65504)" in alarm.text


def test_a_limit_that_was_passed_is_told_with_its_first_window() -> None:
    values = plateau()
    values[30:] = 500.0
    [alarm] = growth("a/hidden", WINDOWS, values, limits=("e4m3", "fp16"))
    assert (alarm.kind, alarm.step, alarm.value) == ("limit", 3099, 500.0)
    assert "e4m3" in alarm.text


def test_what_settles_raises_nothing() -> None:
    assert growth("a/hidden", WINDOWS, plateau(), limits=tuple(LIMITS)) == ()


def test_noise_without_a_trend_raises_nothing() -> None:
    for seed in range(50):
        values = np.exp(np.random.default_rng(seed).normal(0, 1.0, 60))
        assert growth("a/hidden", WINDOWS, values, limits=("fp16",)) == ()


def test_growth_that_is_mostly_noise_raises_nothing() -> None:
    """The fit alone would forecast float16's limit within the time; its r2 is about 0.6."""
    noises = [np.random.default_rng(seed).normal(0, 0.7, 60) for seed in range(20)]
    made = [100 * 2 ** (WINDOWS / 1000 + np.clip(noise, -2, 2)) for noise in noises]
    fits = [exponential(WINDOWS[30:], values[30:]) for values in made]
    loose = [v for v, fit in zip(made, fits, strict=True) if fit is not None and fit.r2 < 0.75]
    assert len(loose) > 10
    assert {growth("a/hidden", WINDOWS, values) for values in loose} == {()}
    calm = 100 * 2 ** (WINDOWS / 1000)
    assert [a.kind for a in growth("a/hidden", WINDOWS, calm)] == ["growth"]


def test_growth_that_is_far_from_the_limit_raises_nothing() -> None:
    values = 0.01 * 2 ** (WINDOWS / 1500)
    assert growth("a/hidden", WINDOWS, values, limits=tuple(LIMITS)) == ()


def test_a_shrinking_magnitude_raises_nothing() -> None:
    assert growth("a/hidden", WINDOWS, 400 * 2 ** (-WINDOWS / 500), limits=("e4m3",)) == ()


def test_what_comes_after_the_first_window_without_values_is_left_out() -> None:
    values = 8 * 2 ** (WINDOWS / 500)
    values[50:] = np.nan
    [alarm] = growth("a/hidden", WINDOWS, values)
    assert (alarm.kind, alarm.step) == ("growth", int(WINDOWS[49]))


@pytest.mark.parametrize("count", [0, 1, 7, 14])
def test_few_windows_are_no_history(count: int) -> None:
    values = 8 * 2 ** (WINDOWS[:count] / 200)
    assert growth("a/hidden", WINDOWS[:count], values) == ()


def test_zeros_and_no_values_at_all_raise_nothing() -> None:
    for values in (np.zeros(60), np.full(60, np.nan)):
        assert growth("a/hidden", WINDOWS, values, limits=tuple(LIMITS)) == ()


def test_every_kind_has_its_rule() -> None:
    assert list(KINDS) == ["non-finite", "spike", "limit", "growth"]
    assert LIMITS == {"e4m3": 448.0, "fp16": 65504.0}
