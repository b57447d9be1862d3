"""Where a hook can read a node of the pass: a module's output or input, or a call.

Module outputs and inputs come first: they survive fused kernels that bypass the rest. A
call inside a forward is the last resort (packed experts, inline code).
"""

from collections.abc import Mapping

import torch

from ffn_probe.anatomy import Call, Tap
from ffn_probe.discover.linear import Linearity
from ffn_probe.discover.operations import CASTS, IDENTITIES, VIEWS, plain
from ffn_probe.discover.rebuild import NotRebuildable, rebuild
from ffn_probe.discover.trace import Graph, Node


def tap(
    role: str,
    node: Node,
    graph: Graph,
    *,
    prefer: str = "",
    home: str = "",
    axis: int = -1,
    calls: int = 1,
) -> Tap:
    """Return the tap that reads `node`.

    Args:
        role: the role the tensor plays.
        node: the node to read.
        graph: the pass (says which modules ran more than once).
        prefer: "input" to look at the inputs of modules first.
        home: the module whose input or output is preferred among several.
        axis: the axis of the channels.
        calls: how often the block ran; a module that ran more often serves others too.
    """
    if prefer == "input" and home:
        for path, index, keyword in node.inputs_of:
            if path == home and _usable(path, graph, calls):
                return Tap(role, "input", path, index=index, keyword=keyword, axis=axis)
    reader = _input_tap if prefer == "input" else _output_tap
    other = _output_tap if prefer == "input" else _input_tap
    found = reader(role, node, graph, axis, calls) or other(role, node, graph, axis, calls)
    if found is not None:
        return found
    same = _same_values(node)
    for alias in same:
        found = reader(role, alias, graph, axis, calls) or other(
            role, alias, graph, axis, calls
        )
        if found is not None:
            return found
    if node.kind == "input":
        return _model_input(role, node, axis)
    whole = _sliced(node, graph, role, axis, calls)
    return whole or call_tap(role, node, axis=axis)


def _model_input(role: str, node: Node, axis: int) -> Tap:
    """Return the tap on an argument of the model itself, which no function has made."""
    index, keyword = next(((i, k) for path, i, k in node.inputs_of if not path), (0, ""))
    return Tap(role, "input", "", index=index, keyword=keyword, axis=axis)


def call_tap(role: str, node: Node, *, part: str = "all", axis: int = -1) -> Tap:
    """Return the tap that reads the result of the function that made `node`."""
    target = node.args[0] if node.op == "item_of" else node
    index = node.item if node.op == "item_of" else -1
    call = Call(target.op, target.trail)
    return Tap(role, "call", node.module, index=-1, item=index, part=part, call=call, axis=axis)


def part_of(node: Node, linearity: Linearity, axis: int = -1) -> tuple[Node, str]:
    """Return (the node that `node` is a slice of, which part of its channels it is).

    The slice is found by running the views on an index: "all", "first", "second", "even",
    "odd", or "other" when the channels are picked in another way.
    """
    base = current = node
    while current in linearity.of and _moves(current):
        parent = next((p for p in current.parents if p in linearity.of), None)
        if parent is None or _numel(parent) < _numel(node):
            break
        current = parent
        if parent.shape[axis] >= node.shape[axis] and not _is_several(parent):
            base = parent
    if base is node:
        return node, "all"
    return base, part_between(base, node, axis)


def part_between(base: Node, node: Node, axis: int = -1) -> str:
    """Return which part of the channels of `base` the view `node` is."""
    if not base.shape or not node.shape:
        return "other"
    width, kept = base.shape[axis], node.shape[axis if axis != 1 else 1]
    index = torch.arange(width, dtype=torch.float64)
    shape = [1] * len(base.shape)
    shape[axis] = width
    full = index.reshape(shape).expand(base.shape).contiguous()
    try:
        seen = rebuild(node, {base: full})
    except NotRebuildable:
        return "other"
    rows = seen.movedim(axis, -1).reshape(-1, kept)
    first = rows[0]
    if not bool((rows == first).all()):
        return "other"
    half = width // 2
    patterns: Mapping[str, torch.Tensor] = {
        "all": index,
        "first": index[:half],
        "second": index[half:],
        "even": index[::2],
        "odd": index[1::2],
    }
    for name, pattern in patterns.items():
        if first.shape == pattern.shape and bool(torch.equal(first.cpu(), pattern)):
            return _branch_axis(base, node) or name
    return "other"


def _branch_axis(base: Node, node: Node) -> str:
    """Return "first" or "second" when `node` is one of two entries of another axis."""
    if _numel(base) != 2 * _numel(node):
        return ""
    for axis in (a for a, size in enumerate(base.shape) if size == 2):
        shape = [1] * len(base.shape)
        shape[axis] = 2
        index = torch.arange(2, dtype=torch.float64).reshape(shape).expand(base.shape)
        seen = torch.unique(rebuild(node, {base: index.contiguous()}))
        if seen.numel() == 1:
            return "second" if bool(seen[0]) else "first"
    return ""


def _is_several(node: Node) -> bool:
    """Whether the function returned several tensors, of which the node is not one."""
    return any(c.op == "item_of" for c in node.consumers)


def _output_tap(role: str, node: Node, graph: Graph, axis: int, calls: int) -> Tap | None:
    for path, index in node.outputs_of:
        if _usable(path, graph, calls):
            return Tap(role, "output", path, index=index, axis=axis)
    return None


def _input_tap(role: str, node: Node, graph: Graph, axis: int, calls: int) -> Tap | None:
    for path, index, keyword in node.inputs_of:
        if _usable(path, graph, calls):
            return Tap(role, "input", path, index=index, keyword=keyword, axis=axis)
    return None


def _usable(path: str, graph: Graph, calls: int) -> bool:
    return bool(path) and "<" not in path and graph.module_calls[path] <= calls


def _moves(node: Node) -> bool:
    name = plain(node.op)
    if name == "__getitem__":
        return sum(p.data for p in node.parents) == 1
    return name in VIEWS or name in CASTS or name in IDENTITIES


def _same_values(node: Node) -> list[Node]:
    """Return nodes with the same rows of values: casts and reshapes, up and down."""
    found: list[Node] = []
    current = node
    for _ in range(4):
        parents = [p for p in current.parents if p.data]
        if len(parents) != 1 or not _reshapes(current, parents[0]):
            break
        current = parents[0]
        found.append(current)
    current = node
    for _ in range(4):
        following = [c for c in current.consumers if _reshapes(c, current)]
        if not following:
            break
        current = following[0]
        found.append(current)
    return found


def _reshapes(node: Node, parent: Node) -> bool:
    name = plain(node.op)
    if name not in VIEWS | CASTS | IDENTITIES or not node.shape or not parent.shape:
        return False
    if name in {"transpose", "permute", "t", "T", "mT", "movedim", "flip", "swapaxes"}:
        return False
    if node.kind == "item" or name in {"expand", "repeat", "repeat_interleave"}:
        return False
    same = node.shape[-1] == parent.shape[-1] and _numel(node) == _numel(parent)
    return same and node.dtype.is_floating_point


def _numel(node: Node) -> int:
    size = 1
    for length in node.shape:
        size *= length
    return size


def _sliced(node: Node, graph: Graph, role: str, axis: int, calls: int) -> Tap | None:
    """Return a tap on the module output that `node` is a slice of."""
    current = node
    for _ in range(6):
        if not _moves(current):
            return None
        parent = next((p for p in current.parents if p.data), None)
        if parent is None:
            return None
        current = parent
        if _is_several(current):
            continue
        if any(_usable(path, graph, calls) for path, _ in current.outputs_of):
            part = part_between(current, node, axis)
            found = _output_tap(role, current, graph, axis, calls)
            if part == "other" or found is None:
                return None
            return Tap(role, found.how, found.path, index=found.index, part=part, axis=axis)
    return None
