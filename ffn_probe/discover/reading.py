"""What one projection's input says: an FFN's branches, or the reason why it is none.

`read(matrix, ...)` looks at the region before a projection and returns a Reading (the
nodes of the roles and the fingerprinted activation), a Near (almost an FFN, with the
reason) or None (nothing like one).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ffn_probe.discover.grids import POINTS, SPAN, curve, surface
from ffn_probe.discover.linear import Linearity, Matrix, strip
from ffn_probe.discover.operations import plain
from ffn_probe.discover.rebuild import NotRebuildable
from ffn_probe.discover.region import Region, dominators, lowered, region
from ffn_probe.discover.trace import Node
from ffn_probe.discover.unknown import is_made_of
from ffn_probe.zoo.fingerprint import Match, identify_activation, identify_gate

_CURVED = frozenset({"gelu", "silu", "relu", "relu6", "hardswish", "sigmoid", "tanh", "mish"})


@dataclass(frozen=True, slots=True)
class Near:
    """Something that looks like an FFN and is none, or one that cannot be read."""

    node: Node
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One FFN as one forward pass shows it.

    `product` is the node where the activated branch is complete (the product of gate and
    value, or the activation's result); what lies between it and `hidden` is `post`.
    """

    kind: str
    down: Matrix
    source: Node
    gate: Node
    gate_act: Node | None
    value: Node | None
    product: Node
    hidden: Node
    activation: Match | None
    halves: tuple[str, str] | None = None  # parts (gate, value) when one function splits


def read(matrix: Matrix, linearity: Linearity) -> Reading | Near | None:
    """Return what the data operand of `matrix` is."""
    hidden = _flat(matrix.data)
    if hidden in linearity.of or not hidden.data:
        return None
    area = region(hidden, linearity)
    reason = _unreadable(area)
    if reason:
        return Near(matrix.node, reason)
    if area.barriers:
        return _blocked(matrix, area, linearity)
    if not area.frontier or area.is_trivial:
        return None
    if any(0 in node.shape for node in area.frontier):
        return Near(matrix.node, "no row reached it with this example; pass a longer one")
    sources = {linearity.of[node].source for node in area.frontier}
    if len(sources) > 1:
        return _several_sources(matrix, area)
    source = sources.pop()
    found = _branches(matrix, area, source)
    if isinstance(found, Reading) and found.activation is None:
        below = lowered(area, linearity)
        again = _branches(matrix, below, source) if below is not None else None
        if isinstance(again, Reading) and again.activation is not None:
            return again
    return found


def _flat(node: Node) -> Node:
    """Return `node` without a trailing axis of one, which a batched product wants."""
    while node.shape[-1:] == (1,) and plain(node.op) in {"unsqueeze", "view", "reshape"}:
        node = node.args[0]
    return node


def _unreadable(area: Region) -> str:
    if area.custom and area.frontier:
        return "unreadable: its activation runs inside a custom autograd function"
    if area.unseen:
        where = area.unseen[0].module or "the model"
        return (
            f"unreadable: its input is made in {where} by code that cannot be seen "
            "(a torch.jit script or a compiled extension)"
        )
    return ""


def _mixes_projection(node: Node, linearity: Linearity) -> bool:
    """Whether `node` is a convolution over positions of a projection's result."""
    data = [strip(p) for p in node.parents if p.data]
    return plain(node.op).startswith("conv") and any(p in linearity.of for p in data)


def _blocked(matrix: Matrix, area: Region, linearity: Linearity) -> Near | None:
    split = _product(area)
    convolved = all(_mixes_projection(b, linearity) for b in area.barriers)
    direct = split is None and not area.rowwise() and _is_activated(area)
    if direct and convolved:
        return Near(matrix.node, "a convolution between its projections mixes positions")
    if direct and _over_positions(area):
        mixing = ", ".join(sorted({plain(b.op) for b in area.barriers})[:3])
        return Near(
            matrix.node, f"a function of positions ({mixing}) stands between its projections"
        )
    if split is None or not area.frontier:
        return None
    operands = [p for p in split.parents if p.data]
    clear = [p for p in operands if not area.blocked_below(p) and area.frontier_below(p)]
    if len(clear) != 1 or any(is_made_of(clear[0], p) for p in operands if p is not clear[0]):
        return None  # a tensor gated by itself is a norm or a squeeze-and-excitation
    names = sorted({plain(b.op) or b.kind for b in area.barriers})
    made_by = ", ".join(names[:3])
    reason = (
        f"a gate multiplies a tensor that mixes positions or comes from outside ({made_by})"
    )
    return Near(matrix.node, reason)


def _is_activated(area: Region) -> bool:
    return any(plain(node.op) in _CURVED for node in area.nodes)


def _over_positions(area: Region) -> bool:
    """Whether a projection also passes a function that mixes positions."""
    inner = area.nodes | set(area.frontier)
    mixed = any(p in inner for b in area.barriers for p in b.parents)
    return bool(area.frontier) and mixed


def _product(area: Region) -> Node | None:
    """Return the last node at which two different operands of the region are multiplied."""
    node = area.end
    for _ in range(16):
        data = [p for p in node.parents if p.data]
        if plain(node.op) in {"mul", "multiply"} and len(set(data)) == 2:
            return node
        if len(data) != 1 or data[0] not in area.nodes:
            return None
        node = data[0]
    return None


def _several_sources(matrix: Matrix, area: Region) -> Near | None:
    split = _product(area)
    if split is None or len(area.frontier) > 4:
        return None
    below = [area.frontier_below(p) for p in split.parents if p.data]
    if len(below) != 2 or below[0] & below[1]:
        return None
    return Near(matrix.node, "its gate and its value are projections of different tensors")


def _branches(matrix: Matrix, area: Region, source: Node) -> Reading | Near | None:
    if any(plain(node.op) == "glu" for node in area.nodes):
        return _halved(matrix, area, source)
    chain = dominators(area)
    if len(area.frontier) == 1:
        return _single(matrix, area, source, chain)
    if len(area.frontier) == 2:
        for node in chain:
            operands = [p for p in area.branches(node) if area.frontier_below(p)]
            if len(operands) == 2:
                below = [area.frontier_below(p) for p in operands]
                if all(len(b) == 1 for b in below) and below[0] != below[1]:
                    return _gated(matrix, area, source, node, operands)
        return _woven(matrix, area, source, chain)
    return Near(
        matrix.node, f"{len(area.frontier)} projections meet without a gate and a value"
    )


# One branch


def _single(
    matrix: Matrix, area: Region, source: Node, chain: list[Node]
) -> Reading | Near | None:
    front = area.frontier[0]
    rows = area.rowwise()
    steps = [n for n in chain if n not in rows and n is not front]
    if not steps and _is_activated(area):
        return Near(matrix.node, "a norm stands between its projection and its activation")
    if not steps:
        return None  # a norm between two projections (low-rank attention), no activation
    best: tuple[Node, Match | None] | None = None
    affine = True
    for node in steps:
        try:
            grid, y = curve(front, node)
        except NotRebuildable:
            continue
        if grid.shape != y.shape:
            continue
        affine = affine and _is_affine(grid, y)
        match = identify_activation(grid.flatten(), y.flatten())
        if match is not None and match.name != "identity":
            best = (node, match)
            break
    if best is None:
        if affine:
            return None
        node = steps[0]
        best = (node, None)
    node, match = best
    if match is not None and _bends(node, area, rows):
        match = None
    return Reading("mlp", matrix, source, front, None, None, node, area.end, match)


def _bends(node: Node, area: Region, rows: set[Node]) -> bool:
    """Whether what follows an activation is a further nonlinearity (a clamp is none)."""
    if node is area.end or area.end in rows:
        return False
    later = {n for n in area.nodes if n.index > node.index}
    if any(plain(n.op) in {"clamp", "clip", "clamp_min", "clamp_max"} for n in later):
        return False
    try:
        x, y = curve(node, area.end)
    except NotRebuildable:
        return False
    return x.shape == y.shape and not _is_affine(x, y)


def _is_affine(x: Tensor, y: Tensor) -> bool:
    if not bool(torch.isfinite(y).all()):
        return False
    flat_x, flat_y = x.flatten(), y.flatten()
    order = torch.argsort(flat_x)
    flat_x, flat_y = flat_x[order], flat_y[order]
    slope = (flat_y[-1] - flat_y[0]) / (flat_x[-1] - flat_x[0])
    line = flat_y[0] + slope * (flat_x - flat_x[0])
    return bool((flat_y - line).abs().max() <= 1e-6 * (1 + flat_y.abs().max()))


# Two branches


def _gated(
    matrix: Matrix, area: Region, source: Node, product: Node, operands: list[Node]
) -> Reading | Near | None:
    pairs = [(op, next(iter(area.frontier_below(op)))) for op in operands]
    try:
        curves = [curve(front, op) for op, front in pairs]
    except NotRebuildable as error:
        return Near(matrix.node, f"unreadable: {error}")
    straight = [x.shape == y.shape and bool(torch.equal(x, y)) for x, y in curves]
    multiplied = plain(product.op) in {"mul", "multiply"}
    if multiplied and straight[0] != straight[1]:
        acted = 0 if straight[1] else 1
        x, y = curves[acted]
        match = identify_activation(x.flatten(), y.flatten()) if x.shape == y.shape else None
        match = match or _rowwise_activation(x, y)
    elif multiplied and all(straight):
        acted = _acted_by_module(pairs)
        x, y = curves[acted]
        match = identify_activation(x.flatten(), y.flatten())
    else:
        acted, match = _joint(product, pairs)
        if match is None and not multiplied:
            return Near(matrix.node, "two projections meet without a product")
        if match is None:
            acted = 0 if not _is_affine(*curves[0]) else 1
    gate_act, gate = pairs[acted]
    value = pairs[1 - acted][1]
    return Reading("glu", matrix, source, gate, gate_act, value, product, area.end, match)


def _woven(
    matrix: Matrix, area: Region, source: Node, chain: list[Node]
) -> Reading | Near | None:
    """Read branches that meet more than once, as in (u + 1) * g * sigmoid(g)."""
    together = [n for n in chain if len(area.frontier_below(n)) == 2]
    pairs = [(front, front) for front in area.frontier]
    for product in reversed(together):
        acted, match = _joint(product, pairs)
        if match is not None:
            gate, value = pairs[acted][1], pairs[1 - acted][1]
            return Reading("glu", matrix, source, gate, None, value, product, area.end, match)
    return Near(matrix.node, "2 projections meet without a gate and a value")


def _rowwise_activation(x: Tensor, y: Tensor) -> Match | None:
    if x.shape != y.shape:
        return None
    return identify_activation(x, y)


def _acted_by_module(pairs: list[tuple[Node, Node]]) -> int:
    """Return the branch that passes an activation module, else the first."""
    for i, (operand, _) in enumerate(pairs):
        if operand.inputs_of and len(operand.outputs_of) > 1:
            return i
    return 0


def _joint(product: Node, pairs: list[tuple[Node, Node]]) -> tuple[int, Match | None]:
    best: tuple[int, Match | None] = (0, None)
    for acted in (0, 1):
        gate, value = pairs[acted][1], pairs[1 - acted][1]
        try:
            g, u, h = surface(gate, value, product)
        except NotRebuildable:
            continue
        match = identify_gate(g.flatten(), u.flatten(), h.flatten())
        if match is not None and (best[1] is None or match.error < best[1].error):
            best = (acted, match)
    return best


def _halved(matrix: Matrix, area: Region, source: Node) -> Reading | Near | None:
    """Read F.glu: the first half times the sigmoid of the second."""
    node = next(n for n in area.nodes if plain(n.op) == "glu")
    if len(area.frontier) != 1 or not area.frontier_below(node):
        return Near(matrix.node, "F.glu of more than one projection")
    front = area.frontier[0]
    x = torch.linspace(-SPAN, SPAN, POINTS, dtype=torch.float64)
    match = identify_activation(x, torch.sigmoid(x))
    return Reading(
        "glu", matrix, source, front, None, front, node, area.end, match, ("second", "first")
    )
