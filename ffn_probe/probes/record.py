"""Record a run from batches: attach, run the model on each, close."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.discover.calling import call_arguments, describe
from ffn_probe.errors import ExampleError, FfnProbeError
from ffn_probe.probes.attach import attach, check_watchable, uncompiled
from ffn_probe.probes.probe import Probe
from ffn_probe.runs import Run, RunWriter


def record(
    model: nn.Module, batches: Iterable[Any], *, to: str | os.PathLike[str], **options: Any
) -> Run:
    """Run `model` on every batch, without gradients and in evaluation mode; return the run.

    Batch k belongs to fold k mod 16; two runs of the same batches are compared fold by fold.
    The first batch is the example for discovery unless `found` or `example` is given.

    Args:
        model: the model; its mode and everything else is as before afterwards.
        batches: inputs: mappings for model(**batch), tuples for model(*batch), or tensors.
            Tensors are moved to the model's device.
        to: the folder of the run, which must not exist.
        options: those of `attach`.

    Raises:
        ExampleError: there were no batches (nothing is left on disk), or the model rejected
            one (what was recorded before stays, in a closed run).
        ModelError, RunError, AttachError, UnknownName: as `attach`.

    An interrupt (Ctrl-C) closes the run cleanly and is raised again.
    """
    if options.get("gradients"):
        raise FfnProbeError(
            "record runs forward passes only; for gradients attach to the training loop"
        )
    RunWriter.check_free(to)
    check_watchable(uncompiled(model))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ExampleError("there are no batches to record: the iterable is empty")
    first = moved(first, device)
    options.setdefault("alarms", False)
    if options.get("found") is None:
        options.setdefault("example", first)
    with _evaluating(model), attach(model, to=to, **options) as probe:
        _feed(probe, model, first, 0)
        for ordinal, batch in enumerate(stream, 1):
            _feed(probe, model, moved(batch, device), ordinal)
    return probe.run


def moved(value: Any, device: torch.device) -> Any:
    """Return the batch with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "keys") and hasattr(value, "items"):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(moved(item, device) for item in value)
    return value


def _feed(probe: Probe, model: nn.Module, batch: Any, ordinal: int) -> None:
    args, kwargs = call_arguments(batch)
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except FfnProbeError:
        raise
    except Exception as error:
        raise ExampleError(
            f"the model rejected batch {ordinal} ({describe(batch)}): "
            f"{type(error).__name__}: {error}. The {ordinal} batches before it are in "
            f"{probe.folder}."
        ) from error
    probe.step()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
