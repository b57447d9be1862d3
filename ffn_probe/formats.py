"""Number formats and what they do to values, with explicit clamping. No torch.

`fake_quantize` returns the values that a tensor would hold after being stored in a format:
elementwise formats at a scale (one a tensor, token, channel or group), block formats (MX,
NVFP4) with the scale rule of their specification. Overflow saturates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from ffn_probe.errors import FfnProbeError, UnknownName

GRANULARITIES = ("tensor", "token", "channel", "group", "block", "none")


class FormatError(FfnProbeError):
    """A format cannot be applied to these values."""


@dataclass(frozen=True, slots=True)
class Format:
    """A set of numbers. `kind` is "int", "float" or "block".

    A block format holds elements of `element` with one scale a `block` of values; its
    other fields are those of the element. `cast` formats are used without a scale.
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
        _block("mxfp4", "e2m1", 32, "OCP MX v1.0, e8m0 scale"),
        _block("nvfp4", "e2m1", 16, "NVFP4, e4m3 scale and a float32 scale a tensor"),
    )
}
"""Every format by name."""


def number_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UnknownName: no format has it.
    """
    if name not in FORMATS:
        raise UnknownName.of("format", name, FORMATS)
    return FORMATS[name]


def round_to(values: Float[np.ndarray, "..."], name: str) -> Float[np.ndarray, "..."]:
    """Return the nearest numbers of an elementwise format (ties to even), saturated.

    NaN stays NaN; infinities become the largest number. Computed in float64.
    """
    form = number_format(name)
    if form.kind == "block":
        raise FormatError(f"{name} is a block format; use fake_quantize")
    wide = np.asarray(values, np.float64)
    if form.kind == "int":
        whole: np.ndarray = np.clip(np.rint(wide), -form.max, form.max)
        return whole
    with np.errstate(invalid="ignore", over="ignore"):
        _, exponent = np.frexp(wide)
        step = np.ldexp(
            1.0, np.maximum(exponent - 1, int(np.log2(form.min_normal))) - form.mantissa_bits
        )
        return np.clip(np.rint(wide / step) * step, -form.max, form.max)


def fake_quantize(
    values: Num[np.ndarray, "rows channels"],
    name: str,
    *,
    granularity: str = "tensor",
    group: int = 128,
    scale: float | Num[np.ndarray, "..."] | None = None,
    rounding: str = "floor",
) -> Float[np.ndarray, "rows channels"]:
    """Return the float32 values after a round trip through a format.

    Args:
        values: rows (tokens) of channels; the largest finite |x| of each scope sets its scale.
        name: a format of FORMATS.
        granularity: the scope of one scale: "tensor", "token", "channel", "group" (along
            channels), or "none" (fp16 and bf16 always).
        group: channels a group.
        scale: a fixed scale instead of the measured one; an array broadcasts over the values.
        rounding: of a block's power-of-two scale, "floor" (OCP) or "ceil" (RCEIL).

    Raises:
        UnknownName: the format or granularity is unknown.
        FormatError: the channels are no multiple of the block or group.
    """
    form = number_format(name)
    x = np.asarray(values, np.float32)
    if form.kind == "block":
        return _blocked(x, form, rounding)
    if form.cast or granularity == "none":
        return round_to(x, name).astype(np.float32)
    if granularity not in GRANULARITIES:
        raise UnknownName.of("granularity", granularity, GRANULARITIES)
    if granularity == "group":
        return _grouped(x, form, group)
    steps = np.asarray(scale, np.float32) if scale is not None else _scales(x, form, granularity)
    return (round_to((x / steps).astype(np.float32), name).astype(np.float32) * steps).astype(
        np.float32
    )


def int8_sqnr_db(crest: float) -> float:
    """Return the SQNR in dB of symmetric int8 for a crest factor (absmax / RMS).

    Uniform noise of step absmax / 127: 20 log10(127 sqrt(12)) - 20 log10(crest).
    """
    return float(20 * np.log10(127 * np.sqrt(12)) - 20 * np.log10(crest))


def _scales(x: np.ndarray, form: Format, granularity: str) -> np.ndarray:
    axis = {"tensor": None, "token": 1, "channel": 0}[granularity]
    size = np.where(np.isfinite(x), np.abs(x), np.float32(0))
    if size.size == 0:
        return np.ones((1, 1), np.float32)
    top = size.max(axis=axis, keepdims=True).astype(np.float32)
    return np.where(top > 0, top / np.float32(form.max), np.float32(1)).astype(np.float32)


def _grouped(x: np.ndarray, form: Format, group: int) -> np.ndarray:
    if group <= 0 or x.shape[1] % group:
        raise FormatError(f"{x.shape[1]} channels are no multiple of the group {group}")
    rows = x.reshape(-1, group)
    steps = _scales(rows, form, "token")
    out = round_to((rows / steps).astype(np.float32), form.name).astype(np.float32) * steps
    return out.reshape(x.shape).astype(np.float32)


def _blocked(x: np.ndarray, form: Format, rounding: str) -> np.ndarray:
    if rounding not in {"floor", "ceil"}:
        raise UnknownName.of("rounding", rounding, ("floor", "ceil"))
    if x.shape[1] % form.block:
        raise FormatError(
            f"{x.shape[1]} channels are no multiple of {form.name}'s block {form.block}"
        )
    rows = x.reshape(-1, form.block)
    top = np.where(np.isfinite(rows), np.abs(rows), np.float32(0)).max(axis=1, keepdims=True)
    steps = _nvfp4_scales(top) if form.name == "nvfp4" else _e8m0_scales(top, form, rounding)
    out = round_to((rows / steps).astype(np.float32), form.element).astype(np.float32) * steps
    return out.reshape(x.shape).astype(np.float32)


def _e8m0_scales(top: np.ndarray, form: Format, rounding: str) -> np.ndarray:
    """Return 2^(floor(log2 amax) - emax), or the power of two at or above amax / max."""
    safe = np.where(top > 0, top, np.float32(1)).astype(np.float64)
    if rounding == "floor":
        exponent = np.frexp(safe)[1] - 1 - int(np.floor(np.log2(form.max)))
    else:
        fraction, exponent = np.frexp(safe / form.max)
        exponent = np.where(fraction == 0.5, exponent - 1, exponent)
    return np.ldexp(1.0, np.clip(exponent, -127, 127)).astype(np.float32)


def _nvfp4_scales(top: np.ndarray) -> np.ndarray:
    """Return e4m3 scales of blocks times the tensor's scale amax / (448 * 6)."""
    whole = float(top.max()) if top.size else 0.0
    per_tensor = np.float32(whole / (448.0 * 6.0)) if whole > 0 else np.float32(1)
    raw = (top / np.float32(6.0) / per_tensor).astype(np.float32)
    low = np.float32(2.0**-9)
    stored = np.clip(round_to(raw, "e4m3fn"), low, 448.0).astype(np.float32)
    return (stored * per_tensor).astype(np.float32)
