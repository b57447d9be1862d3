"""LightningProbe: record a training of Lightning.

Trainer(callbacks=[LightningProbe("runs/training", module="model")]).fit(module, data)
"""

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ffn_probe.errors import ModelError
from ffn_probe.integrations.needed import needed
from ffn_probe.integrations.recording import Recording
from ffn_probe.probes import Probe


class LightningEvents:
    """LightningProbe without its base, which is looked up when LightningProbe is first used.

    Records the optimizer steps of a Trainer, with loss, lr and what the module logs.

    The run is closed when the training ends, also by an error. A GradScaler is undone. Of
    several processes the first one records. One callback is one training.

    Args:
        to: the folder of the run.
        module: where the model is in the LightningModule ("model" for `self.model`); "" for
            the LightningModule itself, whose training_step then has to call `self(...)`.
        example: an input of the model, or a function that makes one of the first batch; by
            default the first batch is one.
        options: those of `attach`: gradients, window, every, sinks, ... Only forwards in
            training mode are watched by default.
    """

    def __init__(
        self,
        to: str | os.PathLike[str],
        *,
        module: str = "model",
        example: Any | Callable[[Any], Any] = None,
        **options: Any,
    ) -> None:
        self.recording = Recording(to, options)
        self._module = module
        self._example = example
        self._steps = 0  # optimizer steps that were told

    @property
    def probe(self) -> Probe | None:
        """The probe; None before the training began."""
        return self.recording.probe

    # What the Trainer tells

    def on_train_batch_start(
        self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int
    ) -> None:
        """Attach to the model when its first batch is there."""
        if batch_idx or self.recording.probe is not None or not trainer.is_global_zero:
            return
        example = self._example
        if example is None or callable(example):
            example = batch if example is None else example(batch)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.recording.begin(self._model(pl_module), example, scaler=scaler)
        self._steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: Any, pl_module: object, outputs: Any, *others: object
    ) -> None:
        """End a step when the optimizer made one."""
        del pl_module, others
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.recording.step(_metrics(trainer, outputs))

    def on_train_end(self, *_: object) -> None:
        """Close the run."""
        self.recording.end()

    def on_exception(
        self, trainer: object, pl_module: object, exception: BaseException
    ) -> None:
        """Close the run; what was recorded is complete."""
        del trainer, pl_module
        self.recording.end(exception)

    def _model(self, module: nn.Module) -> nn.Module:
        try:
            return module.get_submodule(self._module)
        except AttributeError as error:
            known = ", ".join(name for name, _ in module.named_children())
            raise ModelError(
                f"{type(module).__name__} has no module {self._module!r}; it has: {known}. "
                "Pass LightningProbe(..., module=...)"
            ) from error


if TYPE_CHECKING:

    class LightningProbe(LightningEvents):
        """Records a training of Lightning: see LightningEvents."""


def __getattr__(name: str) -> type:
    """Return LightningProbe, made when it is first asked for.

    Raises:
        MissingPackage: Lightning is not installed.
    """
    if name != "LightningProbe":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _with_base()


@cache
def _with_base() -> type:
    lightning = needed(
        "lightning.pytorch", "pytorch_lightning", extra="lightning", why="LightningProbe"
    )
    bases = (LightningEvents, lightning.Callback)
    named = {"__doc__": LightningEvents.__doc__, "__module__": __name__}
    return type("LightningProbe", bases, named)


def _metrics(trainer: Any, outputs: Any) -> dict[str, float | Tensor]:
    """Return what the module logged, the loss and the learning rate."""
    found: dict[str, float | Tensor] = {
        name: value
        for name, value in trainer.callback_metrics.items()
        if isinstance(value, Tensor) and value.numel() == 1
    }
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if isinstance(loss, Tensor) and loss.numel() == 1:
        found["loss"] = loss
    if trainer.optimizers:
        found["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
    return found
