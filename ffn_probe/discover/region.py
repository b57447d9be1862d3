"""The pointwise piece of the dataflow between projections and one further projection.

From the data operand of a projection the walk goes back through functions of each element
or each row, and stops at linear nodes (the frontier). What else it meets is a barrier.
"""

from dataclasses import dataclass, field

from ffn_probe.discover.linear import Linearity
from ffn_probe.discover.operations import CASTS, IDENTITIES, POINTWISE, ROWWISE, VIEWS, plain
from ffn_probe.discover.trace import Node

_LIMIT = 400


@dataclass(slots=True)
class Region:
    """All nodes between a frontier of linear nodes and `end` (which is included)."""

    end: Node
    nodes: set[Node] = field(default_factory=set)
    frontier: list[Node] = field(default_factory=list)
    barriers: list[Node] = field(default_factory=list)
    unseen: list[Node] = field(default_factory=list)
    custom: bool = False

    def frontier_below(self, node: Node) -> frozenset[Node]:
        """Return the frontier nodes that `node` is computed from, within the region."""
        found: set[Node] = set()
        seen: set[Node] = set()
        stack = [node]
        fronts = set(self.frontier)
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in fronts:
                found.add(current)
            elif current in self.nodes:
                stack.extend(current.parents)
        return frozenset(found)

    def blocked_below(self, node: Node) -> bool:
        """Return whether anything behind `node` is a barrier."""
        seen: set[Node] = set()
        stack = [node]
        while stack:
            current = stack.pop()
            if current in self.barriers:
                return True
            if current in self.nodes and current not in seen:
                seen.add(current)
                stack.extend(current.parents)
        return False

    def branches(self, node: Node) -> list[Node]:
        """Return the operands of `node` that depend on the frontier, in call order."""
        return [p for p in node.parents if p in self.nodes or p in set(self.frontier)]

    def rowwise(self) -> set[Node]:
        """Return the nodes computed with a statistic over a row."""
        found: set[Node] = set()
        for node in sorted(self.nodes, key=lambda n: n.index):
            if (plain(node.op) in ROWWISE and not _compares(node)) or any(
                p in found for p in node.parents
            ):
                found.add(node)
        return found

    @property
    def is_trivial(self) -> bool:
        """Whether nothing but views and casts lies between frontier and end."""
        quiet = VIEWS | CASTS | IDENTITIES
        return all(plain(node.op) in quiet for node in self.nodes)


def region(end: Node, linearity: Linearity) -> Region:
    """Return the region that ends at `end`."""
    found = Region(end)
    stack = [end]
    seen: set[Node] = set()
    while stack and len(seen) < _LIMIT:
        node = stack.pop()
        if node in seen or not node.data:
            continue
        seen.add(node)
        if node in linearity.of:
            found.frontier.append(node)
        elif node.kind == "unseen":
            found.unseen.append(node)
        elif passable(node):
            found.nodes.add(node)
            found.custom = found.custom or node.code == "custom"
            stack.extend(p for p in node.parents if not _routed(node, p, linearity))
        else:
            found.barriers.append(node)
    found.frontier = _merged(found, linearity)
    return found


def _merged(found: Region, linearity: Linearity) -> list[Node]:
    """Return the frontier with scaled copies of one node put back to that node.

    `0.5 * x * (1 + tanh(x))` begins at x, not at x and at 0.5 x; halves of one projection
    stay apart.
    """
    fronts = list(found.frontier)
    chains = {front: _unsliced(front, linearity) for front in fronts}
    bases: list[Node] = []
    for front in sorted(fronts, key=lambda n: n.index):
        shared = [
            node
            for node in chains[front]
            if any(node in chains[other] for other in fronts if other is not front)
        ]
        base = shared[0] if shared else front
        for node in chains[front]:
            if node is base:
                break
            found.nodes.add(node)
        if base not in bases:
            bases.append(base)
    return bases


def lowered(area: Region, linearity: Linearity) -> Region | None:
    """Return the region with its frontier moved below every scaling; None without one."""
    fronts = [_unsliced(front, linearity) for front in area.frontier]
    if all(len(chain) == 1 for chain in fronts):
        return None
    nodes = area.nodes | {node for chain in fronts for node in chain[:-1]}
    return Region(area.end, nodes, [chain[-1] for chain in fronts], area.barriers, area.unseen)


def unscaled(front: Node, linearity: Linearity) -> Node:
    """Return the linear node whose elements `front` is a scaled or shifted copy of."""
    return _unsliced(front, linearity)[-1]


def _unsliced(front: Node, linearity: Linearity) -> list[Node]:
    """Return `front` and the linear nodes before it that hold the same elements."""
    chain = [front]
    while True:
        parents = [p for p in chain[-1].parents if p.data]
        node = chain[-1]
        if len(parents) != 1 or node.shape != parents[0].shape or node in linearity.matrices:
            return chain
        if node.kind == "item":
            return chain
        if parents[0] not in linearity.of:
            return chain
        chain.append(parents[0])


def _routed(node: Node, operand: Node, linearity: Linearity) -> bool:
    """Whether `operand` is a score per row (a router's) that scales the rows of `node`."""
    if plain(node.op) not in {"mul", "div"} or not operand.data or operand.shape[-1:] != (1,):
        return False
    if node.shape[-1:] == (1,):
        return False
    below = region(operand, linearity)
    return bool(below.barriers) or any(m.shape[-1] != node.shape[-1] for m in below.frontier)


def dominators(area: Region) -> list[Node]:
    """Return the nodes that everything from the frontier to the end passes, end first."""
    fronts = set(area.frontier)
    heap = {area.end}
    found: list[Node] = []
    while heap:
        node = max(heap, key=lambda n: n.index)
        heap.discard(node)
        if not heap:
            found.append(node)
        if node not in fronts:
            heap.update(p for p in node.parents if p in area.nodes or p in fronts)
    return found


def passable(node: Node) -> bool:
    """Return whether the function treats each row by itself."""
    name = plain(node.op)
    if name in POINTWISE or name in VIEWS or name in CASTS or name in IDENTITIES:
        return True
    if _compares(node):
        return True
    if name in ROWWISE:
        return _last_axis(node)
    if name == "__getitem__":
        return sum(p.data for p in node.parents) == 1
    return name in {"zeros_like", "ones_like", "full_like", "empty_like"}


def _compares(node: Node) -> bool:
    """Whether `min` or `max` is the one of two tensors, not of an axis."""
    return plain(node.op) in {"min", "max"} and sum(isinstance(a, Node) for a in node.args) == 2


def _last_axis(node: Node) -> bool:
    """Whether a reduction is over the last axis only (or is a norm of the last axes)."""
    name = plain(node.op)
    if "norm" in name and name not in {
        "norm",
        "vector_norm",
        "linalg_vector_norm",
        "group_norm",
    }:
        return name != "group_norm"
    parent = next((p for p in node.parents if p.data), None)
    if parent is None or not parent.shape:
        return False
    named = node.kwargs.get("dim", node.kwargs.get("axis"))
    axis = named if named is not None else (node.args[1] if len(node.args) > 1 else None)
    if name in {"std", "var", "topk", "kthvalue"} and axis is None:
        return False
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    last = len(parent.shape) - 1
    if name in {"topk", "kthvalue"}:
        axes = (node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else -1),)
    return all(isinstance(a, int) and a in {-1, last} for a in axes)
