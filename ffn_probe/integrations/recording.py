"""Recording: a probe that callbacks open, step and close, whatever becomes of the training."""

import os
import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ffn_probe.errors import FfnProbeError
from ffn_probe.probes import Probe, attach


class Recording:
    """A probe between the calls of a training framework.

    If the training ends without a word (an exception that no callback is told of), the run is
    closed when this is forgotten, or when Python ends.

    Args:
        to: the folder of the run.
        options: those of `attach`. Only forwards in training mode are watched by default.
    """

    def __init__(self, to: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
        self.to = to
        self.options = {"when": "training", **options}
        self.probe: Probe | None = None
        self._last: weakref.finalize[[Probe], Recording] | None = None

    @property
    def running(self) -> bool:
        """Whether the probe is on the model."""
        return self._last is not None and self._last.alive

    def begin(self, model: nn.Module, example: Any, **options: Any) -> None:
        """Attach to the model; `options` are set aside by those the user gave.

        Raises:
            FfnProbeError: as `attach`; or a training is being recorded already.
        """
        if self.running:
            raise FfnProbeError(f"the training before is still being recorded to {self.to}")
        chosen = options | self.options
        if chosen.get("found") is None:
            chosen.setdefault("example", example)
        probe = attach(model, to=self.to, **chosen)
        probe.__enter__()
        probe.expect_steps()
        self.probe = probe
        self._last = weakref.finalize(self, _left, probe)

    def step(self, metrics: Mapping[str, float | Tensor]) -> None:
        """End an optimizer step."""
        if self.running and self.probe is not None:
            self.probe.step(**metrics)

    def end(self, error: BaseException | None = None) -> None:
        """Close the run; nothing happens when it is closed.

        Raises:
            FfnProbeError: as leaving a probe's `with` does, when there was no error before.
        """
        if not self.running or self.probe is None or self._last is None:
            return
        self._last.detach()
        trace = None if error is None else error.__traceback__
        self.probe.__exit__(None if error is None else type(error), error, trace)


def _left(probe: Probe) -> None:
    """Close a run that nobody closed."""
    gone = FfnProbeError("the training ended without a word")
    probe.__exit__(FfnProbeError, gone, None)
