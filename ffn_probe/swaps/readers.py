"""What reads a tensor of a pass, and the matrices that read the output of a norm."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ffn_probe.discover.linear import as_matrix
from ffn_probe.discover.operations import GATHERS, plain
from ffn_probe.discover.trace import Graph, Node
from ffn_probe.swaps.axes import LOOKS, QUIET, axis_before, moved_from, of_parameter

ATTENTION = "multi_head_attention_forward"
"""A function that is a reader and a writer: torch's own attention, which is one call."""

_ATTENTION_IN = (5, 6)
"""Positions of in_proj_weight and in_proj_bias in its call."""

FORMS = frozenset(
    {
        "zeros_like", "new_zeros", "empty_like", "new_empty", "ones_like", "new_ones",
        "full_like", "new_full", "new_tensor", "rand_like", "randn_like", "item", "size", "dim",
        "numel", "is_floating_point", "requires_grad_", "result_type", "__len__", "is_cuda",
        "get_device", "stride", "storage_offset", "is_contiguous",
    }
)  # fmt: skip
"""Functions of a tensor's shape, dtype or device, not of its values."""

_IN_AXIS = {"linear": 1, "matmul": -2, "mm": -2, "addmm": -2, "bmm": -2, "baddbmm": -2}


def readers_of(node: Node, known: set[Node], graph: Graph) -> list[Node]:
    """Return what computes with a tensor or with a view of it, and is not `known`.

    A view (or the tensor itself) that the model returns stands for itself.
    """
    returned = {out for visit in graph.visits_of("") for _, out in visit.outputs}
    found: list[Node] = []
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        if current in returned:
            found.append(current)
        for consumer in current.consumers:
            name = plain(consumer.op)
            if consumer in known or consumer in seen or name in FORMS:
                continue
            seen.add(consumer)
            if _looks_at(consumer, current):
                stack.append(consumer)
            else:
                found.append(consumer)
    return found


def _looks_at(consumer: Node, node: Node) -> bool:
    """Whether `consumer` is a view of `node`, or some rows of it."""
    name = plain(consumer.op)
    return name in QUIET or (name in GATHERS and consumer.args[0] is node)


def read_elsewhere(name: str, places: set[Node], graph: Graph) -> str:
    """Return what reads a parameter outside of `places`; "" when nothing does."""
    stack = [n for n in graph.nodes if n.kind == "param" and n.name == name]
    while stack:
        for consumer in stack.pop().consumers:
            if consumer in places or consumer.op in FORMS:
                continue
            if consumer.data:
                return f"{consumer.op!r} in {consumer.module or 'the model'}"
            stack.append(consumer)
    return ""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A matrix that reads the output of a norm.

    `weight` names its parameter, whose axis `axis` is the norm's channels; `bias` names the
    parameter of its bias, and `slot` (module, name) the place where one could be added.
    """

    node: Node
    path: str
    operand: Node
    weight: str
    axis: int
    bias: str = ""
    slot: tuple[str, str] | None = None
    rows_out: bool = True  # the operand is [out, in], else [in, out]


def linear_readers(
    out: Node, graph: Graph, model: nn.Module
) -> tuple[tuple[Linear, ...], tuple[str, ...]]:
    """Return the matrices that read a norm's output, and what else reads it."""
    found: list[Linear] = []
    others: list[str] = []
    for reader in readers_of(out, set(), graph):
        linear = _linear(reader, out, model)
        if linear is not None:
            found.append(linear)
        elif reader is out or plain(reader.op) in LOOKS:
            others.append("the model returns it")
        else:
            others.append(f"{reader.op!r} in {reader.module or 'the model'}")
    return tuple(found), tuple(dict.fromkeys(others))


def _linear(reader: Node, out: Node, model: nn.Module) -> Linear | None:
    name = plain(reader.op)
    if name == ATTENTION:
        return _attention_reader(reader, out)
    matrix = as_matrix(reader)
    if matrix is None or (name not in _IN_AXIS and not name.startswith("conv")):
        return None
    at = matrix.axis % len(matrix.data.shape)
    if not _leads_to(matrix.data, at, out):
        return None
    weight = of_parameter(matrix.weight, 1 if name.startswith("conv") else _IN_AXIS[name])
    if weight is None:
        return None
    biases = [p for p in reader.parents if not p.data and p.weights and p is not matrix.weight]
    bias = of_parameter(biases[0], -1) if len(biases) == 1 else None
    if biases and (bias is None or biases[0].kind != "param"):
        return None
    slot = None if biases else _slot(reader.module, weight[0], model)
    return Linear(
        reader,
        reader.module,
        matrix.weight,
        *weight,
        bias=bias[0] if bias else "",
        slot=slot,
        rows_out=name == "linear" or name.startswith("conv"),
    )


def _attention_reader(call: Node, out: Node) -> Linear | None:
    operand, bias = (call.args[i] for i in _ATTENTION_IN)
    same = all(_leads_to(p, len(p.shape) - 1, out) for p in call.args[:3])
    weight = of_parameter(operand, 1) if isinstance(operand, Node) else None
    if not same or weight is None:
        return None
    named = bias.name if isinstance(bias, Node) else ""
    slot = None if named else (call.module, "in_proj_bias")
    return Linear(call, call.module, operand, *weight, bias=named, slot=slot)


def _leads_to(node: Any, axis: int, out: Node) -> bool:
    """Whether `node` is `out` moved about, with the channels of `out` on `axis`."""
    at: int | None = axis
    while isinstance(node, Node) and node is not out and at is not None:
        parent = moved_from(node) if plain(node.op) in LOOKS else None
        at = None if parent is None else axis_before(node, parent, at)
        node = parent
    return node is out and at == len(out.shape) - 1


def _slot(path: str, weight: str, model: nn.Module) -> tuple[str, str] | None:
    """Return where a module would hold a bias, if it knows one and has none."""
    module = dict(model.named_modules()).get(path)
    plain_module = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if module is None or not plain_module or "bias" not in module._parameters:
        return None
    owns = dict(model.named_parameters(remove_duplicate=False))
    held = module._parameters.get("weight")
    return (path, "bias") if held is not None and owns.get(weight) is held else None
