"""LossScale: what a loss was multiplied by before its backward, so that gradients are true.

Under mixed precision the loss is scaled so that small gradients survive in float16, and the
gradients that flow through the blocks are scaled with it. They are divided where they are
seen, by the scale of that very backward, in float32 and without waiting for the device.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ffn_probe.errors import AttachError

Scaler = Any
"""A torch.amp.GradScaler (or one that has its `scale`), a number, or a callable for one."""


class LossScale:
    """The scale of each backward.

    Args:
        scaler: a GradScaler, a number, or a callable that returns the scale (a number or a
            tensor of one element), called once a backward.

    Raises:
        AttachError: it is none of these, or a number that no loss is multiplied by.
    """

    def __init__(self, scaler: Scaler) -> None:
        self._read = _reader(scaler)
        self._known: tuple[int, dict[torch.device, Tensor]] = (-1, {})

    def unscaled(self, gradient: Tensor) -> Tensor:
        """Return a gradient of the backward that runs, as of the loss itself."""
        task = torch._C._current_graph_task_id()
        if self._known[0] != task or task < 0:
            self._known = (task, {})
        scales = self._known[1]
        if gradient.device not in scales:
            scales[gradient.device] = self._read(gradient.device)
        wide = gradient if gradient.dtype == torch.float64 else gradient.float()
        return wide / scales[gradient.device]


def _reader(scaler: Scaler) -> Callable[[torch.device], Tensor]:
    if callable(getattr(scaler, "scale", None)):
        return lambda device: _of_scaler(scaler, device)
    if callable(scaler):
        return lambda device: torch.as_tensor(scaler(), dtype=torch.float32, device=device)
    if isinstance(scaler, int | float) and not isinstance(scaler, bool) and 0 < scaler < 1e38:
        return lambda device: torch.tensor(float(scaler), device=device)
    raise AttachError(
        f"scaler is {scaler!r}; expected a torch.amp.GradScaler, a number above zero, or a "
        "callable that returns what the loss of this backward was multiplied by"
    )


def _of_scaler(scaler: Scaler, device: torch.device) -> Tensor:
    """Return the scale of a GradScaler: what it makes of one. `get_scale` would wait."""
    one = torch.ones((), device=device)
    if getattr(scaler, "_scale", one) is None:  # no loss was scaled yet: not this one either
        return one
    scale: Tensor = scaler.scale(one)
    return scale
