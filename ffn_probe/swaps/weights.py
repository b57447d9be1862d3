"""Putting other values in the place of a model's matrices."""

from contextlib import ExitStack

from torch import Tensor, nn

from ffn_probe.discover.matrices import Matrix, read_matrix

__all__ = ["Matrix", "put_parameter", "read_matrix"]


def put_parameter(
    model: nn.Module, old: Tensor, values: Tensor, stack: ExitStack
) -> nn.Parameter:
    """Put a new Parameter in the place of `old` wherever the model holds it; return it.

    The new one has its own memory, `values`, and the old one's requires_grad. Closing `stack`
    puts the old object back, untouched.
    """
    new = nn.Parameter(values.detach(), requires_grad=old.requires_grad)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is old:
                stack.callback(module._parameters.__setitem__, name, parameter)
                module._parameters[name] = new
    return new
