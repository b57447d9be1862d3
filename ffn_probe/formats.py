"""Number formats and what they do to values, with explicit clamping. No torch.

`quantize` returns the values that a tensor would hold after being stored in a format, and
which of them were clamped: elementwise formats at a scale (one a tensor, token, channel or
group), block formats (MX, NVFP4) with the scale rule of their specification. Overflow
always saturates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Num

from ffn_probe.errors import FfnProbeError, UnknownName

GRANULARITIES = ("tensor", "token", "channel", "group", "block", "none")
ROUNDINGS = ("floor", "ceil")
_TINIEST = np.finfo(np.float32).smallest_subnormal
_LARGEST = np.finfo(np.float32).max


class FormatError(FfnProbeError):
    """A format cannot be applied to these values."""


@dataclass(frozen=True, slots=True)
class Format:
    """A set of numbers, all up to +-`max`. `kind` is "int", "float" or "block".

    A block format holds elements of `element` with one scale a `block` of values; its
    other fields are those of the element. `cast` formats are wide enough to go without a
    scale.
    """

    name: str
    kind: str
    max: float
    min_normal: float
    min_subnormal: float
    mantissa_bits: int
    source: str
    block: int = 0
    element: str = ""
    cast: bool = False

    @property
    def granularities(self) -> tuple[str, ...]:
        """The scopes of one scale that go with the format, the usual one first."""
        if self.kind == "block":
            return ("block",)
        return ("none",) if self.cast else ("tensor", "token", "channel", "group", "none")


def _float(
    name: str, bits: int, low: int, top: float, source: str, *, cast: bool = False
) -> Format:
    return Format(name, "float", top, 2.0**low, 2.0 ** (low - bits), bits, source, cast=cast)


_ELEMENTS = (
    Format("int8", "int", 127.0, 1.0, 1.0, 7, "symmetric, [-127, 127]"),
    Format("int4", "int", 7.0, 1.0, 1.0, 3, "symmetric, [-7, 7]"),
    _float("fp16", 10, -14, 65504.0, "IEEE 754 binary16", cast=True),
    _float("bf16", 7, -126, 3.3895313892515355e38, "bfloat16", cast=True),
    _float("e4m3fn", 3, -6, 448.0, "OCP FP8, no infinity"),
    _float("e5m2", 2, -14, 57344.0, "OCP FP8"),
    _float("e2m3", 3, 0, 7.5, "OCP MX FP6"),
    _float("e3m2", 2, -2, 28.0, "OCP MX FP6"),
    _float("e2m1", 1, 0, 6.0, "OCP MX FP4"),
)


def _block(name: str, element: str, size: int, source: str) -> Format:
    of = next(f for f in _ELEMENTS if f.name == element)
    return Format(
        name, "block", of.max, of.min_normal, of.min_subnormal, of.mantissa_bits, source,
        block=size, element=element,
    )  # fmt: skip


FORMATS: Mapping[str, Format] = {
    f.name: f
    for f in (
        *_ELEMENTS,
        _block("mxfp8", "e4m3fn", 32, "OCP MX v1.0, e8m0 scale"),
        _block("mxfp6", "e2m3", 32, "OCP MX v1.0, e8m0 scale"),
        _block("mxfp6_e3m2", "e3m2", 32, "OCP MX v1.0, e8m0 scale"),
        _block("mxfp4", "e2m1", 32, "OCP MX v1.0, e8m0 scale"),
        _block("nvfp4", "e2m1", 16, "NVFP4, e4m3 scale and a float32 scale a tensor"),
    )
}
"""Every format by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """What a format made of values.

    `values` are float32. `clipped` marks the finite values that were nearest to a number
    beyond the format's largest at their scale, and so were clamped.
    """

    values: Float32[np.ndarray, "rows channels"]
    clipped: Bool[np.ndarray, "rows channels"]


def number_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UnknownName: no format has it.
    """
    if name not in FORMATS:
        raise UnknownName.of("format", name, FORMATS)
    return FORMATS[name]


def round_to(values: Float[np.ndarray, "..."], name: str) -> Float64[np.ndarray, "..."]:
    """Return the nearest numbers of an elementwise format (ties to even), saturated.

    NaN stays NaN; infinities become the largest number; -0 stays -0 where the format has
    one. Computed in float64.

    Raises:
        UnknownName: no format has that name.
        FormatError: it is a block format.
    """
    form = number_format(name)
    if form.kind == "block":
        raise FormatError(f"{name} is a block format; use quantize")
    numbers: np.ndarray = np.clip(
        _nearest(np.asarray(values, np.float64), form), -form.max, form.max
    )
    return numbers


def quantize(
    values: Num[np.ndarray, "rows channels"],
    name: str,
    *,
    granularity: str | None = None,
    group: int = 128,
    scale: float | Num[np.ndarray, "..."] | None = None,
    rounding: str = "floor",
) -> Quantized:
    """Return the values after a round trip through a format, and which were clamped.

    Args:
        values: rows (tokens) of channels; the largest finite |x| of each scope sets its scale.
        name: a format of FORMATS.
        granularity: the scope of one scale, one of the format's `granularities` (default:
            the first): "tensor", "token", "channel", "group" (along channels), "block", or
            "none" (no scale).
        group: channels a group.
        scale: a fixed scale instead of the measured one, whatever the granularity; an array
            broadcasts over the values.
        rounding: of an MX block's power-of-two scale, "floor" (OCP) or "ceil" (RCEIL).

    NaN stays NaN in its place; infinities saturate; neither sets a scale. A scope of zeros
    stays zeros, its scale being that of an absmax of 1. A scale below the smallest float32
    is that number, and a result beyond the largest float32 is that one.

    >>> import numpy as np
    >>> result = quantize(np.array([[500.0, -1.06]]), "e4m3fn", granularity="none")
    >>> result.values.tolist(), result.clipped.tolist()
    ([[448.0, -1.0]], [[True, False]])

    Raises:
        UnknownName: the format, granularity or rounding is unknown.
        FormatError: the channels are no multiple of the block or group, a scale is not a
            positive number, or does not go with the format or granularity.
    """
    form = number_format(name)
    scope = _scope(form, granularity, rounding)
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.asarray(values, np.float32)
    if scale is not None:
        return _stored(x, form, _checked(scale, form, scope), None)
    if scope in {"group", "block"}:
        return _in_parts(x, form, group if scope == "group" else form.block, rounding)
    steps = np.ones((1, 1), np.float32) if scope == "none" else _steps(x, form, scope)
    return _stored(x, form, steps, None)


def fake_quantize(
    values: Num[np.ndarray, "rows channels"],
    name: str,
    *,
    granularity: str | None = None,
    group: int = 128,
    scale: float | Num[np.ndarray, "..."] | None = None,
    rounding: str = "floor",
) -> Float32[np.ndarray, "rows channels"]:
    """Return the values of `quantize`, with its arguments and errors."""
    return quantize(
        values, name, granularity=granularity, group=group, scale=scale, rounding=rounding
    ).values


def int8_sqnr_db(crest: float) -> float:
    """Return the SQNR in dB of symmetric int8 for a crest factor (absmax / RMS).

    Uniform noise of step absmax / 127: 20 log10(127 sqrt(12)) - 20 log10(crest).
    """
    return float(20 * np.log10(127 * np.sqrt(12)) - 20 * np.log10(crest))


# ---- rounding ---------------------------------------------------------------------------


def _nearest(wide: Float64[np.ndarray, "..."], form: Format) -> Float64[np.ndarray, "..."]:
    """Return the nearest numbers of a format without a largest one, ties to even."""
    if form.kind == "int":
        whole: np.ndarray = np.rint(wide) + 0.0  # an integer has no -0
        return whole
    with np.errstate(invalid="ignore", over="ignore"):
        lowest = int(np.log2(form.min_normal))
        exponent = np.maximum(np.frexp(wide)[1] - 1, lowest)
        step = np.ldexp(1.0, exponent - form.mantissa_bits)
        nearest: np.ndarray = np.rint(wide / step) * step
    return nearest


def _stored(
    x: Float32[np.ndarray, "rows n"],
    form: Format,
    steps: Float32[np.ndarray, "..."],
    inverse: Float32[np.ndarray, "..."] | None,
) -> Quantized:
    """Return x / steps (or x * inverse), rounded, clamped, and multiplied by the steps."""
    element = number_format(form.element) if form.kind == "block" else form
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = x / steps if inverse is None else np.where(inverse > 0, x * inverse, x / steps)
        nearest = _nearest(scaled.astype(np.float64), element)
        numbers = np.clip(nearest, -element.max, element.max).astype(np.float32)
        values = np.clip(numbers * steps, -_LARGEST, _LARGEST)
        clipped = (np.abs(nearest) > element.max) & np.isfinite(x)
    return Quantized(values.astype(np.float32), clipped)


# ---- scales -----------------------------------------------------------------------------


def _scope(form: Format, granularity: str | None, rounding: str) -> str:
    if rounding not in ROUNDINGS:
        raise UnknownName.of("rounding", rounding, ROUNDINGS)
    scope = form.granularities[0] if granularity is None else granularity
    if scope not in GRANULARITIES:
        raise UnknownName.of("granularity", scope, GRANULARITIES)
    if scope not in form.granularities:
        raise FormatError(
            f"{form.name} has no scale by {scope}; choose from {', '.join(form.granularities)}"
        )
    return scope


def _checked(
    scale: float | Num[np.ndarray, "..."], form: Format, scope: str
) -> Float32[np.ndarray, "..."]:
    if scope in {"group", "block"}:
        raise FormatError(f"{form.name} by {scope} measures its own scales; pass no scale")
    with np.errstate(over="ignore", under="ignore"):
        steps = np.asarray(scale, np.float32)
    wrong = ~((steps > 0) & np.isfinite(steps))
    if wrong.any():
        given = np.asarray(scale)[wrong].flat[0]
        raise FormatError(f"a scale is a positive float32 number, not {given}")
    return steps


def _tops(x: Float32[np.ndarray, "rows n"], axis: int | None) -> Float32[np.ndarray, "..."]:
    """Return the largest finite |x| along an axis that stays, 0 where there is none."""
    size = np.where(np.isfinite(x), np.abs(x), np.float32(0))
    top: np.ndarray = size.max(axis=axis, keepdims=True, initial=0.0)
    return top


def _steps(
    x: Float32[np.ndarray, "rows n"], form: Format, scope: str
) -> Float32[np.ndarray, "..."]:
    """Return absmax / largest number of each scope."""
    top = _tops(x, {"tensor": None, "token": 1, "channel": 0}[scope])
    with np.errstate(under="ignore"):
        steps: np.ndarray = np.maximum(_or_one(top) / np.float32(form.max), _TINIEST)
    return steps


def _or_one(top: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Return the largest values, 1 where all is zero."""
    return np.where(top > 0, top, np.float32(1))


def _in_parts(
    x: Float32[np.ndarray, "rows channels"], form: Format, size: int, rounding: str
) -> Quantized:
    """Return the values scaled in parts of `size` channels."""
    noun = f"{form.name}'s block" if form.kind == "block" else "the group"
    if size <= 0 or x.shape[1] % size:
        raise FormatError(f"{x.shape[1]} channels are no multiple of {noun} {size}")
    rows = x.reshape(-1, size)
    inverse = None
    if form.kind != "block":
        steps = _steps(rows, form, "token")
    elif form.name == "nvfp4":
        steps, inverse = _nvfp4_steps(_tops(rows, 1))
    else:
        steps = _e8m0_steps(_tops(rows, 1), form, rounding)
    parts = _stored(rows, form, steps, inverse)
    return Quantized(parts.values.reshape(x.shape), parts.clipped.reshape(x.shape))


def _e8m0_steps(
    top: Float32[np.ndarray, "rows 1"], form: Format, rounding: str
) -> Float32[np.ndarray, "rows 1"]:
    """Return 2^(floor(log2 amax) - emax), or the power of two at or above amax / max."""
    safe = _or_one(top).astype(np.float64)
    if rounding == "floor":
        exponent = np.frexp(safe)[1] - 1 - int(np.floor(np.log2(form.max)))
    else:
        fraction, exponent = np.frexp(safe / form.max)
        exponent = np.where(fraction == 0.5, exponent - 1, exponent)
    steps: np.ndarray = np.ldexp(1.0, np.clip(exponent, -127, 127)).astype(np.float32)
    return steps


def _nvfp4_steps(
    top: Float32[np.ndarray, "rows 1"],
) -> tuple[Float32[np.ndarray, "rows 1"], Float32[np.ndarray, "rows 1"]]:
    """Return the steps of blocks and their inverses (0: divide), rounded as in torchao.

    A step is an e4m3 number, at least the smallest normal one, times the tensor's scale
    amax / (448 * 6).
    """
    top = top if top.any() else _or_one(top)
    whole = top.max(initial=np.float32(0))
    with np.errstate(under="ignore", over="ignore"):
        per_tensor = np.maximum(whole / np.float32(448.0 * 6.0), _TINIEST)
        stored = np.clip(round_to(top / np.float32(6) / per_tensor, "e4m3fn"), 2.0**-6, 448.0)
        numbers = stored.astype(np.float32)
        steps = np.maximum(numbers * per_tensor, _TINIEST)
        inverse = np.float32(1) / per_tensor / numbers
    return steps, np.where(np.isfinite(inverse), inverse, np.float32(0))
