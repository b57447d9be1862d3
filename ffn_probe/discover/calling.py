"""Running a model on an example: what can be run, with what, and how to leave no trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.errors import ModelError

_PACKING = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def check_readable(model: nn.Module) -> None:
    """Raise ModelError when the model's parameters or code cannot be observed."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"{type(model).__name__} is a scripted model: its functions cannot be seen. Pass "
            "the eager module it was scripted from."
        )
    _check_unpacked(model)
    meta = [name for name, p in model.named_parameters() if p.is_meta]
    if meta:
        raise ModelError(
            f"{len(meta)} parameters are on the meta device (first: {meta[0]}): they hold no "
            "values. Load the weights, or model.to_empty(device=...) and initialise them."
        )


def _check_unpacked(model: nn.Module) -> None:
    packed = [
        name
        for name, module in model.named_modules()
        if type(module).__module__.startswith(_PACKING) and "packed_params" not in name
    ]
    if packed:
        raise ModelError(
            f"{len(packed)} modules hold packed quantized weights (first: {packed[0]}, "
            f"{type(model.get_submodule(packed[0])).__name__}): what they compute cannot be "
            "seen. Scan the model before it is quantized."
        )


def call_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs) of the call that an example stands for."""
    if isinstance(example, Mapping) or (hasattr(example, "keys") and hasattr(example, "items")):
        return (), dict(example.items())
    if isinstance(example, tuple | list):
        return tuple(example), {}
    return (example,), {}


def describe(example: Any) -> str:
    """Return the shapes inside an example, for messages."""
    args, kwargs = call_arguments(example)
    parts = [_shape(a) for a in args] + [f"{k}={_shape(v)}" for k, v in kwargs.items()]
    return ", ".join(parts) or "empty"


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the body in evaluation mode; then restore modes, buffers and random generators."""
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers() if not b.is_meta]
    names = {id(m): dict(m._buffers.items()) for m in model.modules()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
                for name, buffer in names[id(module)].items():
                    if module._buffers[name] is not buffer:
                        module._buffers[name] = buffer
            for buffer, old in buffers:
                if not _same(buffer, old):
                    with torch.no_grad():
                        buffer.copy_(old)


def _same(a: Tensor, b: Tensor) -> bool:
    return (a.shape == b.shape and bool(torch.equal(a, b))) or bool(
        ((a == b) | (a.isnan() & b.isnan())).all()
    )


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    return type(value).__name__
