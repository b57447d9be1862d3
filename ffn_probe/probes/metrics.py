"""Numbers that a training hands over as tensors, read when nothing waits for them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ffn_probe.errors import AttachError


def kept(metrics: Mapping[str, float | Tensor]) -> dict[str, float | Tensor]:
    """Return metrics as they are kept until the window ends: tensors detached, not read.

    Raises:
        AttachError: one is a tensor of several elements.
    """
    for name, value in metrics.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise AttachError(
                f"{name} is a tensor of the shape {tuple(value.shape)}; a metric is one number"
            )
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else float(value)
        for name, value in metrics.items()
    }


def read_numbers(values: Sequence[float | Tensor]) -> list[float]:
    """Return numbers that may be tensors of one element, one copy for each device and dtype."""
    found = [0.0 if isinstance(value, Tensor) else value for value in values]
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            groups.setdefault((value.device, value.dtype), []).append(i)
    for places in groups.values():
        together = torch.stack([values[i].reshape(()) for i in places])  # type: ignore[union-attr]
        for i, number in zip(places, together.cpu().double().tolist(), strict=True):
            found[i] = number
    return found
