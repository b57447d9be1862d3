"""The laws that every sketch promises, on streams with everything awkward in them."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffn_probe.sketches import (
    BitHistogram,
    Channels,
    Extremes,
    Joint,
    Moments,
    Noise,
    QuantNoise,
    Summary,
)

CHANNELS = 3
FLOAT_MAX = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).smallest_subnormal)
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, TINY, -TINY, 1e-40, FLOAT_MAX, -FLOAT_MAX, 1.0]

# Powers of the values in each float column: rounding is relative to n * max|x|^power.
POWERS = {"mean": 1, "m2": 2, "m3": 3, "m4": 4, "signal": 2, "noise": 2, "mean_hidden": 2}
POWERS |= {"mean_gate": 1, "mean_value": 1, "mean_act": 1}
POWERS |= dict.fromkeys(("c_gg", "c_uu", "c_gu", "c_aa", "c_au"), 2)


def streams() -> st.SearchStrategy[np.ndarray]:
    """Rows x CHANNELS of float32: 0..9 rows, far-apart means, and special values."""
    size = st.integers(0, 9).map(lambda rows: (rows, CHANNELS))
    plain = st.floats(-100, 100, width=32)
    return st.one_of(
        npst.arrays(np.float32, size, elements=plain),
        npst.arrays(np.float32, size, elements=st.one_of(plain, st.sampled_from(SPECIAL))),
        npst.arrays(np.float32, size, elements=st.floats(-1, 1, width=32)).map(
            lambda x: (x + np.float32(1e4)).astype(np.float32)
        ),
        npst.arrays(np.float32, size, elements=st.floats(-FLOAT_MAX, FLOAT_MAX, width=32)),
    )


def joint_of(x: np.ndarray) -> Joint:
    return Joint.of(x, np.roll(x, 1, axis=1), np.maximum(x, 0))


def noise_of(x: np.ndarray) -> QuantNoise:
    """Round to integers: a quantizer with a fixed scale, for which merge equals the whole."""
    kept = x[np.isfinite(x)].astype(np.float64)
    error = np.rint(kept) - kept
    total = Noise(
        kept.size, float(kept @ kept), float(error @ error), 0, int((kept == 0).sum())
    )
    return QuantNoise({"whole:tensor": total})


def summary_of(x: np.ndarray) -> Summary:
    return Summary.of(x, joint=joint_of(x), quant=noise_of(x), k=4)


@dataclass(frozen=True)
class Case:
    empty: Callable[[], Any]
    of: Callable[[np.ndarray], Any]


CASES = {
    "moments": Case(Moments.empty, Moments.of),
    "histogram": Case(BitHistogram.empty, BitHistogram.of),
    "histogram-3": Case(BitHistogram.empty, lambda x: BitHistogram.of(x, 3)),
    "channels": Case(lambda: Channels.empty(CHANNELS), Channels.of),
    "extremes": Case(lambda: Extremes.empty(4), lambda x: Extremes.of(x, 4)),
    "joint": Case(lambda: Joint.empty(CHANNELS), joint_of),
    "quant": Case(QuantNoise.empty, noise_of),
    "summary": Case(lambda: Summary.empty(CHANNELS, k=4), summary_of),
}

every_sketch = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
fast = settings(max_examples=40, deadline=None)


def tolerance(column: str, *parts: np.ndarray) -> float:
    """1e-11 of n max|x|^power; 0 (exact) for a column that is not a sum of powers."""
    power = POWERS.get(column.rpartition(".")[2], 0)
    kept = np.concatenate([p[np.isfinite(p)] for p in parts]).astype(np.float64)
    size = float(np.abs(kept).max(initial=0.0))
    return 1e-11 * max(kept.size, 1) * size**power if power else 0.0


def assert_close(a: Any, b: Any, *parts: np.ndarray) -> None:
    left, right = a.to_row(), b.to_row()
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, str | list):
            assert value == right[name]
            continue
        allowed = tolerance(name, *parts)
        np.testing.assert_allclose(value, right[name], rtol=0, atol=allowed, err_msg=name)


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
    parts = case.of(x).merge(case.of(y)).merge(case.of(z))
    assert_close(parts, case.of(np.concatenate([x, y, z])), x, y, z)


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
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([sketch.to_row()]), buffer)
    row = pq.read_table(buffer).to_pylist()[0]
    assert type(sketch).from_row(row).equals(sketch)


@every_sketch
def test_an_empty_sketch_survives_parquet(case: Case) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([case.empty().to_row()]), buffer)
    row = pq.read_table(buffer).to_pylist()[0]
    assert type(case.empty()).from_row(row).equals(case.empty())


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
