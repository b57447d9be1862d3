"""Everything about a model that a swap must give back, as comparable values."""

from typing import Any

import torch
from torch import Tensor, nn

from sample_runs import tiny_lm

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called", "_state_dict_hooks", "_load_state_dict_pre_hooks",
)  # fmt: skip


def state(model: nn.Module) -> list[Any]:
    """Return modules, attributes, hooks, modes by identity, and every bit of the tensors."""
    found: list[Any] = [list(model.state_dict())]
    for name, module in model.named_modules(remove_duplicate=False):
        plain = {k: id(v) for k, v in vars(module).items() if k not in {"_parameters"}}
        found += [name, id(module), module.training, list(vars(module)), plain]
        for key in ("_parameters", "_buffers", "_modules", *HOOKS):
            found += [key, [(n, id(v)) for n, v in vars(module)[key].items()]]
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found += [key, tensor.dtype, tensor.device, tensor.requires_grad, bits(tensor)]
    return found


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def batch(length: int = 48) -> dict[str, Tensor]:
    """Return two short sequences of the held-back text."""
    return {"input_ids": tiny_lm.held_back(count=1)[0]["input_ids"][:2, :length]}


def logits(model: nn.Module, given: dict[str, Tensor] | None = None) -> Tensor:
    with torch.no_grad():
        out = model(**(given or batch()))
    return getattr(out, "logits", out)


def db(reference: Tensor, other: Tensor) -> float:
    """Return 20 log10 of the norm of the reference over that of the difference."""
    a, b = reference.double(), other.double()
    return float(20 * torch.log10(a.norm() / (a - b).norm()))
