"""The name of a torch function and the place in a forward from which it was called.

The place (the *trail*) is the same in every run of the same code: it lists the code
positions between the torch call and the nearest module's forward. Discovery stores it in a
Tap and a probe finds the call again by it; two calls on one line have different trails.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from torch import nn

_MODULE_CALLS = frozenset(
    {nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__}
)
_HIDDEN = (
    "torch/nn/functional.py",
    "torch/overrides.py",
    "torch/_tensor.py",
    "torch/_jit_internal.py",
    "torch/functional.py",
    "torch/_ops.py",
    "torch/nn/modules/module.py",
    "ffn_probe/discover/trace.py",
    "ffn_probe/discover/trail.py",
    "ffn_probe/probes/calls.py",
    "ffn_probe/probes/compiled.py",
    "ffn_probe/swaps/interpose.py",
    "jaxtyping/_decorator.py",  # around every function of ours in the tests
)
_DEPTH = 24


def function_name(func: Callable[..., Any]) -> str:
    """Return the public name of a torch function: `mul` for `a * b` and `torch.mul(a, b)`.

    Operators and in-place forms keep their own names (`__iadd__`, `add_`); attributes such
    as `x.T` are named after the attribute.
    """
    name = getattr(func, "__name__", None) or str(func).rsplit(".", 1)[-1]
    if name == "__get__":
        owner = getattr(func, "__self__", None)
        return str(getattr(owner, "__name__", name))
    return str(name).partition(".")[0]  # `add.Tensor` is an overload of `add`


def call_trail() -> tuple[str, ...]:
    """Return the code positions from the torch call outwards to the nearest module's forward.

    Frames of torch's own Python functions and of the observer are left out. Each position
    reads "file:qualified name:bytecode offset".
    """
    frame = sys._getframe(1)
    trail: list[str] = []
    while len(trail) < _DEPTH:  # of positions: hidden frames may be many
        if frame is None or frame.f_code in _MODULE_CALLS:
            break
        code = frame.f_code
        if not _hidden(code.co_filename):
            trail.append(f"{_short(code.co_filename)}:{code.co_qualname}:{frame.f_lasti}")
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(trail)


@lru_cache(maxsize=4096)
def _hidden(filename: str) -> bool:
    return filename.replace("\\", "/").endswith(_HIDDEN)


@lru_cache(maxsize=4096)
def _short(filename: str) -> str:
    return PurePath(filename).name
