"""Compiled loops that read a tensor once on the CPU, for sites without experts.

`read_rows` reads a tensor into a scratch; `settled`, `merged` and `keep_top` add the scratch to
the running state. They do what the plain torch code of `accumulate.py` does (the tests run
both). bfloat16 and float16 are read as 16-bit patterns, never copied to float32 as a whole. One
thread: beside torch's own, which keep their cores busy for a while after each operation, a
second one made it slower.

Where numba cannot be imported, `COMPILED` is False and nothing here should be called.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ffn_probe.sketches.joint import JOINT_BINS


def _found() -> Any:
    try:
        from numba import njit
    except ImportError:  # not on this platform yet: plain torch does the work
        return None
    return njit


njit = _found()
COMPILED = njit is not None
"""Whether the kernels are machine code."""

FULL, BRAIN, HALF = 0, 1, 2
"""float32, bfloat16, float16."""

_LANES = 64
_TINY, _NAN, _INF = 1, 0x7FC0, 0x7F800000
_MAGNITUDE = 0x7FFFFFFF
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def _compiled(function: Kernel) -> Kernel:
    """Return the function compiled; as it is where numba is missing."""
    if njit is None:
        return function
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
    plain = inspect.unwrap(function)
    try:
        return njit(plain, cache=True, **options)  # type: ignore[no-any-return]
    except RuntimeError:  # nowhere to keep the machine code
        return njit(plain, **options)  # type: ignore[no-any-return]


def _peak(row: Any, mask: Any, lanes: Any) -> Any:
    """Return the largest magnitude pattern of a row; `mask` takes the sign away."""
    lanes[:] = 0
    whole = row.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        part = row[start : start + _LANES]
        for i in range(_LANES):  # a fixed number of steps, in the width of the pattern
            size = part[i] & mask
            lanes[i] = size if size > lanes[i] else lanes[i]
    peak = np.int32(0)
    for i in range(_LANES):
        peak = max(peak, np.int32(lanes[i]))
    for i in range(whole, row.size):
        peak = max(peak, np.int32(row[i] & mask))
    return peak


def _range(row: Any, mask: Any, top: Any, bottom: Any) -> None:
    """Raise `top` and lower `bottom` to the row's patterns, mapped to ascending integers."""
    for j in range(row.size):
        x = row[j]
        key = x ^ (mask if x < 0 else 0)
        top[j] = key if key > top[j] else top[j]
        bottom[j] = key if key < bottom[j] else bottom[j]


def _spoilt(row: Any, mask: Any, limit: Any, top: Any, bottom: Any, special: Any) -> Any:
    """Count NaN and Inf of a row, take the range of the rest; return its peak, -1 for none."""
    peak = np.int32(-1)
    for j in range(row.size):
        x = np.int32(row[j])
        size = np.int32(x & mask)
        if size > limit:
            special[0] += 1
        elif size == limit:
            special[2 if x < 0 else 1] += 1
        else:
            key = np.int32(x ^ mask) if x < 0 else x
            top[j] = max(np.int32(top[j]), key)
            bottom[j] = min(np.int32(bottom[j]), key)
            peak = max(peak, size)
    return peak


def _codes(bits: Any, codes: Any) -> None:
    """Write the 16-bit code of each float32 pattern (the twin of codes.codes_of)."""
    for j in range(bits.size):
        size = np.int32(bits[j] & np.int32(_MAGNITUDE))
        high = max(np.int32(size >> 16), min(size, np.int32(_TINY)))
        high = np.int32(_NAN) if size > np.int32(_INF) else high
        codes[j] = np.uint16(high | np.int32((bits[j] >> 16) & np.int32(0x8000)))


def _moments(x: Any, pivot: Any, centre: Any, sums: Any, powers: Any) -> Any:
    """Add a finite row to the channel sums and the power sums; return its mean and std."""
    n = x.size
    total = 0.0
    for j in range(n):
        v = np.float64(x[j])
        d = v - pivot[j]
        sums[0, j] += d
        sums[1, j] += d * d
        total += v
    mean = total / n
    spread, p1, p2, p3, p4 = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(n):
        v = np.float64(x[j])
        e = v - mean
        spread += e * e
        d = v - centre
        d2 = d * d
        p1 += d
        p2 += d2
        p3 += d2 * d
        p4 += d2 * d2
    powers[0] += n
    powers[1] += p1
    powers[2] += p2
    powers[3] += p3
    powers[4] += p4
    return mean, np.sqrt(spread / n)


def _holey_moments(x: Any, pivot: Any, centre: Any, sums: Any, powers: Any, absent: Any) -> Any:
    """Add the finite values of a row; return its mean and std."""
    n, total = 0, 0.0
    for j in range(x.size):
        v = np.float64(x[j])
        if not np.isfinite(v):
            absent[j] += 1
            continue
        n += 1
        d = v - pivot[j]
        sums[0, j] += d
        sums[1, j] += d * d
        total += v
        e = v - centre
        powers[1] += e
        powers[2] += e * e
        powers[3] += e * e * e
        powers[4] += e * e * e * e
    powers[0] += n
    mean, spread = total / n, 0.0
    for j in range(x.size):
        v = np.float64(x[j])
        if np.isfinite(v):
            spread += (v - mean) ** 2
    return mean, np.sqrt(spread / n)


def _read_rows(  # noqa: PLR0913, PLR0917 - one pass fills all of it
    flat: Any,
    stride: int,
    mask: Any,
    limit: Any,
    peaks: Any,
    top: Any,
    bottom: Any,
    special: Any,
    sample: Any,
    pivot: Any,
    centre: float,
    shapes: Any,
    sums: Any,
    powers: Any,
    active: Any,
    absent: Any,
    histogram: Any,
) -> None:
    """Read all rows once, and the `sample` of them closely, into a scratch.

    Shapes:
        flat: int16 or int32 patterns; row i begins at i * stride.
        mask, limit: of the magnitude; the pattern of infinity.
        peaks: [rows] out: the largest finite magnitude pattern, -1 for none.
        top, bottom: [channels] out: largest and smallest pattern as ascending integers.
        special: [3] out: NaN, +Inf, -Inf.
        sample: ordinals of the sampled rows, ascending, which are bfloat16 or float32.
        pivot, centre: [channels] what channel sums are about; what power sums are about.
        shapes: [sampled, 2] out: mean and standard deviation of each sampled row.
        sums: [2, channels] out: sums of d and d^2.
        powers: [5] out: count and sums of d..d^4.
        active, absent: [channels] out: values that are not zero; that are not finite.
        histogram: [65536] out: counts of the sampled codes.
    """
    width = pivot.size
    lanes = np.zeros(_LANES, flat.dtype)
    bits = np.empty(width, np.int32)
    x = bits.view(np.float32)
    codes = np.empty(width, np.uint16)
    brain = flat.itemsize == 2
    k = 0
    for i in range(peaks.size):
        row = flat[i * stride : i * stride + width]
        peak = peak_of(row, mask, lanes)
        whole = peak < limit
        if whole:
            range_of(row, mask, top, bottom)
        else:
            peak = spoilt(row, mask, limit, top, bottom, special)
        peaks[i] = peak
        if k == sample.size or sample[k] != i:
            continue
        for j in range(width):
            bits[j] = np.int32(row[j]) << (16 if brain else 0)
        if brain and whole:  # the pattern is the code
            for j in range(width):
                histogram[np.uint16(row[j])] += 1
        else:
            codes_of(bits, codes)
            for j in range(width):
                histogram[codes[j]] += 1
        for j in range(width):
            size = np.int32(bits[j] & np.int32(_MAGNITUDE))
            active[j] += (size != 0) & (size < np.int32(_INF))
        if whole:
            mean, std = moments(x, pivot, centre, sums, powers)
        else:
            mean, std = holey_moments(x, pivot, centre, sums, powers, absent)
        shapes[k, 0] = mean
        shapes[k, 1] = std
        k += 1


def _as_float(bits: Any, kind: int) -> Any:
    """Return the value of a finite pattern of float32 (0), bfloat16 (1) or float16 (2)."""
    if kind == HALF:
        size = np.int64(bits) & 0x7FFF
        exponent, fraction = int(size >> 10), size & 0x3FF
        value = float(fraction) if exponent == 0 else float(1024 + fraction)
        value *= 2.0 ** (max(exponent, 1) - 25)
        return -value if bits < 0 else value
    word = np.empty(1, np.int32)
    word[0] = np.int32(bits) << (16 if kind == BRAIN else 0)
    return np.float64(word.view(np.float32)[0])


def _count(values: Any, counts: Any, bits: int) -> None:
    """Count float32 values in a histogram of `bits` mantissa bits."""
    codes = np.empty(values.size, np.uint16)
    codes_of(values.view(np.int32), codes)
    for i in range(codes.size):
        counts[coarse_of(np.int64(codes[i]), bits)] += 1


def _coarse(code: Any, bits: int) -> Any:
    """Return a 16-bit code at fewer mantissa bits; what is not zero stays apart from zero."""
    coarse = code >> (7 - bits)
    tiny = (coarse & ((1 << (8 + bits)) - 1)) == 0 and (code & 0x7FFF) != 0
    return coarse | 1 if tiny else coarse


def _merged(histogram: Any, bits: int, whole: Any, fold: Any, fold_bits: int) -> None:
    """Add counts of 16-bit codes to histograms of `bits` and of `fold_bits`."""
    for code in range(histogram.size):
        n = histogram[code]
        if n:
            whole[coarse_of(code, bits)] += n
            fold[coarse_of(code, fold_bits)] += n


def _settled(  # noqa: PLR0913, PLR0917 - the scratch of `read_rows` and where it goes
    kind: int,
    mask: Any,
    peaks: Any,
    top: Any,
    bottom: Any,
    shapes: Any,
    sums: Any,
    active: Any,
    absent: Any,
    least: Any,
    most: Any,
    channel_absmax: Any,
    channel_count: Any,
    channel_active: Any,
    channel_sums: Any,
    tokens: Any,
    fold_bits: int,
) -> None:
    """Add a scratch of `read_rows` to the state of a site.

    Shapes:
        kind: FULL, BRAIN or HALF.
        mask, peaks, top, bottom, shapes, sums, active, absent: as `read_rows` left them.
        least, most: [1] smallest and largest value of the fold.
        channel_absmax, channel_count, channel_active, channel_sums: [channels] the state.
        tokens: [3, codes] histograms of absmax, RMS and |mean| / std of the rows.
        fold_bits: mantissa bits of `tokens`.
    """
    for j in range(top.size):
        if top[j] < bottom[j]:  # no finite value
            continue
        for key in (top[j], bottom[j]):
            value = as_float(key ^ (mask if key < 0 else 0), kind)
            least[0] = min(least[0], value)
            most[0] = max(most[0], value)
            channel_absmax[j] = max(channel_absmax[j], np.float32(abs(value)))
    words = np.empty(peaks.size, np.int32)
    sizes = words.view(np.float32)
    shift = 16 if kind == BRAIN else 0
    for i in range(peaks.size):
        if kind == HALF and peaks[i] >= 0:
            sizes[i] = as_float(peaks[i], kind)
        else:
            words[i] = peaks[i] << shift if peaks[i] >= 0 else np.int32(_NAN << 16)
    count(sizes, tokens[0], fold_bits)
    rms = np.empty(shapes.shape[0], np.float32)
    ratio = np.empty(shapes.shape[0], np.float32)
    for k in range(rms.size):
        mean, std = shapes[k, 0], shapes[k, 1]
        rms[k] = np.sqrt(mean * mean + std * std)
        ratio[k] = abs(mean) / std
    count(rms, tokens[1], fold_bits)
    count(ratio, tokens[2], fold_bits)
    for j in range(top.size):
        channel_count[j] += shapes.shape[0] - absent[j]
        channel_active[j] += active[j]
        channel_sums[0, j] += sums[0, j]
        channel_sums[1, j] += sums[1, j]


def _keep_top(  # noqa: PLR0913, PLR0917 - rows as `read_rows` has them, and where they go
    flat: Any,
    stride: int,
    width: int,
    kind: int,
    mask: Any,
    limit: Any,
    index: Any,
    least: int,
    address: Any,
    step: int,
    top: Any,
    where: Any,
) -> None:
    """Keep the values with the largest magnitudes, descending.

    Shapes:
        flat, stride, width, kind, mask, limit: as for `read_rows` and `settled`.
        index: [k] the rows that may hold some of them.
        least: no magnitude pattern below this is one of them.
        address: [k, 3] sequence, position and token of each of these rows.
        step: the step that they belong to.
        top, where: [n], [n, 5] kept so far: value; step, sequence, position, token, channel.
    """
    last = top.size - 1
    for i in range(index.size):
        for j in range(width):
            x = flat[index[i] * stride + j]
            size = np.int32(x & mask)
            if size < least or size >= limit or size == 0:
                continue
            value = as_float(x, kind)
            if abs(value) <= abs(top[last]):
                continue
            k = last
            while k > 0 and abs(value) > abs(top[k - 1]):
                top[k] = top[k - 1]
                where[k] = where[k - 1]
                k -= 1
            top[k] = value
            where[k, 0] = step
            where[k, 1:4] = address[i]
            where[k, 4] = j


def _bin_of(value: Any, bits: Any) -> Any:
    below = value < 0
    exponent = int(((bits & np.int32(_MAGNITUDE)) - np.int32(below)) >> 23) - 127
    exponent = min(max(exponent, -13), 10)
    return 10 - exponent if below else 37 + exponent


def _joined(gate: Any, value: Any, act: Any, pivot: Any, sums: Any, grid: Any) -> None:
    """Add rows of gate, value and gate_act to the co-moments (the twin of pairs.Pairs).

    Shapes:
        gate, value, act: [rows, neurons] float32.
        pivot: [3, neurons] what the moments are about.
        sums: [10, neurons] in the order of pairs._SUMS.
        grid: [bins * bins] counts of (gate, value).
    """
    gate_bits, value_bits = gate.view(np.int32), value.view(np.int32)
    for i in range(gate.shape[0]):
        for j in range(gate.shape[1]):
            g, u, a = np.float64(gate[i, j]), np.float64(value[i, j]), np.float64(act[i, j])
            h = a * u
            if not (np.isfinite(g) and np.isfinite(u) and np.isfinite(a) and np.isfinite(h)):
                continue
            dg, du, da = g - pivot[0, j], u - pivot[1, j], a - pivot[2, j]
            sums[0, j] += 1.0
            sums[1, j] += dg
            sums[2, j] += du
            sums[3, j] += da
            sums[4, j] += h
            sums[5, j] += dg * dg
            sums[6, j] += du * du
            sums[7, j] += dg * du
            sums[8, j] += da * da
            sums[9, j] += da * du
            row = bin_of(gate[i, j], gate_bits[i, j])
            grid[row * JOINT_BINS + bin_of(value[i, j], value_bits[i, j])] += 1


peak_of = _compiled(_peak)
range_of = _compiled(_range)
spoilt = _compiled(_spoilt)
codes_of = _compiled(_codes)
as_float = _compiled(_as_float)
coarse_of = _compiled(_coarse)
count = _compiled(_count)
moments = _compiled(_moments)
holey_moments = _compiled(_holey_moments)
bin_of = _compiled(_bin_of)
read_rows = _compiled(_read_rows)
settled = _compiled(_settled)
merged = _compiled(_merged)
keep_top = _compiled(_keep_top)
joined = _compiled(_joined)
