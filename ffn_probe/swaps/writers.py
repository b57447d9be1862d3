"""What writes into a residual stream, and what a tensor of it was made of.

`writer_of` reads a writer, `before` goes one step back through a sum, a move, a cast, a mask or
a factor that is the same for every channel: through what keeps a mean of zero at zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ffn_probe.anatomy import Norm
from ffn_probe.discover.operations import PROJECTIONS, plain
from ffn_probe.discover.trace import Node
from ffn_probe.swaps.axes import MOVES, axis_before, moved_from, of_parameter, out_axis
from ffn_probe.swaps.readers import ATTENTION

_ATTENTION_OUT = (11, 12)
"""Positions of out_proj.weight and out_proj.bias in a call of torch's own attention."""

_ZEROS = frozenset({"zeros_like", "new_zeros", "zeros", "empty_like", "new_empty"})
_ARGUMENT = "it is an argument of the model"
_UNSEEN = "it comes from code that was not seen"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a tensor was made of, each with the axis of the channels.

    `reason` says what else, which has a mean, went in; "" when nothing did.
    """

    parents: tuple[tuple[Node, int], ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Writer:
    """What writes into a stream.

    `kind` is "table" (rows of a parameter: embeddings, positions), "matrix", "norm" or "other".
    `parameters` maps the name of each parameter (weight, bias, table) to the axis of it that
    is the stream's channels. `reason` says why it cannot be centred; "" when it can.
    """

    kind: str
    node: Node
    path: str
    parameters: tuple[tuple[str, int], ...] = ()
    reason: str = ""
    norm: Norm | None = None

    @property
    def place(self) -> str:
        """The module, or else the parameter, that writes."""
        return self.path or self.node.name or repr(self.node.op)


def writer_of(node: Node, axis: int, norms: Mapping[Node, tuple[str, Norm]]) -> Writer | None:
    """Return the writer that `node` is the result of, or None; `norms`: outputs of norms."""
    if node in norms:
        path, norm = norms[node]
        return Writer("norm", node, path, norm=norm)
    if node.kind == "param":
        return Writer("table", node, node.name.rpartition(".")[0], ((node.name, axis),))
    if plain(node.op) == "embedding":
        found = of_parameter(node.args[1], -1)
        return _made("table", node, [found], "its table is computed")
    if _is_attention(node):
        call = node.parents[0]
        parts = [call.args[i] for i in _ATTENTION_OUT if isinstance(call.args[i], Node)]
        found_all = [of_parameter(p, 0) for p in parts]
        return _made("matrix", node, found_all, "its weight is computed")
    if plain(node.op) in PROJECTIONS:
        return _matrix_writer(node, axis)
    return None


def _matrix_writer(node: Node, axis: int) -> Writer | None:
    operands = [p for p in node.parents if not p.data and p.weights]
    data = [p for p in node.parents if p.data]
    if len(data) != 1 or not operands:
        return None
    weight = max(operands, key=lambda p: len(p.shape))
    found = [of_parameter(weight, out_axis(node, weight, data[0], axis))]
    found += [of_parameter(p, -1) for p in operands if p is not weight]
    return _made("matrix", node, found, "its weight is computed from other parameters")


def _made(
    kind: str, node: Node, found: Sequence[tuple[str, int] | None], reason: str
) -> Writer:
    held = tuple(f for f in found if f is not None)
    return Writer(kind, node, node.module, held, "" if len(held) == len(found) else reason)


def before(node: Node, axis: int) -> Step:
    """Return what a tensor of the stream is made of, or why it is not known."""
    name = plain(node.op)
    if node.kind in {"input", "unseen"}:
        return Step(reason=_ARGUMENT if node.kind == "input" else _UNSEEN)
    if name in _ZEROS or _is_zero(node):
        return Step()
    if name in MOVES:
        return _through_move(node, axis)
    if name in {"add", "sub"}:
        return _through_sum(node, axis)
    if name in {"mul", "div"}:
        return _through_product(node, axis)
    if name in {"masked_fill", "where"}:
        return _through_mask(node, axis)
    if name in {"cat", "concat", "index_add"}:
        return _through_join(node, axis)
    return Step(reason=f"it is made by {node.op!r}, which is no matrix")


def _through_move(node: Node, axis: int) -> Step:
    parent = moved_from(node)
    at = None if parent is None else axis_before(node, parent, axis)
    if parent is None or at is None:
        return Step(reason=f"its channels are regrouped by {node.op!r}")
    return Step(((parent, at),))


def _through_sum(node: Node, axis: int) -> Step:
    found: list[tuple[Node, int]] = []
    reason = ""
    for item in node.args[:2]:
        if isinstance(item, Node) and _spans(item, node, axis):
            found.append((item, axis - len(node.shape) + len(item.shape)))
        elif isinstance(item, Node) and not _is_zero(item):
            reason = "the same number is added to every channel"
        elif not isinstance(item, Node) and item != 0:
            reason = f"{item} is added to every channel"
    return Step(tuple(found), reason if found else f"it is made by {node.op!r}")


def _through_product(node: Node, axis: int) -> Step:
    """Go through a factor that is the same for every channel."""
    wide = [
        (p, axis - len(node.shape) + len(p.shape))
        for p in node.args[:2]
        if isinstance(p, Node) and _spans(p, node, axis)
    ]
    if len(wide) != 1:
        return Step(
            reason="it is multiplied channel by channel: a gate or a multiplier, no matrix"
        )
    if plain(node.op) == "div" and wide[0][0] is not node.args[0]:
        return Step(reason="it is the inverse of a tensor, which is no matrix")
    return Step(tuple(wide))


def _through_mask(node: Node, axis: int) -> Step:
    items = [*node.args, *node.kwargs.values()]
    masks = [i for i in items if isinstance(i, Node) and i.dtype == torch.bool]
    if any(_spans(mask, node, axis) for mask in masks):
        return Step(reason="it is masked channel by channel")
    found: list[tuple[Node, int]] = []
    for item in (i for i in items if i not in masks):
        if isinstance(item, Node) and _spans(item, node, axis):
            found.append((item, axis - len(node.shape) + len(item.shape)))
        elif not (_is_zero(item) if isinstance(item, Node) else item == 0):
            return Step(reason="a mask fills every channel with the same number")
    return Step(tuple(found))


def _through_join(node: Node, axis: int) -> Step:
    parents = [p for p in node.parents if p.dtype.is_floating_point]
    alike = all(
        len(p.shape) == len(node.shape) and p.shape[axis] == node.shape[axis] for p in parents
    )
    joined = sum(p.shape[axis] for p in parents)
    if not parents or not alike or joined == node.shape[axis] != parents[0].shape[axis]:
        return Step(reason=f"its channels are joined by {node.op!r}")
    return Step(tuple((p, axis) for p in parents))


def _spans(item: Node, node: Node, axis: int) -> bool:
    """Whether `item` has a value for each channel of `node`."""
    at = axis - len(node.shape) + len(item.shape)
    return at >= 0 and item.shape[at] == node.shape[axis] and node.shape[axis] > 1


def _is_zero(node: Node) -> bool:
    """Whether a tensor that depends on nothing is zero everywhere."""
    constant = not node.data and not node.weights and node.value is not None
    return constant and node.value is not None and not bool(node.value.any())


def _is_attention(node: Node) -> bool:
    return node.op == "item_of" and node.item == 0 and node.parents[0].op == ATTENTION
