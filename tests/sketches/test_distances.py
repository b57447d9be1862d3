import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from ffn_probe.sketches import BitHistogram
from ffn_probe.sketches.distances import (
    binned_shares,
    cumulative_shares,
    dense_cdf,
    dense_counts,
    js,
    ks,
    ks_rows,
    psi,
    tail_log_ratio,
    w1,
    w1_asinh,
    w1_rows,
)

RNG = np.random.default_rng(99)


def truncated(values: np.ndarray) -> np.ndarray:
    """Values that are bfloat16 numbers already."""
    codes = values.astype(np.float32).view(np.uint32) & 0xFFFF0000
    return codes.view(np.float32).astype(np.float64)


def pair(size: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    a = RNG.standard_normal(size).astype(np.float32)
    b = (1.3 * RNG.standard_normal(size // 3) + 0.2).astype(np.float32)
    return a, b


def test_ks_and_w1_of_bfloat16_values_are_scipys() -> None:
    a, b = map(truncated, pair())
    p, q = BitHistogram.of(a), BitHistogram.of(b)
    assert ks(p, q) == pytest.approx(
        scipy.stats.ks_2samp(a, b, method="asymp").statistic, rel=1e-12
    )
    assert w1(p, q) == pytest.approx(scipy.stats.wasserstein_distance(a, b), rel=1e-9)


def test_ks_and_w1_of_float32_values_are_near_scipys() -> None:
    a, b = pair(100_000)
    p, q = BitHistogram.of(a), BitHistogram.of(b)
    exact = scipy.stats.ks_2samp(a, b, method="asymp").statistic
    most = max(p.weights().max() / p.count, q.weights().max() / q.count)
    assert exact - most <= ks(p, q) <= exact
    bound = 2**-8 * (np.abs(a).mean() + np.abs(b).mean())
    assert abs(w1(p, q) - scipy.stats.wasserstein_distance(a, b)) <= bound


def test_w1_asinh_is_scipys_on_the_transformed_values() -> None:
    a, b = map(truncated, pair())
    p, q = BitHistogram.of(a), BitHistogram.of(b)
    s = p.robust_sigma()
    expected = scipy.stats.wasserstein_distance(np.arcsinh(a / s), np.arcsinh(b / s))
    assert w1_asinh(p, q) == pytest.approx(expected, rel=1e-9)
    expected = scipy.stats.wasserstein_distance(np.arcsinh(a / 7), np.arcsinh(b / 7))
    assert w1_asinh(p, q, scale=7.0) == pytest.approx(expected, rel=1e-9)


def test_massive_values_in_both_do_not_hide_a_change_of_the_bulk() -> None:
    a, b = RNG.standard_normal((2, 50_000))
    clean = w1_asinh(BitHistogram.of(a), BitHistogram.of(1.3 * b))
    a[:5], b[:5] = 3000.0, 3000.0 / 1.3
    massive = w1_asinh(BitHistogram.of(a), BitHistogram.of(1.3 * b))
    assert massive == pytest.approx(clean, rel=0.05)
    assert massive > 10 * w1_asinh(BitHistogram.of(a), BitHistogram.of(b))


floats = st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=40)


@given(x=floats, y=floats)
@settings(deadline=None, max_examples=60)
def test_small_samples_agree_with_the_definition_and_scipy(
    x: list[float], y: list[float]
) -> None:
    a, b = truncated(np.array(x)), truncated(np.array(y))
    p, q = BitHistogram.of(a), BitHistogram.of(b)
    at = np.concatenate([a, b])[:, None]
    gap = np.abs((a <= at).mean(axis=1) - (b <= at).mean(axis=1)).max()
    assert ks(p, q) == pytest.approx(gap, abs=1e-12)
    assert w1(p, q) == pytest.approx(scipy.stats.wasserstein_distance(a, b), abs=1e-8)


@pytest.mark.parametrize("distance", [ks, w1, w1_asinh, psi, js])
def test_a_histogram_is_at_no_distance_from_itself(distance: object) -> None:
    p = BitHistogram.of(pair()[0])
    assert distance(p, p) == pytest.approx(0.0, abs=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("distance", [ks, w1, w1_asinh, psi, js])
@pytest.mark.parametrize("empty_first", [True, False])
def test_no_values_are_at_no_known_distance(distance: object, *, empty_first: bool) -> None:
    full, empty = BitHistogram.of(pair()[0]), BitHistogram.of(np.array([np.nan, np.inf]))
    a, b = (empty, full) if empty_first else (full, empty)
    assert np.isnan(distance(a, b))  # type: ignore[operator]
    assert np.isnan(distance(empty, empty))  # type: ignore[operator]


def test_unlike_resolutions_compare_at_the_coarser() -> None:
    a, b = pair()
    fine = ks(BitHistogram.of(a, 3), BitHistogram.of(b, 3))
    assert ks(BitHistogram.of(a, 7), BitHistogram.of(b, 3)) == fine


def test_w1_asinh_of_constants() -> None:
    zero, one = BitHistogram.of(np.zeros(4)), BitHistogram.of(np.ones(4))
    assert w1_asinh(zero, zero) == 0
    assert w1_asinh(zero, one) == pytest.approx(np.arcsinh(1.0))


def test_float_max_does_not_overflow() -> None:
    top = float(np.finfo(np.float32).max)
    a, b = BitHistogram.of(np.array([-top, 0.0])), BitHistogram.of(np.array([0.0, top]))
    assert w1(a, b) == pytest.approx(top, rel=2**-8)
    assert ks(a, b) == 0.5


# ---- binned -----------------------------------------------------------------------------


def test_bins_are_the_reference_quantiles() -> None:
    a = BitHistogram.of(RNG.standard_normal(100_000).astype(np.float32))
    p, _ = binned_shares(a, a, bins=20)
    bulk = np.sort(p[p > 0])[-20:]
    np.testing.assert_allclose(bulk, 0.05, atol=0.01)
    assert p.sum() == pytest.approx(1.0)


def test_zeros_are_a_bin_of_their_own() -> None:
    bulk = RNG.standard_normal(10_000)
    b = np.concatenate([bulk, np.zeros(5_000)])
    p, q = binned_shares(BitHistogram.of(bulk), BitHistogram.of(b))
    assert p[np.argmax(q)] == 0
    assert q.max() == pytest.approx(1 / 3)


def test_any_heavy_point_is_a_bin_of_its_own() -> None:
    a = np.concatenate([RNG.standard_normal(6_000), np.full(4_000, 7.0), [6.9, 7.1]])
    p, _ = binned_shares(BitHistogram.of(a), BitHistogram.of(a))
    assert p.max() == pytest.approx(4_000 / a.size)


def test_psi_and_js_agree_with_numpy_and_scipy_on_the_same_bins() -> None:
    a, b = map(truncated, pair(20_000))
    cuts = np.quantile(a, np.arange(1, 20) / 20, method="inverted_cdf")
    cuts = np.union1d(cuts, [0.0, -np.finfo(np.float32).smallest_subnormal])
    p, q = (np.bincount(np.searchsorted(cuts, x), minlength=22) / x.size for x in (a, b))
    left, right = BitHistogram.of(a), BitHistogram.of(b)
    assert js(left, right) == pytest.approx(jensenshannon(p, q, base=2) ** 2, rel=1e-9)
    p, q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
    assert psi(left, right) == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=1e-9)


def test_psi_and_js_with_atoms_are_those_of_bins_cut_by_hand() -> None:
    """29 % zeros and 24 % sevens are bins of their own; quintiles of the rest are cut."""
    rest = truncated(RNG.standard_normal(5_000))
    a = np.concatenate([np.zeros(3_000), np.full(2_500, 7.0), rest])
    b = np.concatenate([np.zeros(1_000), np.full(500, 7.0), 2 * rest, [9.0, -0.0]])
    cuts = np.quantile(rest, [0.2, 0.4, 0.6, 0.8], method="inverted_cdf")

    def shares(x: np.ndarray) -> np.ndarray:
        bulk, size = x[(x != 0) & (x != 7)], x.size
        edges = np.unique(np.r_[-np.inf, np.nextafter(cuts, np.inf), 0.0, 7.0, np.inf])
        counts = np.histogram(bulk, edges)[0]
        return np.r_[counts, (x == 0).sum(), (x == 7).sum()] / size

    p, q = shares(a), shares(b)
    left, right = BitHistogram.of(a), BitHistogram.of(b)
    assert js(left, right, 5) == pytest.approx(jensenshannon(p, q, base=2) ** 2, rel=1e-9)
    p, q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
    assert psi(left, right, 5) == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=1e-9)


@pytest.mark.parametrize("q", [0.5, 0.99, 0.999, 0.9999])
def test_tail_log_ratios_are_numpys(q: float) -> None:
    a, b = map(truncated, (RNG.standard_normal(40_000), RNG.standard_t(3, 30_000)))
    sizes = [np.quantile(np.abs(x), q, method="inverted_cdf") for x in (a, b)]
    expected = np.log2(sizes[1] / sizes[0])
    assert tail_log_ratio(BitHistogram.of(a), BitHistogram.of(b), q) == pytest.approx(expected)


def test_disjoint_histograms_are_one_bit_apart() -> None:
    a, b = BitHistogram.of(-1 - RNG.random(500)), BitHistogram.of(1 + RNG.random(500))
    assert js(a, b) == pytest.approx(1.0)
    assert np.isfinite(psi(a, b))


def test_psi_sees_zeros_that_were_not_there() -> None:
    a, b = RNG.standard_normal((2, 50_000))
    quiet = psi(BitHistogram.of(a), BitHistogram.of(b))
    b[:5_000] = 0.0
    assert psi(BitHistogram.of(a), BitHistogram.of(b)) > 0.05 > 10 * quiet


def test_tail_log_ratio_is_in_octaves() -> None:
    a = RNG.standard_t(3, 50_000)
    p, q = BitHistogram.of(a), BitHistogram.of(-4 * a)
    assert tail_log_ratio(p, q, 0.999) == pytest.approx(2.0)
    assert tail_log_ratio(p, p, 0.999) == 0
    zero = BitHistogram.of(np.zeros(3))
    assert (tail_log_ratio(zero, p, 0.9), tail_log_ratio(p, zero, 0.9)) == (np.inf, -np.inf)
    assert np.isnan(tail_log_ratio(BitHistogram.empty(), p, 0.9))


# ---- many at once -----------------------------------------------------------------------


def test_rows_agree_with_pairs() -> None:
    folds = [BitHistogram.of(RNG.normal(i / 9, 1, 300 + i), 3) for i in range(6)]
    points, cdf = dense_cdf(folds)
    many, apart = ks_rows(cdf, cdf[0]), w1_rows(points, cdf, cdf[0])
    for i, fold in enumerate(folds):
        assert many[i] == pytest.approx(ks(folds[0], fold), abs=1e-15)
        assert apart[i] == pytest.approx(w1(folds[0], fold), rel=1e-12)


def test_summed_rows_are_merged_histograms() -> None:
    folds = [BitHistogram.of(RNG.standard_normal(50), 3) for _ in range(4)]
    points, counts = dense_counts(folds)
    half = cumulative_shares(counts[:2].sum(axis=0))
    other = cumulative_shares(counts[2:].sum(axis=0))
    expected = w1(folds[0].merge(folds[1]), folds[2].merge(folds[3]))
    assert float(w1_rows(points, half, other)) == pytest.approx(expected, rel=1e-12)


def test_stacks_of_splits_are_compared_at_once() -> None:
    folds = [BitHistogram.of(RNG.standard_normal(80), 3) for _ in range(4)]
    points, counts = dense_counts(folds)
    splits = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]])
    left, right = cumulative_shares(splits @ counts), cumulative_shares((1 - splits) @ counts)
    distances = w1_rows(points, left, right)
    expected = w1(folds[0].merge(folds[2]), folds[1].merge(folds[3]))
    assert distances[1] == pytest.approx(expected, rel=1e-12)
    assert distances.shape == (3,)


def test_a_row_without_values_is_nan() -> None:
    _, cdf = dense_cdf([BitHistogram.of(np.ones(3)), BitHistogram.empty()])
    assert not np.isnan(cdf[0]).any()
    assert np.isnan(cdf[1]).all()


def test_no_histograms_have_no_support() -> None:
    points, counts = dense_counts([])
    assert points.size == 0
    assert counts.shape == (0, 0)
