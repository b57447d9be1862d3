"""FirstStep: whether a training's first optimizer step is still to come.

Until `Probe.step` is called for the first time nobody knows whether forwards are steps or parts
of one (gradient accumulation). As long as gradients are wanted and no weight has changed, they
may be parts of the first.
"""

import torch
from torch import nn

_MOST = 16
"""Windows full of forwards that are waited for at most."""


class FirstStep:
    """The weights of a model, as they are before the first step."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = self._versions()

    def may_run(self, forwards: int, window: int) -> bool:
        """Return whether so many forwards may still be parts of the first step."""
        wanted = self._model.training and torch.is_grad_enabled()
        return wanted and forwards < _MOST * window and self._versions() == self._before

    def _versions(self) -> int:
        """Return how often the weights that are trained were written to, in all."""
        trained = (p for p in self._model.parameters() if p.requires_grad)
        return sum(p._version for p in trained if not p.is_inference())  # noqa: SLF001 - no other
