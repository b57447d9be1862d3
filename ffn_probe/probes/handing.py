"""What hooks and rewritten forwards do when torch.compile traces them: hand values over.

These functions are traced, so their branches and numbers are known then, and they carry no
annotations that are checked. What they call in the graph are the operators.
"""

from collections.abc import Mapping
from typing import no_type_check

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame
from torch._compile import _disable_dynamo

from ffn_probe.errors import AttachError
from ffn_probe.probes.operators import ORDER
from ffn_probe.probes.port import PORT

# In and outside of graphs


@no_type_check
def compiling():
    """Return whether torch.compile traces this call."""
    if torch.compiler.is_exporting():
        raise AttachError(
            "the model is exported while a probe is attached: an exported program cannot hold "
            "probes. Export it after the probe's with statement."
        )
    return torch.compiler.is_compiling()


@no_type_check
def near_compiled():
    """Return whether torch.compile would look into the functions that are called here.

    It does around a graph: the hooks of a compiled model itself run outside of it.
    """
    return eval_frame.get_eval_frame_callback() is not None


@no_type_check
def aside(function, *args):
    """Call a function so that torch.compile does not look into it."""
    if near_compiled():
        return _disabled(function, *args)
    return function(*args)


@_disable_dynamo
@no_type_check
def _disabled(function, *args):
    return function(*args)


@no_type_check
def traced(function):
    """Return a function that is part of a graph where one is, and never a graph of its own."""
    strategy = eval_frame._FrameExecStrategy(  # noqa: SLF001 - torch._dynamo.skip_code
        eval_frame._FrameAction.SKIP,  # noqa: SLF001
        eval_frame._FrameAction.DEFAULT,  # noqa: SLF001
    )
    for code in (function.__code__, *(f.__code__ for f in _OUTSIDE)):
        eval_frame.set_code_exec_strategy(code, strategy)
    return function


_OUTSIDE = (compiling, near_compiled, aside)

# In graphs


@no_type_check
def hand_over(module, slot, gradient, value):
    """Hand over an input or an output of a module."""
    _hand(value, getattr(module, PORT), slot, gradient)


@no_type_check
def seen(value, port, slot, item):
    """Hand over the result of a call, or one of its results; return the result."""
    _hand(value if item < 0 else value[item], port, slot, port.specs[slot].gradient)
    return value


@no_type_check
def _hand(value, port, slot, gradient):
    if not isinstance(value, Tensor) or not port.switches[slot].live:
        return
    if gradient and value.requires_grad and torch.is_grad_enabled():
        torch.ops.ffn_probe.mark(value, ORDER, port.number, slot)
    else:
        torch.ops.ffn_probe.see(value, ORDER, port.number, slot)


@no_type_check
def called(port, slot, function, owner, *args, **kwargs):
    """Call a function; hand over its arguments and its result, which is returned."""
    result = function(*args, **kwargs)
    whole = (owner, *args) if isinstance(owner, Tensor) else args
    hand_call(port, slot, whole, kwargs, result)
    return result


@no_type_check
def hand_call(port, slot, args, kwargs, result=None):
    """Hand over the tensors of a call, and how long its cache is."""
    if not port.switches[slot].live:
        return
    tensors, names, past = [], [], -1
    for name, value in (*enumerate(args), *kwargs.items(), ("=", result)):
        if name == "past_key_values":
            past = _length(value)
        else:
            found = _tensors(value)
            tensors += found
            names += [str(name)] * len(found)
    if isinstance(past, Tensor):
        tensors, names, past = [*tensors, past], [*names, "past_key_values"], -1
    layout = ",".join(names)
    torch.ops.ffn_probe.call(tensors, layout, past, ORDER, port.number, slot)


@no_type_check
def _tensors(value):
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, tuple | list):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


@no_type_check
def _length(cache):
    if cache is None:
        return -1
    if hasattr(cache, "get_seq_length"):
        return cache.get_seq_length()
    return cache[0][0].shape[-2] if isinstance(cache, tuple | list) and cache else -1
