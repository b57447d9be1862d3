"""Let a model, or chosen blocks of it, compute in another dtype."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.errors import UnknownName
from ffn_probe.swaps.swapped import Change, Left

_SHORT = {
    "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32",
    "float": "float32", "fp64": "float64", "double": "float64",
}  # fmt: skip
NAMES: tuple[str, ...] = ("float64", "float32", "bfloat16", "float16")
"""The dtypes that a swap can put in; bf16, fp16, fp32 and fp64 are understood too."""


def dtype_name(given: str | torch.dtype) -> str:
    """Return the full name of a dtype.

    Raises:
        UnknownName: no model computes in it.
    """
    name = str(given).removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name not in NAMES:
        raise UnknownName.of("dtype", name, (*NAMES, *_SHORT))
    return name


def swap_dtype(
    model: nn.Module, name: str, stack: ExitStack
) -> tuple[list[Change], list[Left]]:
    """Cast every floating parameter and buffer of the model, and what it is given.

    Shared parameters stay shared. Undoing gives back the objects of before.
    """
    dtype: torch.dtype = getattr(torch, name)
    held = [*model.parameters(), *model.buffers()]
    before = sorted({str(t.dtype).removeprefix("torch.") for t in held if _floats(t)})
    if before == [name]:
        return [], [Left("dtype", "", f"it is {name} already")]
    _cast_held(model.modules(), dtype, stack)
    _cast_around(model, dtype, None, stack)
    return [Change("dtype", "", "", ", ".join(before), name)], []


def swap_block_dtype(
    model: nn.Module, block: Block, name: str, stack: ExitStack
) -> tuple[list[Change], list[Left]]:
    """Let one block compute in a dtype: cast its matrices, its input, and its output back."""
    dtype: torch.dtype = getattr(torch, name)
    inside, first, last = _parts(model, block)
    held = [p for m in inside for p in m.parameters()]
    before = sorted({str(t.dtype).removeprefix("torch.") for t in held if _floats(t)})
    if before == [name]:
        return [], [Left("dtype", block.name, f"it is {name} already")]
    outside: torch.dtype = next((t.dtype for t in held if _floats(t)), torch.float32)
    every = [m for top in inside for m in top.modules()]
    _cast_held(every, dtype, stack)
    for module in first:
        _cast_around(module, dtype, outside if module in last else None, stack)
    for module in last:
        if module not in first:
            _cast_around(module, dtype, outside, stack)
    return [Change("dtype", block.name, block.name, ", ".join(before), name)], []


def _parts(
    model: nn.Module, block: Block
) -> tuple[Sequence[nn.Module], Sequence[nn.Module], Sequence[nn.Module]]:
    """Return the modules of a block, those that its input enters, those that its output leaves.

    One module around all of it where there is one that holds no norm; else the projections.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    around = modules.get(block.name)
    listed = isinstance(around, nn.ModuleList | nn.ModuleDict)
    norm = block.norm.module or ""
    apart = not norm.startswith(block.name + ".") and norm != block.name
    inside = all(p.path.startswith(block.name + ".") for p in block.projections.values())
    if around is not None and block.name and not listed and apart and inside:
        return [around], [around], [around]
    holders = {k: _holder(modules, p.path) for k, p in block.projections.items()}
    first = list(dict.fromkeys(h for k, h in holders.items() if k != "down"))
    return list(dict.fromkeys(holders.values())), first, [holders["down"]]


def _holder(modules: dict[str, nn.Module], path: str) -> nn.Module:
    return modules[path] if path in modules else modules[path.rpartition(".")[0]]


# ---- casting ----------------------------------------------------------------------------


def _floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() > 1


def _cast_held(modules: Iterable[nn.Module], dtype: torch.dtype, stack: ExitStack) -> None:
    """Put cast copies in the place of parameters and buffers, one copy for each object."""
    made: dict[int, Any] = {}
    for module in list(modules):
        for key in ("_parameters", "_buffers"):
            held: dict[str, Any] = vars(module)[key]
            for name, old in list(held.items()):
                if old is None or not _floats(old) or old.dtype == dtype:
                    continue
                if id(old) not in made:
                    made[id(old)] = _cast_copy(old, dtype)
                stack.callback(held.__setitem__, name, old)
                held[name] = made[id(old)]


def _cast_copy(old: Tensor, dtype: torch.dtype) -> Tensor:
    values = old.detach().to(dtype)
    if isinstance(old, nn.Parameter):
        return nn.Parameter(values, requires_grad=old.requires_grad)
    return values


@dataclass(frozen=True, slots=True)
class _Entering:
    """A hook that casts what enters a module."""

    dtype: torch.dtype

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        del module
        return cast(args, self.dtype), cast(kwargs, self.dtype)


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A hook that casts what leaves a module."""

    dtype: torch.dtype

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        del module, args
        return cast(output, self.dtype)


def _cast_around(
    module: nn.Module, inside: torch.dtype, outside: torch.dtype | None, stack: ExitStack
) -> None:
    """Cast what enters a module, and what leaves it unless `outside` is None."""
    entering = _Entering(inside)
    hook = module.register_forward_pre_hook(entering, with_kwargs=True, prepend=True)
    stack.callback(hook.remove)
    if outside is not None:
        stack.callback(module.register_forward_hook(_Leaving(outside), prepend=True).remove)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Return a tensor, or the tensors inside tuples, lists and dicts, in a floating dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in {tuple, list}:
        return type(value)(cast(item, dtype) for item in value)
    if type(value) is dict:
        return {key: cast(item, dtype) for key, item in value.items()}
    return value
