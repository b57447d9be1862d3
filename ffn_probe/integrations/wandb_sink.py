"""WandbSink: the numbers of every window in a run of Weights & Biases."""

from collections.abc import Mapping
from typing import Any

from ffn_probe.errors import FfnProbeError
from ffn_probe.integrations.needed import needed

STEP = "ffn/step"
"""The axis of the numbers: a run's own step counts its calls of `log`, whoever makes them."""


class WandbSink:
    """A sink for `attach(sinks=[...])`: numbers over `ffn/step`, and alarms as alerts.

    Args:
        run: what `wandb.init` returned; the run that is active by default. It stays open.

    Raises:
        MissingPackage: wandb is not installed.
        FfnProbeError: no run is active.
    """

    def __init__(self, run: Any = None) -> None:
        if run is None:
            run = needed("wandb", extra="wandb", why="WandbSink").run
        if run is None:
            raise FfnProbeError("no run of wandb is active: call wandb.init(...) before")
        self.run = run
        run.define_metric(STEP)
        run.define_metric("ffn/*", step_metric=STEP)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a window at its last step."""
        self.run.log({STEP: step, **values})

    def alarm(self, step: int, text: str) -> None:
        """Send an alert."""
        self.run.alert(title=f"ffn_probe: step {step}", text=text)
