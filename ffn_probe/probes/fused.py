"""Feed the state of a dense site on the CPU through the compiled kernels.

Nothing here changes a tensor of the model; the state is that of an Accumulator, seen through
numpy. Where the kernels are missing, `usable` says so and the plain torch code does the work.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ffn_probe.probes import kernels
from ffn_probe.probes.address import Address
from ffn_probe.probes.state_sketches import FOLD_BITS, TOP_K

SWITCH = "FFN_PROBE_KERNELS"
"""Environment variable; "torch" turns the compiled kernels off."""

_PIVOT_ROWS = 32
State = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class _Kind:
    code: int
    pattern: torch.dtype
    mask: np.integer
    infinity: np.integer


_FULL = _Kind(kernels.FULL, torch.int32, np.int32(0x7FFFFFFF), np.int32(0x7F800000))
_KINDS: Mapping[torch.dtype, _Kind] = {
    torch.float32: _FULL,
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
    scratch = _Scratch.of(chosen.size, rows.shape[1])
    if kind.code == kernels.HALF:
        peaks, top, bottom, special = _read(rows, kind, chosen[:0], state, scratch)
        few = rows[torch.from_numpy(chosen)].float()
        _read(few, _FULL, np.arange(chosen.size), state, scratch)
    else:
        peaks, top, bottom, special = _read(rows, kind, chosen, state, scratch)
    kernels.settled(
        kind.code, kind.mask, peaks, top, bottom,
        scratch.shapes, scratch.sums, scratch.active, scratch.absent,
        fold["low"], fold["high"], state["channel_absmax"][half, 0],
        state["channel_count"][half, 0], state["channel_active"][half, 0],
        state["channel_sums"][half, 0], fold["tokens"][0], FOLD_BITS,
    )  # fmt: skip
    kernels.merged(
        scratch.histogram, bits, state["histogram"][0], fold["histogram"][0], FOLD_BITS
    )
    fold["powers"][0] += scratch.powers
    fold["special"][0] += special
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
    """What `kernels.read_rows` learns of the sampled rows."""

    shapes: np.ndarray
    sums: np.ndarray
    powers: np.ndarray
    active: np.ndarray
    absent: np.ndarray
    histogram: np.ndarray

    @classmethod
    def of(cls, sampled: int, width: int) -> "_Scratch":
        """Return an empty one."""
        return cls(
            shapes=np.empty((sampled, 2)),
            sums=np.zeros((2, width)),
            powers=np.zeros(5),
            active=np.zeros(width, np.int32),
            absent=np.zeros(width, np.int32),
            histogram=np.zeros(1 << 16, np.int32),
        )


def _read(
    rows: Tensor, kind: _Kind, sample: np.ndarray, state: State, scratch: _Scratch
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fill the scratch from the sampled rows; return peaks, top, bottom, special of all."""
    (count, width), pivot = rows.shape, state["pivot"][0]
    flat, stride = _flat(rows, kind)
    peaks, special = np.empty(count, np.int32), np.zeros(3, np.int64)
    limits = np.iinfo(flat.dtype)
    top = np.full(width, limits.min, flat.dtype)
    bottom = np.full(width, limits.max, flat.dtype)
    kernels.read_rows(
        flat, stride, kind.mask, kind.infinity, peaks, top, bottom, special,
        sample, pivot, float(pivot.mean()), scratch.shapes, scratch.sums, scratch.powers,
        scratch.active, scratch.absent, scratch.histogram,
    )  # fmt: skip
    return peaks, top, bottom, special


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
