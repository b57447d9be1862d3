"""The tables of a run and their columns, with the unit of each in its metadata.

Every table but `metrics` has the key columns: a window, a fold, the site and the rank that
wrote the row. Folds 0..15 are groups of batches; WHOLE stands for all folds of the window,
EVEN and ODD for its two halves.

| table | folds stored | one row holds |
|---|---|---|
| moments | 0..15 | counts, mean and central moments of the sampled values |
| histograms | 0..15 at 3 bits, WHOLE at full bits | bfloat16-pattern counts, sparse |
| channels | EVEN, ODD | per channel count, mean, M2, absmax, active |
| extremes | 0..15 | all rows: counts, min, max, top-k, per-token sketches |
| joint | WHOLE | co-moments of gate and value per neuron, 2-D grid |
| quant | 0..15 | signal and noise energy per number format |
| metrics | - | loss, gradient norm, ... per step |
"""

import pyarrow as pa

WHOLE, EVEN, ODD = -1, -2, -3
FOLDS = 16
FOLD_BITS = 3

_UNIT = "unit of the tensor"
_KEYS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("window", pa.int64(), "ordinal"),
    ("fold", pa.int16(), "ordinal; -1 whole, -2 even, -3 odd"),
    ("layer", pa.int32(), "ordinal"),
    ("block", pa.string(), "module name"),
    ("role", pa.string(), "role"),
    ("expert", pa.int32(), "ordinal; -1 dense"),
    ("dp", pa.int32(), "rank"),
    ("tp", pa.int32(), "rank"),
    ("pp", pa.int32(), "rank"),
    ("ep", pa.int32(), "rank"),
)
KEYS = tuple(name for name, _, _ in _KEYS)


def _histogram(prefix: str = "") -> tuple[tuple[str, pa.DataType, str], ...]:
    return (
        (prefix + "bits", pa.int8(), "mantissa bits"),
        (prefix + "codes", pa.list_(pa.int32()), "bit pattern"),
        (prefix + "counts", pa.list_(pa.int64()), "count"),
        (prefix + "exact", pa.bool_(), "whether all values are bfloat16 numbers"),
    )


def _lists(
    names: str, kind: pa.DataType, unit: str
) -> tuple[tuple[str, pa.DataType, str], ...]:
    return tuple((name, pa.list_(kind), unit) for name in names.split())


_COLUMNS: dict[str, tuple[tuple[str, pa.DataType, str], ...]] = {
    "moments": (
        ("seen_rows", pa.int64(), "rows"),
        ("sampled_rows", pa.int64(), "rows"),
        ("dtype", pa.string(), "name"),
        ("count", pa.int64(), "values"),
        ("nan", pa.int64(), "values"),
        ("pos_inf", pa.int64(), "values"),
        ("neg_inf", pa.int64(), "values"),
        ("mean", pa.float64(), _UNIT),
        ("m2", pa.float64(), f"{_UNIT}^2, summed"),
        ("m3", pa.float64(), f"{_UNIT}^3, summed"),
        ("m4", pa.float64(), f"{_UNIT}^4, summed"),
    ),
    "histograms": _histogram(),
    "channels": (
        *_lists("count active", pa.int64(), "rows"),
        *_lists("mean absmax", pa.float64(), _UNIT),
        *_lists("m2", pa.float64(), f"{_UNIT}^2, summed"),
    ),
    "extremes": (
        ("k", pa.int32(), "count"),
        ("rows", pa.int64(), "rows"),
        ("count", pa.int64(), "values"),
        ("nan", pa.int64(), "values"),
        ("pos_inf", pa.int64(), "values"),
        ("neg_inf", pa.int64(), "values"),
        ("min", pa.float64(), _UNIT),
        ("max", pa.float64(), _UNIT),
        *_lists("top_value", pa.float64(), _UNIT),
        *_lists(
            "top_step top_sequence top_position top_token top_channel", pa.int64(), "ordinal"
        ),
        *_histogram("token_absmax_"),
        *_histogram("token_rms_"),
        *_histogram("token_ratio_"),
    ),
    "joint": (
        *_lists("count", pa.int64(), "rows"),
        *_lists("mean_gate mean_value mean_act mean_hidden", pa.float64(), _UNIT),
        *_lists("c_gg c_uu c_gu c_aa c_au", pa.float64(), f"{_UNIT}^2, summed"),
        *_lists("grid", pa.int64(), "values"),
    ),
    "quant": (
        *_lists("key", pa.string(), "format:granularity"),
        *_lists("count clipped zeroed", pa.int64(), "values"),
        *_lists("signal noise", pa.float64(), f"{_UNIT}^2, summed"),
    ),
}


def _schema(columns: tuple[tuple[str, pa.DataType, str], ...]) -> pa.Schema:
    return pa.schema([pa.field(n, kind, metadata={"unit": unit}) for n, kind, unit in columns])


TABLES: dict[str, pa.Schema] = {
    **{name: _schema((*_KEYS, *columns)) for name, columns in _COLUMNS.items()},
    "metrics": _schema(
        (
            ("window", pa.int64(), "ordinal"),
            ("step", pa.int64(), "ordinal"),
            ("name", pa.string(), "name"),
            ("value", pa.float64(), "unit of the metric"),
            ("dp", pa.int32(), "rank"),
        )
    ),
}
"""The Arrow schema of every table."""


def _prefixed(prefix: str, names: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in names.split())


LISTS_OF_ONE_LENGTH: dict[str, tuple[tuple[str, ...], ...]] = {
    "histograms": (("codes", "counts"),),
    "channels": (("count", "active", "mean", "absmax", "m2"),),
    "extremes": (
        _prefixed("top_", "value step sequence position token channel"),
        *(_prefixed(f"token_{name}_", "codes counts") for name in ("absmax", "rms", "ratio")),
    ),
    "joint": (
        ("count", *_prefixed("mean_", "gate value act hidden")),
        ("count", *_prefixed("c_", "gg uu gu aa au")),
    ),
    "quant": (("key", "count", "clipped", "zeroed", "signal", "noise"),),
}
"""Of each table the groups of list columns whose lists are equally long in a row."""
