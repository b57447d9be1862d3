import numpy as np
import pytest

from ffn_probe.errors import SketchError
from ffn_probe.sketches import Channels

RNG = np.random.default_rng(11)


def test_statistics_agree_with_numpy() -> None:
    values = RNG.normal(5.0, 2.0, (400, 6)) * np.arange(1, 7)
    sketch = Channels.of(values)
    np.testing.assert_allclose(sketch.mean, values.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(sketch.std, values.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(sketch.rms, np.sqrt((values**2).mean(axis=0)), rtol=1e-12)
    np.testing.assert_array_equal(sketch.absmax, np.abs(values).max(axis=0))


def test_active_counts_finite_values_other_than_zero() -> None:
    values = np.array([[0.0, 1.0, np.nan], [-0.0, 1e-45, np.inf], [0.0, 0.0, -2.0]])
    sketch = Channels.of(values)
    assert sketch.active.tolist() == [0, 2, 1]
    assert sketch.count.tolist() == [3, 3, 1]
    assert sketch.absmax.tolist() == [0.0, 1.0, 2.0]


def test_he_kurtosis_of_one_dominant_channel_is_the_channel_count() -> None:
    values = RNG.standard_normal((50, 64)) * 1e-6
    values[:, 3] = 1e3
    assert Channels.of(values).he_kurtosis() == pytest.approx(64, rel=1e-6)


def test_he_kurtosis_of_a_gaussian_is_one() -> None:
    values = RNG.standard_normal((4000, 256))
    assert Channels.of(values).he_kurtosis() == pytest.approx(1.0, abs=0.01)


def test_he_kurtosis_is_its_formula() -> None:
    values = RNG.standard_normal((300, 16)) * RNG.lognormal(size=16)
    square = (values**2).mean(axis=0)
    expected = (square**2).mean() / square.mean() ** 2
    assert Channels.of(values).he_kurtosis() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "values", [np.zeros((0, 4)), np.zeros((5, 4)), np.full((2, 4), np.nan)]
)
def test_he_kurtosis_of_nothing_is_nan(values: np.ndarray) -> None:
    assert np.isnan(Channels.of(values).he_kurtosis())


def test_dead_finds_planted_channels_only() -> None:
    values = RNG.standard_normal((500, 40))
    values[:, [2, 17]] = 0.0
    values[:, 5] *= 1e-6
    assert np.flatnonzero(Channels.of(values).dead()).tolist() == [2, 5, 17]
    assert np.flatnonzero(Channels.of(values).dead(0.0)).tolist() == [2, 17]
    assert not Channels.of(RNG.standard_normal((500, 40))).dead().any()


def test_all_zero_channels_are_dead_and_unseen_ones_are_not() -> None:
    assert Channels.of(np.zeros((3, 5))).dead().all()
    assert not Channels.empty(5).dead().any()


def test_outliers_finds_planted_channels_only() -> None:
    values = RNG.standard_normal((500, 40))
    assert not Channels.of(values).outliers().any()
    values[:, 9] *= 20
    assert np.flatnonzero(Channels.of(values).outliers()).tolist() == [9]


def test_unlike_channel_counts_do_not_merge() -> None:
    with pytest.raises(SketchError, match="3 and 4 channels"):
        Channels.empty(3).merge(Channels.empty(4))


def test_concatenate_puts_shards_side_by_side() -> None:
    values = RNG.standard_normal((20, 7))
    shards = [Channels.of(values[:, :3]), Channels.of(values[:, 3:])]
    assert Channels.concatenate(shards).equals(Channels.of(values))


def test_squares_beyond_float64_have_no_he_kurtosis() -> None:
    assert np.isnan(Channels.of(np.array([[1e200, 1.0], [-1e200, 2.0]])).he_kurtosis())
    top = np.finfo(np.float32).max
    assert Channels.of(np.array([[top, 0], [-top, 0]], np.float32)).he_kurtosis() == 2.0


def test_merged_channels_of_unlike_sizes_and_means_are_numpys() -> None:
    parts = [RNG.normal(50.0 * i, 1 + i, (size, 3)) for i, size in enumerate((1, 700, 30))]
    merged = Channels.empty(3)
    for part in parts:
        merged = merged.merge(Channels.of(part))
    whole = np.concatenate(parts)
    np.testing.assert_allclose(merged.mean, whole.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(merged.m2, ((whole - whole.mean(axis=0)) ** 2).sum(axis=0))


def test_a_channel_without_values_has_no_say_whatever_its_mean() -> None:
    seen = Channels.of(np.array([[3.0], [5.0]]))
    row = Channels.empty(1).to_row() | {"mean": np.array([np.inf])}
    unseen = Channels.from_row(row)
    for merged in (seen.merge(unseen), unseen.merge(seen)):
        assert (merged.count[0], merged.mean[0], merged.m2[0]) == (2, 4.0, 2.0)
