"""New parameters for the matrices of a block, so that folding into them can be undone."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.errors import SwapError
from ffn_probe.swaps.weights import put_parameter, read_matrix


def own_copies(
    model: nn.Module, block: Block, projections: Sequence[str], undo: ExitStack
) -> tuple[str, ...]:
    """Give matrices of a block (and the bias of up) new parameters to write to; name them.

    Raises:
        SwapError: one is shared with something else, or no view of one parameter.
    """
    taken: dict[str, Tensor] = {}
    held = dict(model.named_parameters(remove_duplicate=False))
    for name in projections:
        for expert in range(max(block.experts, 1)):
            matrix = read_matrix(model, block, name, expert=expert)
            if not matrix.parameter or matrix.parameter not in held:
                raise SwapError(
                    f"the {name} projection of {block.name!r} is no view of one parameter "
                    "(parametrized, quantized or made while the model runs); nothing can be "
                    "folded into it"
                )
            taken[matrix.parameter] = held[matrix.parameter]
            if name == "up" and matrix.bias_parameter:
                taken[matrix.bias_parameter] = held[matrix.bias_parameter]
    _check_own(model, block, taken)
    for parameter in taken.values():
        put_parameter(model, parameter, parameter.detach().clone(), undo)
    return tuple(taken)


def _check_own(model: nn.Module, block: Block, taken: Mapping[str, Tensor]) -> None:
    """Refuse parameters that something beside the block holds too.

    A module that runs in several layers has several names; then all that is taken must have.
    """
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    holders = [id(p) for m in model.modules() for p in m._parameters.values() if p is not None]
    usual = min(len(names[id(parameter)]) for parameter in taken.values())
    for name, held in taken.items():
        found = names[id(held)]
        if holders.count(id(held)) > 1 or len(found) > usual:
            raise SwapError(
                f"{name} of {block.name!r} is shared with {', '.join(sorted(found - {name}))}, "
                "which a fold would change too; give the block its own copy first"
            )
