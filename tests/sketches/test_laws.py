"""The laws that every sketch promises, on streams with everything awkward in them."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn_probe.formats import quantize
from ffn_probe.sketches import (
    BitHistogram,
    Channels,
    Extremes,
    Joint,
    Moments,
    QuantNoise,
    Summary,
)
from ffn_probe.sketches.summary import merged_dtype

CHANNELS = 3
FLOAT_MAX = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).smallest_subnormal)
EPS = float(np.finfo(np.float64).eps)
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, TINY, -TINY, 1e-40, FLOAT_MAX, -FLOAT_MAX, 1.0]

# What a float column sums: powers of the deviations from the mean, or of the values.
CENTRED = {"m2": 2, "m3": 3, "m4": 4}
CENTRED |= dict.fromkeys(("c_gg", "c_uu", "c_gu", "c_aa", "c_au"), 2)
MEANS = {"mean": 1, "mean_gate": 1, "mean_value": 1, "mean_act": 1, "mean_hidden": 2}
ENERGIES = {"signal", "noise"}


def streams() -> st.SearchStrategy[np.ndarray]:
    """Rows x CHANNELS: 0..9 rows, far-apart means, special values, half and bfloat16."""
    size = st.integers(0, 9).map(lambda rows: (rows, CHANNELS))
    plain = st.floats(-100, 100, width=32)
    awkward = st.one_of(plain, st.sampled_from(SPECIAL))
    half = st.one_of(st.floats(width=16), st.sampled_from([65504.0, 6e-8, -0.0, 2049.0]))
    return st.one_of(
        npst.arrays(np.float32, size, elements=plain),
        npst.arrays(np.float32, size, elements=awkward),
        npst.arrays(np.float32, size, elements=st.floats(-1, 1, width=32)).map(
            lambda x: (x + np.float32(1e4)).astype(np.float32)
        ),
        npst.arrays(np.float32, size, elements=st.floats(-FLOAT_MAX, FLOAT_MAX, width=32)),
        npst.arrays(np.float16, size, elements=half),
        npst.arrays(np.float32, size, elements=awkward).map(bfloat16),
    )


def bfloat16(x: np.ndarray) -> np.ndarray:
    """The upper halves of the float32 patterns, NaN kept."""
    cut = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(x), np.float32(np.nan), cut)


def joint_of(x: np.ndarray) -> Joint:
    return Joint.of(x, np.roll(x, 1, axis=1), np.maximum(x, 0))


def noise_of(x: np.ndarray) -> QuantNoise:
    """Scales of a token or fixed ones: those for which merge equals the whole."""
    found = {
        "e4m3fn:token": quantize(x, "e4m3fn", granularity="token"),
        "int8:tensor": quantize(x, "int8", scale=0.5),
        "fp16:none": quantize(x, "fp16"),
    }
    clipped = {key: int(q.clipped.sum()) for key, q in found.items()}
    return QuantNoise.measured(x, {k: q.values for k, q in found.items()}, clipped=clipped)


def extremes_of(x: np.ndarray) -> Extremes:
    """Addresses that follow from the row, so that a split does not change them."""
    known = np.where(np.isnan(x), 1, x.astype(np.float32)).astype(np.float32)
    where = known.view(np.uint32).astype(np.int64).sum(axis=1)
    return Extremes.of(
        x, 4, step=3, sequence=where % 7, position=where % 101, token=where % 997
    )


def summary_of(x: np.ndarray) -> Summary:
    return Summary.of(x, joint=joint_of(x), quant=noise_of(x), k=4, dtype="any")


@dataclass(frozen=True)
class Case:
    empty: Callable[[], Any]
    of: Callable[[np.ndarray], Any]


CASES = {
    "moments": Case(Moments.empty, Moments.of),
    "histogram": Case(BitHistogram.empty, BitHistogram.of),
    "histogram-3": Case(BitHistogram.empty, lambda x: BitHistogram.of(x, 3)),
    "channels": Case(lambda: Channels.empty(CHANNELS), Channels.of),
    "extremes": Case(lambda: Extremes.empty(4), extremes_of),
    "joint": Case(lambda: Joint.empty(CHANNELS), joint_of),
    "quant": Case(QuantNoise.empty, noise_of),
    "summary": Case(lambda: Summary.empty(CHANNELS, k=4), summary_of),
}

every_sketch = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
fast = settings(max_examples=40, deadline=None)


def tolerance(column: str, *parts: np.ndarray) -> float:
    """What float64 rounding may do to a column; 0 (exact) for one that sums nothing.

    A sum of n powers of deviations is off by n eps (spread^p + p spread^(p-1) size): each
    power rounds, and the mean is off by eps times the size of the values.
    """
    name = column.rpartition(".")[2]
    kept = np.concatenate([p[np.isfinite(p)].astype(np.float64) for p in parts])
    size = float(np.abs(kept).max(initial=0.0))
    spread = float(np.ptp(kept)) if kept.size else 0.0
    if name in MEANS:
        return 64 * EPS * size ** MEANS[name]
    if name in ENERGIES:
        return 64 * EPS * kept.size * size**2
    if name in CENTRED:
        p = CENTRED[name]
        return 64 * EPS * kept.size * (spread**p + p * spread ** (p - 1) * size)
    return 0.0


def assert_close(a: Any, b: Any, *parts: np.ndarray) -> None:
    left, right = a.to_row(), b.to_row()
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, str | list):
            assert value == right[name]
            continue
        allowed = tolerance(name, *parts)
        np.testing.assert_allclose(value, right[name], rtol=0, atol=allowed, err_msg=name)


def through_parquet(sketch: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([sketch.to_row()]), buffer)
    row: dict[str, Any] = pq.read_table(buffer).to_pylist()[0]
    return row


@every_sketch
@given(x=streams())
@fast
def test_empty_is_the_identity_on_both_sides(case: Case, x: np.ndarray) -> None:
    sketch = case.of(x)
    assert sketch.merge(case.empty()).equals(sketch)
    assert case.empty().merge(sketch).equals(sketch)


@every_sketch
@given(x=streams(), y=streams())
@fast
def test_merge_commutes_bit_for_bit(case: Case, x: np.ndarray, y: np.ndarray) -> None:
    a, b = case.of(x), case.of(y)
    assert a.merge(b).equals(b.merge(a))


@every_sketch
@given(x=streams(), y=streams(), z=streams())
@fast
def test_merge_associates(case: Case, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    a, b, c = case.of(x), case.of(y), case.of(z)
    assert_close(a.merge(b).merge(c), a.merge(b.merge(c)), x, y, z)


@every_sketch
@given(x=streams(), y=streams(), z=streams())
@fast
def test_merged_parts_equal_the_whole(
    case: Case, x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> None:
    x, y, z = (part.astype(np.float32) for part in (x, y, z))
    parts = case.of(x).merge(case.of(y)).merge(case.of(z))
    assert_close(parts, case.of(np.concatenate([x, y, z])), x, y, z)


@every_sketch
@given(parts=st.lists(streams(), min_size=2, max_size=6), data=st.data())
@fast
def test_any_order_and_grouping_of_parts_gives_the_whole(
    case: Case, parts: list[np.ndarray], data: st.DataObject
) -> None:
    wide = [part.astype(np.float32) for part in parts]
    sketches = [case.of(part) for part in data.draw(st.permutations(wide))]
    while len(sketches) > 1:
        i = data.draw(st.integers(0, len(sketches) - 2))
        sketches[i : i + 2] = [sketches[i].merge(sketches[i + 1])]
    assert_close(sketches[0], case.of(np.concatenate(wide)), *wide)


@pytest.mark.parametrize("name", ["moments", "channels", "joint", "quant"])
@given(x=streams(), y=streams())
@fast
def test_no_float32_overflows_a_sum(name: str, x: np.ndarray, y: np.ndarray) -> None:
    row = CASES[name].of(x).merge(CASES[name].of(y)).to_row()
    sums = {key: value for key, value in row.items() if not isinstance(value, list)}
    assert all(np.isfinite(np.asarray(value)).all() for value in sums.values())


@every_sketch
@given(x=streams(), y=streams())
@fast
def test_merge_leaves_both_operands_alone(case: Case, x: np.ndarray, y: np.ndarray) -> None:
    a, b = case.of(x), case.of(y)
    a.merge(b)
    assert a.equals(case.of(x))
    assert b.equals(case.of(y))


@every_sketch
@given(x=streams())
@fast
def test_rows_survive_parquet(case: Case, x: np.ndarray) -> None:
    sketch = case.of(x)
    assert type(sketch).from_row(through_parquet(sketch)).equals(sketch)


@every_sketch
def test_an_empty_sketch_survives_parquet(case: Case) -> None:
    empty = case.empty()
    assert type(empty).from_row(through_parquet(empty)).equals(empty)


@every_sketch
def test_a_changed_value_changes_the_sketch(case: Case) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, CHANNELS)
    y = x.copy()
    y[1, 1] = 40.625
    assert not case.of(x).equals(case.of(y))


@every_sketch
def test_a_part_of_no_rows_changes_nothing(case: Case) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, CHANNELS)
    nothing = case.of(x[:0])
    assert case.of(x).merge(nothing).equals(case.of(x))


@every_sketch
def test_a_signalling_nan_is_a_nan(case: Case) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, CHANNELS)
    quiet, signalling = x.copy(), x.copy()
    quiet[0, 1] = np.nan
    signalling.view(np.uint32)[0, 1] = 0x7F800001
    assert case.of(signalling).equals(case.of(quiet))


@every_sketch
def test_types_do_not_matter_where_the_values_are_the_same(case: Case) -> None:
    x = np.arange(-6, 6, dtype=np.float16).reshape(4, CHANNELS) / 8
    for wider in (np.float32, np.float64):
        assert_close(case.of(x), case.of(x.astype(wider)), x)


dtypes = st.sampled_from(["", "float32", "bfloat16", "mixed"])


@given(a=dtypes, b=dtypes, c=dtypes)
def test_names_of_types_merge_by_the_same_laws(a: str, b: str, c: str) -> None:
    assert merged_dtype(a, "") == merged_dtype("", a) == a
    assert merged_dtype(a, b) == merged_dtype(b, a)
    assert merged_dtype(merged_dtype(a, b), c) == merged_dtype(a, merged_dtype(b, c))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3))
@fast
def test_a_joint_on_some_sides_merges_by_the_same_laws(sizes: list[int]) -> None:
    x = np.arange(sum(sizes) * CHANNELS, dtype=np.float32).reshape(-1, CHANNELS)
    parts = np.split(x, np.cumsum(sizes)[:-1])
    with_joint = [Summary.of(p, joint=joint_of(p) if i else None) for i, p in enumerate(parts)]
    left = reduce(lambda a, b: a.merge(b), with_joint)
    right = reduce(lambda a, b: b.merge(a), reversed(with_joint))
    assert_close(left, right, x)
