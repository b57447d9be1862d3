"""Bit codes: the top 16 bits of a float32, as the bin of a histogram.

A code is sign, 8 exponent bits and `bits` mantissa bits (7 make a bfloat16). Fewer bits are
the same code shifted right, with two guards that keep kinds of value apart: a value other
than zero never has the code of zero, and NaN never has the code of infinity.
"""

from functools import cache

import numpy as np
from jaxtyping import Float64, Int, Int64, Num

from ffn_probe.errors import SketchError
from ffn_probe.sketches.widen import widen

MAX_BITS = 7
MIN_BITS = 1  # with none, NaN (0x7FC0) and infinity (0x7F80) would share a code

_SIGN, _INF, _NAN = 0x8000, 0x7F80, 0x7FC0
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def bit_codes(values: Num[np.ndarray, "..."], bits: int = MAX_BITS) -> Int[np.ndarray, " n"]:
    """Return the code of every value as a flat int32 array.

    Every NaN gets the one code 0x7FC0. The pattern is truncated, not rounded, so a bin is
    [lower, upper) in magnitude. Finite float64 values beyond float32 are clamped to the
    largest float32; those below its smallest subnormal count as the smallest.
    """
    flat = np.asarray(values).ravel()
    narrow = flat if flat.dtype == np.float32 else _narrowed(flat)
    pattern = np.ascontiguousarray(narrow).view(np.uint32)
    codes = (pattern >> np.uint32(16)).astype(np.int32)
    magnitude = pattern & np.uint32(0x7FFFFFFF)
    codes[(magnitude > 0) & (magnitude < 0x10000)] |= 1
    codes[magnitude > 0x7F800000] = _NAN
    return coarser(codes, MAX_BITS, bits)


def coarser(codes: Int[np.ndarray, " n"], bits: int, target: int) -> Int[np.ndarray, " n"]:
    """Return `codes` of `bits` mantissa bits at the `target` bits, zeros kept apart.

    Raises:
        SketchError: `target` is above `bits` or outside 1..7.
    """
    if not MIN_BITS <= target <= bits <= MAX_BITS:
        raise SketchError(
            f"cannot take {bits} mantissa bits to {target}; 1 <= target <= {bits} <= 7"
        )
    if target == bits:
        return codes
    shift = bits - target
    shifted = codes >> shift
    zero = _SIGN >> (MAX_BITS - target)
    lost = ((shifted & (zero - 1)) == 0) & ((codes & ((_SIGN >> (MAX_BITS - bits)) - 1)) != 0)
    kept: np.ndarray = (shifted | lost).astype(codes.dtype)
    return kept


def sign_bit(bits: int) -> int:
    """Return the sign bit of a code, which is also the number of magnitude codes."""
    return _SIGN >> (MAX_BITS - bits)


def infinity_code(bits: int) -> int:
    """Return the code of +Inf; smaller magnitude codes are finite."""
    return _INF >> (MAX_BITS - bits)


def nan_code(bits: int) -> int:
    """Return the one code of NaN."""
    return _NAN >> (MAX_BITS - bits)


@cache
def magnitude_edges(bits: int) -> Float64[np.ndarray, " edges"]:
    """Return the edges of the finite magnitude codes: code m holds [edges[m], edges[m+1]).

    Code 0 holds zero alone, and code 1 everything above zero and below edges[2]; its lower
    edge is listed as its smallest bfloat16-like number. The last edge is 2^128.
    """
    codes = np.arange(infinity_code(bits) + 1, dtype=np.uint32)
    edges = (codes << np.uint32(16 + MAX_BITS - bits)).view(np.float32).astype(np.float64)
    edges[-1] = 2.0**128
    edges.flags.writeable = False
    return edges


def canonical_dense(
    dense: Int64[np.ndarray, " codes"], bits: int
) -> Int64[np.ndarray, " codes"]:
    """Return dense counts with every NaN pattern folded into the one NaN code.

    Raises:
        SketchError: the length is not 2^(9 + bits).
    """
    half, inf = sign_bit(bits), infinity_code(bits)
    if dense.shape != (2 * half,):
        raise SketchError(f"{bits} mantissa bits need {2 * half} counts, got {dense.shape}")
    folded = dense.astype(np.int64, copy=True)
    nans = int(folded[inf + 1 : half].sum() + folded[half + inf + 1 :].sum())
    folded[inf + 1 : half] = 0
    folded[half + inf + 1 :] = 0
    folded[nan_code(bits)] = nans
    return folded


def _narrowed(values: Num[np.ndarray, " n"]) -> Num[np.ndarray, " n"]:
    """Return float32 values that keep finite values finite and other than zero."""
    wide = widen(values)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        limited = np.where(np.isinf(wide), wide, np.clip(wide, -_FLOAT32_MAX, _FLOAT32_MAX))
        narrow = limited.astype(np.float32)
    # Rounding to float32 may step over the bin's edge: truncate towards zero instead.
    over = np.abs(narrow.astype(np.float64)) > np.abs(limited)
    narrow[over] = np.nextafter(narrow[over], np.float32(0))
    vanished = (narrow == 0) & (wide != 0)
    tiny = np.copysign(np.finfo(np.float32).smallest_subnormal, wide[vanished])
    narrow[vanished] = tiny.astype(np.float32)
    return narrow
