"""What the values of a part must be, so that no sketch is made of damaged numbers.

Whole columns at a time: counts are not negative and do not overflow when added, the lists
of one row fit each other, histograms are in order, names are names.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ffn_probe.errors import SchemaError
from ffn_probe.runs.manifest import readable_name
from ffn_probe.runs.schema import EVEN, FOLDS, KEYS, LISTS_OF_ONE_LENGTH, ODD, TABLES, WHOLE
from ffn_probe.sketches import JOINT_EDGES
from ffn_probe.sketches.bit_codes import MAX_BITS, MIN_BITS, infinity_code, nan_code, sign_bit

_MOST = 2**62  # the sum of two counts below it is an int64
_NEVER_NEGATIVE = {
    "count", "counts", "nan", "pos_inf", "neg_inf", "rows", "seen_rows", "sampled_rows",
    "active", "grid", "clipped", "zeroed", "k", "window", "m2", "m4", "absmax", "c_gg", "c_uu",
    "c_aa", "signal", "noise", "nonfinite_a", "nonfinite_b", "energy_a", "energy_b", "error",
    "expected", "max_abs", "ulps", "cosine_rows", "sum_aa", "sum_bb", "rank",
    "norm_gate", "norm_up", "norm_down", "in_gate", "in_up", "out_down",
}  # fmt: skip
_PREFIXES = ("token_absmax_", "token_rms_", "token_ratio_")


def check_values(data: pa.Table, table: str, path: Path) -> None:
    """Check the values of one part, or of a few of its rows and columns.

    Raises:
        SchemaError: a value cannot be; the message names the file and the column.
    """
    for field in TABLES[table]:
        if field.name not in data.column_names:
            continue
        column = data.column(field.name)
        flat = pc.list_flatten(column) if pa.types.is_list(field.type) else column
        missing = column.null_count + flat.null_count
        if missing:
            raise SchemaError(f"{path}: column {field.name!r} holds {missing} missing values")
        _check_sign(flat, field.name, path)
    if set(KEYS[:6]) <= set(data.column_names):
        _check_keys(data, path)
    for names in LISTS_OF_ONE_LENGTH.get(table, ()):
        _check_lengths(data, [name for name in names if name in data.column_names], path)
    prefixes = {"histograms": ("",), "extremes": _PREFIXES}.get(table, ())
    for prefix in prefixes:
        if prefix + "codes" in data.column_names:
            _check_histograms(data, prefix, path)
    if table == "joint" and "grid" in data.column_names:
        sizes = np.unique(_lengths(data.column("grid")))
        if set(sizes.tolist()) - {(JOINT_EDGES.size - 1) ** 2}:
            raise SchemaError(f"{path}: a grid has {sizes.max()} cells")


def _check_sign(flat: pa.ChunkedArray, name: str, path: Path) -> None:
    leaf = name
    for prefix in _PREFIXES:
        leaf = leaf.removeprefix(prefix)
    if leaf not in _NEVER_NEGATIVE or len(flat) == 0:
        return
    values = flat.to_numpy()
    negative = values < 0  # NaN, which is not, must not hide those that are
    if negative.any():
        raise SchemaError(f"{path}: column {name!r} holds {values[negative][0]}, below zero")
    if values.dtype.kind == "i" and values.sum(dtype=np.float64) > _MOST:
        raise SchemaError(f"{path}: column {name!r} counts more than 2^62 in all")


def _check_keys(data: pa.Table, path: Path) -> None:
    folds = set(pc.unique(data.column("fold")).to_pylist())
    if folds - {WHOLE, EVEN, ODD, *range(FOLDS)}:
        raise SchemaError(f"{path}: the folds {sorted(folds)} are not those of a run")
    for name in ("block", "role"):
        for value in pc.unique(data.column(name)).to_pylist():
            if not readable_name(value) or (name == "role" and not value):
                raise SchemaError(f"{path}: {value!r} is no name of a {name}")
    if data.num_rows and pc.min(data.column("expert")).as_py() < -1:
        raise SchemaError(f"{path}: column 'expert' holds a number below -1")


def _check_lengths(data: pa.Table, names: Sequence[str], path: Path) -> None:
    if len(names) < 2:
        return
    first = _lengths(data.column(names[0]))
    for name in names[1:]:
        if not np.array_equal(_lengths(data.column(name)), first):
            raise SchemaError(f"{path}: {name!r} and {names[0]!r} have lists of unlike lengths")


def _check_histograms(data: pa.Table, prefix: str, path: Path) -> None:
    """Codes are within those of the row's bits, ascending, with one code for NaN."""
    bits = data.column(prefix + "bits").to_numpy()
    if data.num_rows == 0:
        return
    if bits.min() < MIN_BITS or bits.max() > MAX_BITS:
        raise SchemaError(f"{path}: {prefix}bits is outside {MIN_BITS}..{MAX_BITS}")
    lengths = _lengths(data.column(prefix + "codes"))
    codes = pc.list_flatten(data.column(prefix + "codes")).to_numpy().astype(np.int64)
    row = np.repeat(np.arange(lengths.size), lengths)
    known = np.arange(MIN_BITS, MAX_BITS + 1)
    half, inf, nan = (
        np.array([of(int(b)) for b in known])[bits - MIN_BITS][row]
        for of in (sign_bit, infinity_code, nan_code)
    )
    inside = (codes >= 0) & (codes < 2 * half)
    inside &= ((codes & (half - 1)) <= inf) | (codes == nan)
    if not inside.all():
        raise SchemaError(f"{path}: {prefix}codes holds {codes[~inside][0]}, which is no code")
    if np.any((np.diff(codes) <= 0) & (np.diff(row) == 0)):
        raise SchemaError(f"{path}: {prefix}codes are not in ascending order")


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    lengths: np.ndarray = pc.list_value_length(column).to_numpy()
    return lengths
