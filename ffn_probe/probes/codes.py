"""bfloat16 bit patterns of tensors, counted on the device (the twin of sketches.bit_codes)."""

import torch
from torch import Tensor


def codes_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bfloat16-pattern code (0..65535) of each value, and its magnitude part."""
    if values.dtype == torch.bfloat16:
        code = values.view(torch.int16).int()
        # One pattern for every NaN: at fewer bits some would read as infinity.
        top = torch.where((code & 0x7FFF) > 0x7F80, 0x7FC0, code & 0x7FFF)
        return top | (code & 0x8000), top
    bits = values.float().view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    top = torch.maximum(magnitude >> 16, magnitude.clamp(max=1))
    # A NaN whose payload is in the low bits must not read as infinity.
    top = torch.where(magnitude > 0x7F800000, 0x7FC0, top)
    return top | ((bits >> 16) & 0x8000), top


def counted(index: Tensor, size: int) -> Tensor:
    """Return how often each of 0..size-1 occurs, as int64."""
    if index.device.type == "cpu":
        return torch.bincount(index, minlength=size)
    counts = torch.zeros(size, dtype=torch.int64, device=index.device)
    return counts.index_add_(0, index.long(), torch.ones_like(index, dtype=torch.int64))


def count_codes(codes: Tensor, bits: int, groups: int, labels: Tensor | None) -> Tensor:
    """Return the codes' histogram per group at `bits`: [groups, 2^(9+bits)].

    Args:
        codes: [rows] or [rows, channels], of `codes_of`.
        bits: mantissa bits to keep.
        groups: number of groups; a row labelled `groups` is dropped.
        labels: [rows] group of each row, None when there is one group.
    """
    coarse = codes >> (7 - bits)
    tiny = ((coarse & ((1 << (8 + bits)) - 1)) == 0) & ((codes & 0x7FFF) != 0)
    coarse = torch.where(tiny, coarse | 1, coarse)
    size = 1 << (9 + bits)
    if labels is None:
        return counted(coarse.flatten(), size).view(1, size)
    offset = labels if codes.dim() == 1 else labels[:, None]
    index = (offset * size + coarse).flatten()
    return counted(index, (groups + 1) * size).view(-1, size)[:groups]


def coarsened(counts: Tensor, bits: int, target: int) -> Tensor:
    """Return [groups, 2^(9+bits)] counts at fewer mantissa bits, zeros kept apart."""
    if bits == target:
        return counts
    step = 1 << (bits - target)
    out = counts.view(counts.shape[0], -1, step).sum(-1)
    half = out.shape[1] // 2
    for sign in (0, 1):
        lost = counts[:, sign * half * step + 1 : sign * half * step + step].sum(-1)
        out[:, sign * half] -= lost
        out[:, sign * half + 1] += lost
    return out
