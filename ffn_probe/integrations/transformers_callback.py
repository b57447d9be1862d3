"""ProbeCallback: record a training of transformers.Trainer.

with ProbeCallback("runs/training") as callback:
    Trainer(model, ..., callbacks=[callback]).train()
"""

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ffn_probe.errors import ExampleError
from ffn_probe.integrations.needed import needed
from ffn_probe.integrations.recording import Recording
from ffn_probe.probes import Probe
from ffn_probe.probes.record import moved

_RENAMED = {"learning_rate": "lr"}
_OF_TIME = ("epoch", "total_flos", "_runtime", "_per_second", "train_loss", "num_input_tokens")
_SAMPLES = 2


class TrainerEvents:
    """ProbeCallback without its base, which is looked up when ProbeCallback is first used.

    Records the optimizer steps of a Trainer, with loss, grad_norm and lr from its logs.

    The run is closed when the training ends. The Trainer tells its callbacks of no error: use
    it in a with statement, which closes the run then (otherwise it is closed when the callback
    is forgotten). Of several processes the first one records. One callback is one training.

    Args:
        to: the folder of the run.
        options: those of `attach`: gradients, window, every, sinks, ... Without `example` or
            `found`, two samples of the training set are the example; the Trainer's random
            numbers stay what they are. Only forwards in training mode are watched by default.
    """

    def __init__(self, to: str | os.PathLike[str], **options: Any) -> None:
        self.recording = Recording(to, options)
        self._logs: dict[str, float] = {}
        self._pending = False

    @property
    def probe(self) -> Probe | None:
        """The probe; None before the training began."""
        return self.recording.probe

    def __enter__(self) -> "TrainerEvents":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_step()
        self.recording.end(error)

    # What the Trainer tells

    def on_train_begin(
        self,
        args: object,
        state: Any,
        control: object,
        *,
        model: nn.Module,
        train_dataloader: Any = None,
        **others: object,
    ) -> None:
        """Attach to the model."""
        del args, control, others
        if not state.is_world_process_zero:
            return
        known = self.recording.options.keys() & {"example", "found"}
        example = None if known else _example(train_dataloader, model)
        self.recording.begin(model, example)

    def on_step_begin(self, *_: object, **__: object) -> None:
        """End the step before: its logs are known by now."""
        self._close_step()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Note that an optimizer step was made."""
        self._pending = True

    def on_log(
        self,
        args: object,
        state: object,
        control: object,
        *,
        logs: Mapping[str, Any] | None = None,
        **others: object,
    ) -> None:
        """Keep the numbers of the step that was made last."""
        del args, state, control, others
        self._logs |= {
            _RENAMED.get(name, name): float(value)
            for name, value in (logs or {}).items()
            if isinstance(value, int | float) and not name.endswith(_OF_TIME)
        }

    def on_train_end(self, *_: object, **__: object) -> None:
        """Close the run."""
        self._close_step()
        self.recording.end()

    def _close_step(self) -> None:
        if self._pending:
            self.recording.step(self._logs)
        self._pending, self._logs = False, {}


# The class itself


if TYPE_CHECKING:

    class ProbeCallback(TrainerEvents):
        """Records a training of transformers.Trainer: see TrainerEvents."""


def __getattr__(name: str) -> type:
    """Return ProbeCallback, made when it is first asked for.

    Raises:
        MissingPackage: transformers is not installed.
    """
    if name != "ProbeCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _with_base()


@cache
def _with_base() -> type:
    trainer = needed("transformers.trainer_callback", extra="transformers", why="ProbeCallback")
    bases = (TrainerEvents, trainer.TrainerCallback)
    return type(
        "ProbeCallback", bases, {"__doc__": TrainerEvents.__doc__, "__module__": __name__}
    )


# An example


def _example(loader: Any, model: nn.Module) -> Any:
    """Return a batch of the training set's first samples, as the Trainer would make it.

    Raises:
        ExampleError: the set cannot be read at will (a stream), or is empty.
    """
    data: Any = getattr(loader, "dataset", None)
    collate = getattr(loader, "collate_fn", None)
    hint = "pass ProbeCallback(..., example=...): a batch, as the model is given it"
    if collate is None or not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise ExampleError(f"no sample of {type(data).__name__} can be read at will; {hint}")
    if not len(data):
        raise ExampleError(f"the training set is empty; {hint}")
    with _same_random_numbers():
        batch = collate([data[i] for i in range(min(_SAMPLES, len(data)))])
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return moved(batch, device)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave the generators of torch, NumPy and Python as they were."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002
