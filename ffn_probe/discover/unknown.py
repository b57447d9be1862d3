"""Norms of no known kind: over groups or batches, gated, or with a formula of their own."""

from ffn_probe.discover.linear import Linearity
from ffn_probe.discover.operations import CASTS, ROWWISE, VIEWS, plain
from ffn_probe.discover.region import passable
from ffn_probe.discover.trace import Graph, Node

_BY_NAME = frozenset(
    {"group_norm", "batch_norm", "instance_norm", "native_group_norm", "native_batch_norm"}
)


def unknown_norm(
    source: Node, graph: Graph, linearity: Linearity
) -> tuple[Node, list[Node], str] | None:
    """Return (what enters the norm that made `source`, its nodes, its module), or None.

    A norm is a function called so, or a module that turns one tensor into another of its
    shape by a statistic of each row, without a sum of branches.
    """
    made = _quiet_origin(source)
    ends = {made, source, *_casts_of(source)}
    visits = [v for node in ends for path, _ in node.outputs_of for v in graph.visits_of(path)]
    for visit in sorted(visits, key=lambda v: v.end - v.start):
        entry = next((n for _, _, n in visit.inputs if n.data and n.shape == made.shape), None)
        if entry is None or not any(n in ends for _, n in visit.outputs):
            continue
        inside = [n for n in graph.nodes[visit.start : visit.end] if n.data]
        if plain(made.op) in _BY_NAME or _is_norm_like(inside, entry, linearity):
            return entry, inside, visit.path
    return None


def is_made_of(node: Node, origin: Node) -> bool:
    """Return whether `origin` is among the data that `node` was computed from."""
    stack, seen = [node], set[Node]()
    while stack:
        current = stack.pop()
        if current is origin:
            return True
        if current.data and current not in seen and current.index > origin.index:
            seen.add(current)
            stack.extend(current.parents)
    return False


def _quiet_origin(node: Node) -> Node:
    while plain(node.op) in VIEWS | CASTS and any(p.data for p in node.parents):
        node = next(p for p in node.parents if p.data)
    return node


def _casts_of(node: Node) -> list[Node]:
    return [c for c in node.consumers if plain(c.op) in CASTS and c.module == node.module]


def _is_norm_like(inside: list[Node], entry: Node, linearity: Linearity) -> bool:
    statistic = any(plain(n.op) in ROWWISE and passable(n) for n in inside)
    branches = any(
        plain(n.op) == "add" and sum(p.data and p.shape == entry.shape for p in n.parents) > 1
        for n in inside
    )
    alone = all(passable(n) or n in linearity.of or plain(n.op) == "sum" for n in inside)
    return statistic and alone and not branches
