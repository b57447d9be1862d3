"""Every measure of a site, defined once: name, unit, label, formula, source, direction.

`measure_all` computes the whole table (or chosen names) from a Summary and its siblings in
the block. A measure that does not apply (a gate measure at `resid`, a ratio of nothing, the
kurtosis of a constant) is left out, never reported as zero; no value is NaN. Statistics are
over finite values; those that are not are counted by `nan`, `pos_inf` and `neg_inf`. A value
is infinite where the formula's is: no noise at all is an SQNR of inf dB.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from ffn_probe.anatomy import Block
from ffn_probe.errors import UnknownName
from ffn_probe.formats import FORMATS, int8_sqnr_db
from ffn_probe.sketches import Channels, Summary

_TINIEST, _LARGEST = 2.0**-149, (2 - 2.0**-23) * 2.0**127  # of float32

SILU_DIP = -1.278464542761074
"""Where SiLU has its minimum; left of it the gate's effect runs backwards."""


@dataclass(frozen=True, slots=True)
class MeasureInput:
    """A site's summary, its role, its block and the summaries of the block's other roles."""

    summary: Summary
    role: str
    block: Block | None = None
    siblings: Mapping[str, Summary] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number about a site; `of` returns None where it does not apply.

    `direction` says what is unusual: "high", "low", "both" or "none".
    """

    name: str
    unit: str
    label: str
    formula: str
    source: str
    direction: str
    of: Callable[[MeasureInput], float | None]


def measure_all(
    given: MeasureInput, names: Iterable[str] | None = None
) -> Iterator[tuple[Measure, float]]:
    """Return the measures that apply, with their values.

    Raises:
        UnknownName: one of `names` is no measure.
    """
    chosen = MEASURES if names is None else tuple(measure(name) for name in names)
    for entry in chosen:
        value = entry.of(given)
        if value is not None and not math.isnan(value):
            yield entry, float(value)


def measure(name: str) -> Measure:
    """Return the measure of that name.

    Raises:
        UnknownName: there is none.
    """
    for entry in MEASURES:
        if entry.name == name:
            return entry
    raise UnknownName.of("measure", name, [m.name for m in MEASURES])


# Parts of the formulas


def _share(part: float, whole: float) -> float | None:
    return part / whole if 0 < whole < math.inf else None


def _crest(x: MeasureInput) -> float | None:
    return _share(x.summary.extremes.absmax, x.summary.moments.rms)


def _abs_quantile(q: float) -> Callable[[MeasureInput], float | None]:
    return lambda x: float(x.summary.histogram.abs_quantile(q))


def _near_zero(x: MeasureInput) -> float | None:
    limit = 0.01 * x.summary.moments.rms
    if not limit > 0:
        return None
    return 1.0 - x.summary.histogram.share_above(limit)


def _gate_only(
    of: Callable[[MeasureInput], float | None],
) -> Callable[[MeasureInput], float | None]:
    return lambda x: of(x) if x.role == "gate" else None


def _open_share(x: MeasureInput) -> float | None:
    return 1.0 - float(x.summary.histogram.cdf(0.0))


def _dip_share(x: MeasureInput) -> float | None:
    if x.block is not None and x.block.activation not in {"silu", "clamped_swiglu"}:
        return None
    return float(x.summary.histogram.cdf(SILU_DIP))


def _joint(field_name: str) -> Callable[[MeasureInput], float | None]:
    def of(x: MeasureInput) -> float | None:
        if x.role != "hidden" or x.summary.joint is None:
            return None
        return float(getattr(x.summary.joint.pooled(), field_name))

    return of


def _branch_ratio(x: MeasureInput) -> float | None:
    if x.role != "out" or "resid" not in x.siblings:
        return None
    return _share(x.summary.moments.rms, x.siblings["resid"].moments.rms)


def _norm_r(x: MeasureInput) -> float | None:
    if x.role != "resid":
        return None
    return float(x.summary.extremes.token_ratio.quantile(0.5))


def _top(x: MeasureInput) -> float | None:
    """Return absmax where a histogram, which is of float32 numbers, can hold it."""
    top = x.summary.extremes.absmax
    return top if _TINIEST <= top <= _LARGEST else None


def _exponents(x: MeasureInput) -> float | None:
    histogram, high = x.summary.histogram, _top(x)
    zeros = histogram.zero_share
    if high is None or not zeros < 1:
        return None
    return math.log2(high) - math.log2(histogram.abs_quantile(zeros + (1 - zeros) * 1e-3))


def _headroom(name: str) -> Callable[[MeasureInput], float | None]:
    return lambda x: _share(FORMATS[name].max, x.summary.extremes.absmax)


def _int8_predicted(x: MeasureInput) -> float | None:
    crest = _crest(x)
    return int8_sqnr_db(crest) if crest and math.isfinite(crest) else None


def _predicted(name: str) -> Callable[[MeasureInput], float | None]:
    def of(x: MeasureInput) -> float | None:
        top = _top(x)
        if top is None:
            return None
        scale = 1.0 if FORMATS[name].cast else top / FORMATS[name].max
        return x.summary.histogram.sqnr_db(FORMATS[name], scale)

    return of


def _measured(key: str) -> Callable[[MeasureInput], float | None]:
    return lambda x: x.summary.quant.sqnr_db(key) if key in x.summary.quant.entries else None


def _of_kind(kind: str, x: MeasureInput) -> float:
    return float(getattr(x.summary.extremes, kind))


def _channels(
    of: Callable[[Channels], float],
) -> Callable[[MeasureInput], float | None]:
    """Return a measure of channels that is absent where none has a finite value."""
    return lambda x: of(x.summary.channels) if x.summary.channels.count.any() else None


def _moment(name: str) -> Callable[[MeasureInput], float | None]:
    return lambda x: (
        float(getattr(x.summary.moments, name)) if x.summary.moments.count else None
    )


QUANT_KEYS: tuple[str, ...] = (
    "int8:tensor", "int8:token", "int8:channel", "int4:group", "fp16:none", "bf16:none",
    "e4m3fn:tensor", "e4m3fn:token", "e5m2:tensor", "mxfp8:block", "mxfp6:block",
    "mxfp6_e3m2:block", "mxfp4:block", "nvfp4:block",
)  # fmt: skip
"""The formats whose noise a recording measures."""

PREDICTED: tuple[str, ...] = ("int8", "int4", "e4m3fn", "e5m2", "fp16", "bf16")
"""The formats whose noise a histogram predicts: elementwise, at the scale of the absmax."""

_T = "unit of the tensor"

MEASURES: tuple[Measure, ...] = (
    Measure("mean", _T, "mean", "E[x]", "-", "both", _moment("mean")),
    Measure("std", _T, "standard deviation", "sqrt(E[(x - E[x])^2])", "-", "both", _moment("std")),
    Measure("rms", _T, "root mean square", "sqrt(E[x^2])", "-", "both", _moment("rms")),
    Measure("skew", "1", "skewness", "E[(x-m)^3] / s^3", "Fisher", "both", _moment("skew")),
    Measure(
        "kurtosis_fisher", "1", "excess kurtosis", "E[(x-m)^4] / s^4 - 3", "Fisher", "high",
        _moment("kurtosis_fisher"),
    ),
    Measure(
        "kurtosis_pearson", "1", "kurtosis", "E[(x-m)^4] / s^4", "Pearson", "high",
        _moment("kurtosis_pearson"),
    ),
    Measure(
        "he_kurtosis", "1", "kurtosis of channel RMS", "mean(s_j^4) / mean(s_j^2)^2",
        "He et al. 2024, eq. 1", "high", _channels(Channels.he_kurtosis),
    ),
    Measure("crest", "1", "crest factor", "absmax / rms", "-", "high", _crest),
    Measure(
        "absmax", _T, "largest magnitude", "max |x|", "-", "high",
        lambda x: x.summary.extremes.absmax,
    ),
    Measure("p50_abs", _T, "median |x|", "quantile(|x|, 0.5)", "-", "both", _abs_quantile(0.5)),
    Measure("p99_abs", _T, "p99 of |x|", "quantile(|x|, 0.99)", "-", "both", _abs_quantile(0.99)),
    Measure(
        "p99_9_abs", _T, "p99.9 of |x|", "quantile(|x|, 0.999)", "-", "both", _abs_quantile(0.999)
    ),
    Measure(
        "p99_99_abs", _T, "p99.99 of |x|", "quantile(|x|, 0.9999)", "-", "both",
        _abs_quantile(0.9999),
    ),
    Measure(
        "zero_share", "share", "exact zeros", "P(x = 0)", "-", "both",
        lambda x: x.summary.histogram.zero_share,
    ),
    Measure(
        "near_zero_share", "share", "near zeros", "P(|x| <= 0.01 rms)", "-", "both", _near_zero
    ),
    Measure(
        "nonfinite", "values", "non-finite values", "count of NaN and Inf, all rows", "-", "high",
        lambda x: sum(_of_kind(kind, x) for kind in ("nan", "pos_inf", "neg_inf")),
    ),
    *(
        Measure(
            kind, "values", f"{label} values", f"count of {label}, all rows", "-", "high",
            partial(_of_kind, kind),
        )
        for kind, label in (("nan", "NaN"), ("pos_inf", "+Inf"), ("neg_inf", "-Inf"))
    ),
    Measure(
        "dead_channels", "channels", "dead channels", "absmax_j <= 1e-3 of the typical RMS", "-",
        "high", _channels(lambda c: float(c.dead().sum())),
    ),
    Measure(
        "dead_share", "share", "share of dead channels", "dead / channels", "-", "high",
        _channels(lambda c: float(c.dead().mean())),
    ),
    Measure(
        "outlier_channels", "channels", "outlier channels", "rms_j >= 6 of the typical RMS",
        "Dettmers et al. 2022 (factor 6)", "high",
        _channels(lambda c: float(c.outliers().sum())),
    ),
    Measure(
        "spike_ratio", "1", "token spike ratio", "max / median over tokens of per-token absmax",
        "Yang et al. 2024", "high", lambda x: x.summary.extremes.spike_ratio,
    ),
    Measure("gate_open", "share", "gate open", "P(gate > 0)", "-", "both", _gate_only(_open_share)),
    Measure(
        "silu_dip", "share", "gate left of SiLU's minimum", "P(gate < -1.2785)",
        "minimum of x sigmoid(x)", "high", _gate_only(_dip_share),
    ),
    Measure(
        "smallest_half_energy", "share", "energy in the smallest half",
        "sum of x^2 over the smallest 50 % of |x| / sum of x^2", "Liu et al. 2024 (TEAL)", "low",
        lambda x: x.summary.histogram.smallest_energy(0.5) if x.role == "hidden" else None,
    ),
    Measure(
        "corr_gate_value", "1", "gate/value correlation", "corr(gate, value)", "Pearson", "both",
        _joint("corr_gate_value"),
    ),
    Measure(
        "hidden_ratio", "1", "alignment by the mean hidden", "2 E[h] / (s_g s_u)",
        "Stein's identity", "both", _joint("hidden_ratio"),
    ),
    Measure(
        "branch_ratio", "1", "branch ratio", "rms(out) / rms(resid)", "-", "both", _branch_ratio
    ),
    Measure(
        "norm_r", "1", "|mean| / std per token (median)", "median over tokens of |mu| / sigma",
        "LN = sqrt(1 + r^2) RMS - r", "high", _norm_r,
    ),
    Measure(
        "exponent_range", "octaves", "exponent range used",
        "log2(absmax / p0.1 of |x| over non-zeros)", "-", "high", _exponents,
    ),
    Measure("headroom_fp16", "1", "headroom to fp16", "65504 / absmax", "IEEE 754", "low", _headroom("fp16")),
    Measure("headroom_e4m3fn", "1", "headroom to e4m3", "448 / absmax", "OCP FP8", "low", _headroom("e4m3fn")),
    Measure("headroom_e5m2", "1", "headroom to e5m2", "57344 / absmax", "OCP FP8", "low", _headroom("e5m2")),
    Measure(
        "sqnr_int8_law", "dB", "predicted SQNR int8 per tensor", "52.87 - 20 log10(crest)",
        "uniform noise", "low", _int8_predicted,
    ),
    *(
        Measure(
            f"sqnr_{name}_predicted", "dB", f"predicted SQNR {name}",
            f"histogram's noise at {'no scale' if FORMATS[name].cast else 'scale absmax / max'}",
            "this project", "low", _predicted(name),
        )
        for name in PREDICTED
    ),
    *(
        Measure(
            f"sqnr_{key.replace(':', '_')}", "dB", f"measured SQNR {key}",
            "10 log10(sum x^2 / sum (Q(x) - x)^2)", "sampled rows", "low", _measured(key),
        )
        for key in QUANT_KEYS
    ),
)  # fmt: skip
"""The table of measures, in the order of display."""
