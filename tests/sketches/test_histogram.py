import math
import struct
from collections import Counter

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn_probe.errors import SketchError
from ffn_probe.formats import FORMATS
from ffn_probe.sketches import BitHistogram
from ffn_probe.sketches.bit_codes import bit_codes

RNG = np.random.default_rng(23)
FLOAT_MAX = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).smallest_subnormal)
BITS = range(1, 8)

floats32 = st.floats(width=32, allow_subnormal=True)
values32 = npst.arrays(np.float32, st.integers(0, 60), elements=floats32)
odd_nans = st.sampled_from([0x7F800001, 0x7F80FFFF, 0xFF800001, 0x7FFFFFFF, 0xFFC00000])
patterns = st.one_of(st.integers(0, 2**32 - 1), odd_nans)
every_pattern = npst.arrays(np.uint32, st.integers(0, 60), elements=patterns).map(
    lambda x: x.view(np.float32)
)
relaxed = settings(deadline=None, max_examples=60)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to bfloat16, as float32."""
    rounded = torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16)
    return rounded.float().numpy()


def of_rank(values: np.ndarray, q: float) -> float:
    """The value of rank ceil(q n), from the sorted values."""
    kept = np.sort(values[np.isfinite(values)].astype(np.float64))
    return float(kept[max(int(np.ceil(q * kept.size)), 1) - 1])


# ---- codes ------------------------------------------------------------------------------


@given(x=values32)
@relaxed
def test_the_code_is_the_bfloat16_pattern_truncated(x: np.ndarray) -> None:
    normal = x[(np.abs(x) >= 2.0**-126) | (x == 0)]
    pattern = torch.from_numpy(normal).view(torch.int32).numpy().view(np.uint32)
    np.testing.assert_array_equal(bit_codes(normal), pattern >> 16)


@pytest.mark.parametrize("bits", BITS)
@given(x=every_pattern)
@relaxed
def test_kinds_of_values_are_counted_apart(bits: int, x: np.ndarray) -> None:
    sketch = BitHistogram.of(x, bits)
    assert sketch.count == np.isfinite(x).sum()
    assert sketch.nan == np.isnan(x).sum()
    assert sketch.pos_inf == (x == np.inf).sum()
    assert sketch.neg_inf == (x == -np.inf).sum()
    assert sketch.zeros == (x == 0).sum()


@pytest.mark.parametrize("bits", BITS)
def test_subnormals_are_not_zeros(bits: int) -> None:
    x = np.array([TINY, -TINY, 1e-40, 2.0**-133, 0.0, -0.0], dtype=np.float32)
    assert BitHistogram.of(x, bits).zeros == 2


def test_float64_beyond_float32_stays_finite_and_other_than_zero() -> None:
    sketch = BitHistogram.of(np.array([1e300, -1e300, 1e-300, -1e-300, np.inf]))
    assert (sketch.count, sketch.pos_inf, sketch.neg_inf, sketch.zeros) == (4, 1, 0, 0)
    assert float(sketch.quantile(1.0)) == pytest.approx(FLOAT_MAX, rel=2**-8)


def test_float64_is_truncated_not_rounded_into_the_next_bin() -> None:
    below = np.nextafter(1.0, 0.0)
    assert bit_codes(np.array([below])) == bit_codes(np.array([1.0])) - 1


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_other_types_count_as_their_values(dtype: type) -> None:
    x = np.array([-3, 0, 1, 2, 100], dtype=dtype)
    assert BitHistogram.of(x).equals(BitHistogram.of(x.astype(np.float32)))


@given(x=every_pattern)
@relaxed
def test_counts_are_those_of_a_count_by_hand(x: np.ndarray) -> None:
    expected: Counter[int] = Counter()
    for value in x.tolist():
        if math.isnan(value):
            expected[0x7FC0] += 1
            continue
        pattern = struct.unpack("<I", struct.pack("<f", value))[0]
        code = pattern >> 16
        expected[code | 1 if code & 0x7FFF == 0 and value != 0 else code] += 1
    sketch = BitHistogram.of(x)
    found = dict(zip(sketch.codes.tolist(), sketch.counts.tolist(), strict=True))
    assert found == dict(expected)


# ---- resolution -------------------------------------------------------------------------


@given(x=every_pattern, bits=st.integers(1, 7), fewer=st.integers(1, 7))
@relaxed
def test_coarsen_equals_sketching_with_fewer_bits(x: np.ndarray, bits: int, fewer: int) -> None:
    low, high = sorted((bits, fewer))
    assert BitHistogram.of(x, high).coarsen(low).equals(BitHistogram.of(x, low))


@pytest.mark.parametrize(
    ("value", "exact"),
    [(1.5, (True, True)), (1 + 2.0**-7, (True, False)), (1 + 2.0**-20, (False, False))],
)
def test_coarsening_knows_which_values_are_still_exact(
    value: float, exact: tuple[bool, bool]
) -> None:
    sketch = BitHistogram.of(np.array([value, -2.0]))
    assert (sketch.exact, sketch.coarsen(3).exact) == exact


@given(x=every_pattern, y=every_pattern, bits=st.integers(1, 7), other=st.integers(1, 7))
@relaxed
def test_unlike_resolutions_merge_at_the_coarser(
    x: np.ndarray, y: np.ndarray, bits: int, other: int
) -> None:
    merged = BitHistogram.of(x, bits).merge(BitHistogram.of(y, other))
    assert merged.equals(BitHistogram.of(np.concatenate([x, y]), min(bits, other)))


@pytest.mark.parametrize("bits", [0, 5, 8])
def test_coarsen_refuses_bits_it_does_not_have(bits: int) -> None:
    with pytest.raises(SketchError, match="mantissa bits"):
        BitHistogram.empty(4).coarsen(bits)


@given(x=every_pattern)
@relaxed
def test_dense_counts_of_raw_patterns_give_the_same_histogram(x: np.ndarray) -> None:
    kept = x[(x == 0) | (np.abs(x) >= 2.0**-126) | ~np.isfinite(x)]
    raw = kept.view(np.uint32) >> 16
    noisy_nan = np.isnan(kept) & ((raw & 0x7FFF) == 0x7F80)  # its top 16 bits are infinity's
    kept, raw = kept[~noisy_nan], raw[~noisy_nan]
    direct = BitHistogram.of(kept)
    dense = np.bincount(raw, minlength=2**16)
    assert BitHistogram.of_codes(dense, exact=direct.exact).equals(direct)


def test_dense_counts_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(SketchError, match="need 65536 counts"):
        BitHistogram.of_codes(np.zeros(100, np.int64), exact=True)


def test_counts_beyond_2_to_53_stay_exact() -> None:
    big = 2**60 + 1
    sketch = BitHistogram(7, np.array([0x3F80], np.int32), np.array([big]), exact=True)
    merged = sketch.merge(BitHistogram.of(np.array([1.0, 2.0]))).coarsen(3)
    assert merged.count == big + 2
    assert float(merged.quantile(0.5)) == 1.0


# ---- exactness --------------------------------------------------------------------------


@given(x=values32)
@relaxed
def test_bfloat16_values_are_exact_and_kept(x: np.ndarray) -> None:
    rounded = bfloat16(x)
    sketch = BitHistogram.of(rounded)
    kept = rounded[np.isfinite(rounded)]
    assert sketch.exact
    np.testing.assert_array_equal(sketch.midpoints(), np.unique(kept))


def test_float32_values_between_bfloat16s_are_not_exact() -> None:
    assert not BitHistogram.of(np.array([1.0, 1.001], np.float32)).exact
    assert not BitHistogram.of(np.array([1e-300])).exact


# ---- quantiles --------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
@given(x=values32, q=st.floats(0, 1))
@relaxed
def test_quantiles_are_within_the_stated_bound(bits: int, x: np.ndarray, q: float) -> None:
    sketch = BitHistogram.of(x, bits)
    if sketch.count:
        truth = of_rank(x, q)
        allowed = max(sketch.quantile_bound * abs(truth), 2.0 ** -(126 + bits))
        assert abs(float(sketch.quantile(q)) - truth) <= allowed
        size = of_rank(np.abs(x), q)
        allowed = max(sketch.quantile_bound * size, 2.0 ** -(126 + bits))
        assert abs(float(sketch.abs_quantile(q)) - size) <= allowed


def test_quantiles_of_bfloat16_values_are_numpys() -> None:
    x = bfloat16(RNG.standard_normal(5001))
    q = np.linspace(0, 1, 101)
    expected = np.quantile(x, q, method="inverted_cdf")
    np.testing.assert_array_equal(BitHistogram.of(x).quantile(q), expected)


AWKWARD = {
    "two points": np.repeat([-3.0, 5.0], [1, 999]),
    "one massive": np.r_[RNG.standard_normal(999), 30_000.0],
    "mostly zeros": np.r_[np.zeros(5000), RNG.standard_normal(77)],
    "all negative": -RNG.lognormal(0, 3, 3001),
    "every octave": np.r_[2.0 ** np.arange(-126, 128), -(2.0 ** np.arange(-126, 128))],
    "one bin": RNG.uniform(1.0, 1.0078, 5000),
    "bin edges": np.nextafter(1 + np.arange(128) / 128, 0).repeat(7),
    "subnormal": RNG.standard_normal(500) * 1e-40,
    "float32's ends": np.array([FLOAT_MAX, -FLOAT_MAX, TINY, -TINY, 0.0]),
    "cauchy": RNG.standard_cauchy(20_000),
}


@pytest.mark.parametrize("bits", [1, 3, 7])
@pytest.mark.parametrize("values", AWKWARD.values(), ids=AWKWARD.keys())
def test_quantiles_of_awkward_streams_are_numpys_within_the_bound(
    values: np.ndarray, bits: int
) -> None:
    x = values.astype(np.float32)
    sketch = BitHistogram.of(x, bits)
    q = np.r_[0.0, 0.001, np.linspace(0.01, 0.99, 37), 0.999, 0.9999, 1.0]
    for found, data in ((sketch.quantile(q), x), (sketch.abs_quantile(q), np.abs(x))):
        expected = np.quantile(data.astype(np.float64), q, method="inverted_cdf")
        allowed = np.maximum(sketch.quantile_bound * np.abs(expected), 2.0 ** -(126 + bits))
        assert (np.abs(found - expected) <= allowed).all()


def test_no_values_have_no_quantiles() -> None:
    empty = BitHistogram.of(np.array([np.nan, np.inf]))
    assert np.isnan(empty.quantile(np.array([0.0, 0.5]))).all()
    assert np.isnan([empty.abs_quantile(0.5), empty.zero_share, empty.absmax_bin]).all()
    assert np.isnan([empty.share_above(1.0), empty.cdf(0.0), empty.smallest_energy()]).all()
    assert empty.robust_sigma() == 0


def test_one_value_is_every_quantile() -> None:
    sketch = BitHistogram.of(np.array([-2.5]))
    np.testing.assert_array_equal(sketch.quantile(np.array([0, 0.5, 1])), [-2.5] * 3)


# ---- support ----------------------------------------------------------------------------


@given(x=values32)
@relaxed
def test_edges_enclose_the_values_in_order(x: np.ndarray) -> None:
    sketch = BitHistogram.of(x, 4)
    left, right = sketch.edges()
    kept = np.sort(x[np.isfinite(x)]).astype(np.float64)
    assert (np.diff(left) >= 0).all()
    np.testing.assert_array_equal(sketch.weights().sum(), kept.size)
    assert (np.repeat(left, sketch.weights()) <= kept).all()
    assert (kept <= np.repeat(right, sketch.weights())).all()


def test_both_zeros_are_one_point() -> None:
    sketch = BitHistogram.of(np.array([-0.0, 0.0, 0.0, -1.0, 1.0]))
    np.testing.assert_array_equal(sketch.midpoints(), [-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(sketch.weights(), [1, 3, 1])


# ---- shares and scales ------------------------------------------------------------------


def test_zero_share_is_over_finite_values() -> None:
    assert BitHistogram.of(np.array([0.0, -0.0, 1.0, 2.0, np.nan])).zero_share == 0.5


def test_share_above_agrees_with_counting() -> None:
    x = (RNG.standard_t(3, 200_000) * 3).astype(np.float32)
    for limit in (0.0, 0.7, 3.3, 50.0, 1e6):
        assert BitHistogram.of(x).share_above(limit) == pytest.approx(
            (np.abs(x) > limit).mean(), abs=2e-4
        )


def test_share_above_of_bfloat16_values_is_exact_at_a_value() -> None:
    sketch = BitHistogram.of(np.array([448.0, -448.0, 450.0, 1.0]))
    assert sketch.share_above(448.0) == 0.25


@pytest.mark.parametrize("name", FORMATS)
def test_the_share_above_the_largest_number_of_a_format(name: str) -> None:
    top = FORMATS[name].max
    x = np.clip(RNG.standard_t(2, 50_000) * top, -FLOAT_MAX, FLOAT_MAX).astype(np.float32)
    x[:10] = np.inf
    for values, allowed in ((x, 5e-4), (bfloat16(x), 1e-12)):
        finite = values[np.isfinite(values)].astype(np.float64)
        expected = (np.abs(finite) > top).mean()
        assert BitHistogram.of(values).share_above(top) == pytest.approx(expected, abs=allowed)


def test_cdf_agrees_with_counting() -> None:
    x = RNG.standard_normal(100_000).astype(np.float32)
    points = np.array([-9.0, -1.2785, -0.01, 0.0, 0.3, 2.0, 9.0])
    expected = (x[:, None] <= points).mean(axis=0)
    np.testing.assert_allclose(BitHistogram.of(x).cdf(points), expected, atol=3e-4)
    rounded = bfloat16(x)
    expected = (rounded[:, None] <= points).mean(axis=0)
    np.testing.assert_allclose(BitHistogram.of(rounded).cdf(points), expected, rtol=1e-12)


def test_smallest_energy_of_a_gaussian() -> None:
    x = RNG.standard_normal(200_000)
    square = np.sort(x**2)
    expected = square[:100_000].sum() / square.sum()
    assert BitHistogram.of(x).smallest_energy(0.5) == pytest.approx(expected, rel=1e-3)


def test_robust_sigma_ignores_massive_values() -> None:
    x = RNG.normal(3.0, 2.0, 100_000)
    x[:5] = 3000.0
    low, high = np.quantile(x, [0.25, 0.75])
    assert BitHistogram.of(x).robust_sigma() == pytest.approx((high - low) / 1.349, rel=0.01)


def test_robust_sigma_of_mostly_zeros_is_that_of_the_rest() -> None:
    rest = RNG.standard_normal(1000)
    x = np.concatenate([np.zeros(9000), rest])
    expected = 1.4826 * np.median(np.abs(rest - np.median(rest)))
    assert BitHistogram.of(x).robust_sigma() == pytest.approx(expected, rel=0.02)


def test_robust_sigma_falls_back_to_rms_then_zero() -> None:
    x = np.concatenate([np.zeros(99), [10.0]])
    assert BitHistogram.of(x).robust_sigma() == pytest.approx(1.0)
    top = BitHistogram.of(np.full(3, FLOAT_MAX, np.float32))
    assert top.robust_sigma() == pytest.approx(FLOAT_MAX, rel=2**-8)
    assert BitHistogram.of(np.zeros(5)).robust_sigma() == 0


def test_absmax_bin_is_the_largest_magnitude() -> None:
    assert BitHistogram.of(np.array([1.0, -3.0, np.inf])).absmax_bin == 3.0
