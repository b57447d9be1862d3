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
| weights | WHOLE | cosines and norms of a block's weights, gain of its norm; once a run |
| trends | WHOLE | the window in single numbers: steps, quantiles, every measure |
| metrics | - | loss, gradient norm, ... per step |

A recorder merges the rows of old windows, but for those of `trends` and `metrics`: a merged
row holds the sum of several windows and bears the number of the first. `trends` has a column
for each measure, NaN where it does not apply, none where there was no such measure yet.

A run of two models on the same inputs (kind "paired") has these instead. Its folds are groups
of sequences, `block` and `role` those of the reference, and `view` says how the candidate was
fed: "end" end to end, "local" the block on the reference's residual stream, "stage" each stage
on the reference's stage before it, "inherited" the candidate's block on its own against the
reference's residual stream, "noise" the reference against itself.

| table | folds stored | one row holds |
|---|---|---|
| paired | 0..15 | error and signal energies of candidate against reference |
| paired_channels | WHOLE | per channel sums of both, for gain slopes and standardised cosines |
| activation_error | WHOLE | error of the activation by value of the gate |
| effects | 0..15 | one additive number: outputs, patches, Shapley values, theory |
| hypotheses | WHOLE | one hypothesis of a bug and how well it fits |
"""

from collections.abc import Mapping

import pyarrow as pa

from ffn_probe.measures import MEASURES

WHOLE, EVEN, ODD = -1, -2, -3
FOLDS = 16
FOLD_BITS = 3

QUANTILES: Mapping[str, float] = {
    "q001": 0.001, "q01": 0.01, "q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95,
    "q99": 0.99, "q999": 0.999,
}  # fmt: skip
"""Of the values of a window: the column of `trends` and its rank, 0..1."""

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
    "weights": (
        *_lists("cos_gate_up", pa.float32(), "cosine, a neuron"),
        *_lists("norm_gate norm_up norm_down", pa.float32(), "norm of weights, a neuron"),
        *_lists("in_gate in_up out_down", pa.float32(), "norm of weights, a channel"),
        *_lists("gain", pa.float32(), "factor, a channel"),
    ),
    "trends": (
        ("first_step", pa.int64(), "ordinal"),
        ("last_step", pa.int64(), "ordinal"),
        ("rows", pa.int64(), "rows"),
        *((name, pa.float32(), _UNIT) for name in QUANTILES),
        *((entry.name, pa.float32(), entry.unit) for entry in MEASURES),
    ),
    "paired": (
        ("view", pa.string(), "end, local, stage, inherited or noise"),
        ("reason", pa.string(), "why values cannot be paired one by one; empty when they are"),
        ("rows", pa.int64(), "rows"),
        ("count", pa.int64(), "values finite in both"),
        ("nonfinite_a", pa.int64(), "values"),
        ("nonfinite_b", pa.int64(), "values"),
        ("energy_a", pa.float64(), f"{_UNIT}^2, summed"),
        ("energy_b", pa.float64(), f"{_UNIT}^2, summed"),
        ("error", pa.float64(), f"{_UNIT}^2, summed: (b - a)^2"),
        ("dot", pa.float64(), f"{_UNIT}^2, summed: a b"),
        ("cross", pa.float64(), f"{_UNIT}^2, summed: local error times inherited error"),
        ("max_abs", pa.float64(), _UNIT),
        ("ulps", pa.int64(), "values that differ by one unit in the last place or more"),
        ("cosines", pa.float64(), "cosine of each row, summed"),
        ("cosine_rows", pa.int64(), "rows"),
        ("hsic_ab", pa.float64(), "unbiased HSIC of a batch, summed"),
        ("hsic_aa", pa.float64(), "unbiased HSIC of a batch, summed"),
        ("hsic_bb", pa.float64(), "unbiased HSIC of a batch, summed"),
    ),
    "paired_channels": (
        ("view", pa.string(), "end, local, stage, inherited or noise"),
        *_lists("count", pa.int64(), "rows"),
        *_lists("sum_a sum_b", pa.float64(), f"{_UNIT}, summed"),
        *_lists("sum_aa sum_bb sum_ab", pa.float64(), f"{_UNIT}^2, summed"),
    ),
    "activation_error": (
        *_lists("codes", pa.int32(), "bit pattern of the gate, 3 mantissa bits"),
        *_lists("counts", pa.int64(), "values"),
        *_lists("expected error", pa.float64(), f"{_UNIT}^2, summed"),
    ),
    "effects": (
        ("analysis", pa.string(), "output, patch, shapley, factorial, norm, theory"),
        ("part", pa.string(), "what the number belongs to"),
        ("metric", pa.string(), "error, energy, kl, ..."),
        ("value", pa.float64(), "unit of the metric, summed"),
        ("count", pa.int64(), "terms of the sum"),
    ),
    "hypotheses": (
        ("rank", pa.int32(), "ordinal; 0 the best"),
        ("hypothesis", pa.string(), "name"),
        ("variant", pa.string(), "its parameters"),
        ("stage", pa.string(), "role at which it acts"),
        ("predicted_db", pa.float64(), "dB"),
        ("measured_db", pa.float64(), "dB"),
        ("after_db", pa.float64(), "dB"),
        ("floor_db", pa.float64(), "dB"),
        ("reached", pa.bool_(), "whether the fix reaches the floor"),
        ("sentence", pa.string(), "what happened"),
        ("fix", pa.string(), "the line to change"),
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


OPTIONAL: Mapping[str, frozenset[str]] = {"trends": frozenset(m.name for m in MEASURES)}
"""Of each table the columns that a part may lack: NaN, then."""


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
    "weights": (
        ("cos_gate_up", "norm_gate"),
        ("norm_up", "norm_down"),
        ("in_up", "out_down"),
    ),
    "quant": (("key", "count", "clipped", "zeroed", "signal", "noise"),),
    "paired_channels": (("count", *_prefixed("sum_", "a b aa bb ab")),),
    "activation_error": (("codes", "counts", "expected", "error"),),
}
"""Of each table the groups of list columns whose lists are equally long in a row."""
