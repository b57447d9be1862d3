"""Following the axis of the channels through moves of a tensor, and into a parameter.

What a move does to an axis is found by moving a tensor of indices, so that no function needs a
rule of its own.
"""

import torch
from torch import Tensor

from ffn_probe.discover.operations import CASTS, GATHERS, IDENTITIES, SUMS, VIEWS, plain
from ffn_probe.discover.rebuild import NotRebuildable, rebuild
from ffn_probe.discover.trace import Node

QUIET = VIEWS | CASTS | IDENTITIES
"""Functions that keep every value."""

LOOKS = QUIET | GATHERS
"""Functions that keep every value of the rows that they keep."""

MOVES = LOOKS | SUMS | {"mean"}
"""Functions of one tensor that keep its channels apart."""

_SAME_AXIS = CASTS | IDENTITIES | {"contiguous", "clone", "detach", "alias", "data"}
_OUT_AXIS = {"linear": 0, "matmul": -1, "mm": -1, "addmm": -1, "bmm": -1, "baddbmm": -1}


def of_parameter(operand: Node, axis: int | None) -> tuple[str, int] | None:
    """Return the parameter that an operand is a view of, and which axis of it `axis` is."""
    if axis is None:
        return None
    at: int | None = axis % max(len(operand.shape), 1)
    node = operand
    while node.kind != "param" and at is not None:
        if plain(node.op) not in MOVES or node.data:
            return None
        parent = moved_from(node)
        if parent is None:
            return None
        at = axis_before(node, parent, at)
        node = parent
    return None if at is None or not node.shape else (node.name, at)


def out_axis(node: Node, weight: Node, data: Node, axis: int) -> int | None:
    """Return the axis of the weight operand that becomes `axis` of the product."""
    name = plain(node.op)
    if name in _OUT_AXIS:
        return _OUT_AXIS[name] if axis == len(node.shape) - 1 else None
    if name.startswith("conv"):
        return 0 if axis == 1 else None
    for k in range(len(weight.shape)):
        given = {weight: _index(weight.shape, k), data: _ones(data.shape)}
        if _counts(_vector(node, given, axis), node.shape[axis]):
            return k
    return None


def moved_from(node: Node) -> Node | None:
    """Return the tensor whose values a move moves."""
    if node.op == "item_of":
        whole = node.parents[0]
        return moved_from(whole) if plain(whole.op) in VIEWS else None
    first = node.args[0] if node.args else None
    return first if isinstance(first, Node) else None


def axis_before(node: Node, parent: Node, axis: int) -> int | None:
    """Return the axis of `parent` that became `axis` of `node` by a move; None: regrouped."""
    if not parent.shape or not node.shape or 0 in node.shape:
        return None
    if plain(node.op) in _SAME_AXIS:
        return axis
    for k in reversed(range(len(parent.shape))):
        if parent.shape[k] == node.shape[axis]:
            given = {parent: _index(parent.shape, k)}
            if _counts(_vector(node, given, axis), node.shape[axis]):
                return k
    return None


def _index(shape: tuple[int, ...], axis: int) -> Tensor:
    """Return a tensor, without memory of its own, that holds its index along an axis."""
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return torch.arange(shape[axis], dtype=torch.float64).view(sizes).expand(shape)


def _ones(shape: tuple[int, ...]) -> Tensor:
    return torch.ones((), dtype=torch.float64).expand(shape)


def _vector(node: Node, given: dict[Node, Tensor], axis: int) -> Tensor | None:
    """Return the values of `node` along an axis, at the first index of every other one."""
    device = node.value.device if node.value is not None else torch.device("cpu")
    try:
        made = rebuild(node, {k: v.to(device) for k, v in given.items()})
    except NotRebuildable:
        return None
    if made.shape != node.shape:
        return None
    where = [0] * made.dim()
    return made[tuple(slice(None) if i == axis else w for i, w in enumerate(where))]


def _counts(vector: Tensor | None, size: int) -> bool:
    """Whether a vector is 0, 1, 2, ... times a number."""
    if vector is None or vector.shape != (size,):
        return False
    if size == 1:
        return True
    steps = torch.arange(size, dtype=vector.dtype, device=vector.device)
    return bool(vector[1] != 0) and torch.allclose(vector, steps * vector[1])
