"""Feed the state of a dense site on the CPU through the compiled kernels, on torch's threads.

Nothing here changes a tensor of the model; the state is that of an Accumulator, seen through
numpy. Where the kernels are missing, `usable` says so and the plain torch code does the work.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ffn_probe.probes import kernels
from ffn_probe.probes.address import Address
from ffn_probe.probes.state_sketches import FOLD_BITS, TOP_K

SWITCH = "FFN_PROBE_KERNELS"
"""Environment variable; "torch" turns the compiled kernels off."""

_WORTH_A_THREAD = 1 << 18  # values; below, handing work over costs more than it saves
_PIVOT_ROWS = 32
State = Mapping[str, np.ndarray]
Work = Callable[[int, int], tuple[int, int, "_Scratch"]]


@dataclass(frozen=True, slots=True)
class _Kind:
    code: int
    pattern: torch.dtype
    mask: np.integer
    infinity: np.integer


_KINDS: Mapping[torch.dtype, _Kind] = {
    torch.float32: _Kind(kernels.FULL, torch.int32, np.int32(0x7FFFFFFF), np.int32(0x7F800000)),
    torch.bfloat16: _Kind(kernels.BRAIN, torch.int16, np.int16(0x7FFF), np.int32(0x7F80)),
    torch.float16: _Kind(kernels.HALF, torch.int16, np.int16(0x7FFF), np.int32(0x7C00)),
}


def usable(device: torch.device) -> bool:
    """Return whether the compiled kernels can feed a state on this device."""
    return device.type == "cpu" and kernels.COMPILED and os.environ.get(SWITCH, "") != "torch"


def fold_in(
    rows: Tensor, at: Address, sample: Tensor | None, bits: int, state: State, fold: State
) -> None:
    """Add rows to the state of one site, as `Accumulator.add` does.

    Args:
        rows: [rows, channels] float32, bfloat16 or float16, on the CPU.
        at: step, fold and address of the rows.
        sample: ordinals of the sampled rows, ascending; None for all.
        bits: mantissa bits of the window's histogram.
        state: the state of the window; its pivot is set.
        fold: the state of the fold.
    """
    kind, half = _KINDS[rows.dtype], at.fold % 2
    chosen = np.arange(rows.shape[0]) if sample is None else sample.numpy()
    peaks = np.empty(rows.shape[0], np.int32)
    work = partial(_read, rows, kind, chosen, peaks, state["pivot"][0])
    for low, high, scratch in _shared(work, *rows.shape):
        kernels.settled(
            kind.code, kind.mask, low, high, peaks,
            scratch.top, scratch.bottom, scratch.shapes, scratch.sums, scratch.active,
            scratch.absent,
            fold["low"], fold["high"], state["channel_absmax"][half, 0],
            state["channel_count"][half, 0], state["channel_active"][half, 0],
            state["channel_sums"][half, 0], fold["tokens"][0], FOLD_BITS,
        )  # fmt: skip
        kernels.merged(
            scratch.histogram, bits, state["histogram"][0], fold["histogram"][0], FOLD_BITS
        )
        fold["powers"][0] += scratch.powers
        fold["special"][0] += scratch.special
    fold["seen"][0] += rows.shape[0]
    fold["sampled"][0] += chosen.size
    _keep_top(rows, kind, peaks, at, fold)


def first_pivot(rows: Tensor, sample: Tensor | None) -> np.ndarray:
    """Return the mean of each channel over the finite values of some of the sampled rows.

    Sums about any point near the mean keep their precision.
    """
    chosen = torch.arange(rows.shape[0]) if sample is None else sample
    values = rows[chosen[:: max(1, chosen.numel() // _PIVOT_ROWS)]].double()
    finite = values.isfinite()
    total = torch.where(finite, values, 0.0).sum(0)
    mean: np.ndarray = (total / finite.sum(0).clamp(min=1)).numpy()
    return mean


@dataclass(frozen=True, slots=True)
class _Scratch:
    """What `kernels.part` leaves of a stretch of rows."""

    top: np.ndarray
    bottom: np.ndarray
    special: np.ndarray
    shapes: np.ndarray
    sums: np.ndarray
    powers: np.ndarray
    active: np.ndarray
    absent: np.ndarray
    histogram: np.ndarray


def _read(
    rows: Tensor,
    kind: _Kind,
    chosen: np.ndarray,
    peaks: np.ndarray,
    pivot: np.ndarray,
    low: int,
    high: int,
) -> tuple[int, int, _Scratch]:
    width = rows.shape[1]
    flat, stride = _flat(rows, kind)
    mine = chosen[np.searchsorted(chosen, low) : np.searchsorted(chosen, high)]
    least, most = np.iinfo(flat.dtype).min, np.iinfo(flat.dtype).max
    scratch = _Scratch(
        top=np.full(width, least, flat.dtype),
        bottom=np.full(width, most, flat.dtype),
        special=np.zeros(3, np.int64),
        shapes=np.empty((mine.size, 2)),
        sums=np.zeros((2, width)),
        powers=np.zeros(5),
        active=np.zeros(width, np.int32),
        absent=np.zeros(width, np.int32),
        histogram=np.zeros(1 << 16, np.int32),
    )

    def part(
        flat: np.ndarray, stride: int, kind: _Kind, low: int, high: int, sample: np.ndarray
    ) -> None:
        kernels.part(
            flat, stride, low, high, kind.mask, kind.infinity, peaks,
            scratch.top, scratch.bottom, scratch.special,
            sample, pivot, float(pivot.mean()), scratch.shapes, scratch.sums, scratch.powers,
            scratch.active, scratch.absent, scratch.histogram,
        )  # fmt: skip

    if kind.code != kernels.HALF:
        part(flat, stride, kind, low, high, mine)
        return low, high, scratch
    part(flat, stride, kind, low, high, mine[:0])
    if mine.size:
        full = _KINDS[torch.float32]
        values = rows[torch.from_numpy(mine)].float()
        part(*_flat(values, full), full, 0, 0, np.arange(mine.size))
    return low, high, scratch


def _flat(rows: Tensor, kind: _Kind) -> tuple[np.ndarray, int]:
    """Return the patterns of the rows in one row of memory, and where each row begins."""
    count, width = rows.shape
    stride = rows.stride(0) if count > 1 else width
    if rows.stride(1) != 1 or stride < width:
        rows, stride = rows.contiguous(), width
    flat = rows.as_strided(((count - 1) * stride + width,), (1,))
    return flat.view(kind.pattern).numpy(), stride


def _keep_top(rows: Tensor, kind: _Kind, peaks: np.ndarray, at: Address, fold: State) -> None:
    """Keep the largest values: the k largest lie in the k rows with the largest absmax."""
    k = min(TOP_K, peaks.size)
    index = np.sort(np.argpartition(peaks, peaks.size - k)[peaks.size - k :])
    address = np.full((k, 3), -1, np.int64)
    for i, of in enumerate((at.sequence, at.position, at.token)):
        if of is not None:
            address[:, i] = of.numpy()[index]
    flat, stride = _flat(rows, kind)
    kernels.keep_top(
        flat, stride, rows.shape[1], kind.code, kind.mask, kind.infinity,
        index, int(peaks[index].min()) if k == TOP_K else 0,
        address, at.step, fold["top"][0], fold["top_where"][0],
    )  # fmt: skip


# ---- threads ----------------------------------------------------------------------------

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)


def _shared(work: Work, count: int, width: int) -> list[tuple[int, int, "_Scratch"]]:
    """Run `work(low, high)` over the rows on as many threads as torch uses."""
    threads = min(torch.get_num_threads(), max(count * width // _WORTH_A_THREAD, 1), count)
    if threads == 1:
        return [work(0, count)]
    cuts = [count * i // threads for i in range(threads + 1)]
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools[threads] = ThreadPoolExecutor(threads - 1, "ffn_probe")
    others = [pool.submit(work, *cuts[i : i + 2]) for i in range(1, threads)]
    return [work(*cuts[:2]), *(other.result() for other in others)]
