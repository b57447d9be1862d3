"""Whether a block's output is added to a residual stream: a head's or a projector's is not."""

from ffn_probe.discover.linear import as_matrix
from ffn_probe.discover.operations import (
    ADDS,
    CASTS,
    GATHERS,
    IDENTITIES,
    ROWWISE,
    SCATTERS,
    SUMS,
    VIEWS,
    plain,
)  # fmt: skip
from ffn_probe.discover.reading import Near, Reading
from ffn_probe.discover.trace import Node

_DEPTH = 60


def in_residual_stream(readings: list[Reading]) -> tuple[list[Reading], list[Near]]:
    """Keep the blocks whose output is added to other data; a bare FFN stands for itself."""
    added = [r for r in readings if is_added(r.down.node) or _is_added_turned(r.down.node)]
    if not added:
        added = [r for r in readings if _is_output(r.down.node)]
    kept = set(map(id, added))
    reason = "its output is not added to a residual stream (a head, a projector or a pooler)"
    return added, [Near(r.down.node, reason) for r in readings if id(r) not in kept]


def _is_output(node: Node) -> bool:
    """Whether nothing but views follows: the model is a bare FFN."""
    return all(
        plain(c.op) in VIEWS | CASTS | IDENTITIES | {"add"} and _is_output(c)
        for c in node.consumers
    )


def is_added(node: Node) -> bool:
    """Return whether the tensor is added to other data, perhaps after a norm or a scatter."""
    seen: set[Node] = set()
    stack = [node]
    while stack and len(seen) < _DEPTH:
        current = stack.pop(0)
        if current in seen:
            continue
        seen.add(current)
        for consumer in current.consumers:
            if _adds_data(consumer, current):
                return True
            if _carries(consumer):
                stack.append(consumer)
    return False


def _is_added_turned(node: Node) -> bool:
    """Whether one square projection stands between `node` and its residual sum (Zamba)."""
    turned = [c for n in _quiet_copies(node) for c in n.consumers if _turns(c)]
    return any(
        _adds_data(c, n) and any(p.data and p.index < node.index for p in c.parents)
        for turn in turned
        for n in _quiet_copies(turn)
        for c in n.consumers
    )


def _turns(node: Node) -> bool:
    matrix = as_matrix(node)
    return matrix is not None and matrix.data.shape == node.shape


def _quiet_copies(node: Node) -> list[Node]:
    found = [node]
    for current in found[:8]:
        found += [c for c in current.consumers if plain(c.op) in VIEWS | CASTS | IDENTITIES]
    return found


def _adds_data(consumer: Node, current: Node) -> bool:
    if plain(consumer.op) not in ADDS | {"index_add", "scatter_add"}:
        return False
    others = [p for p in consumer.parents if p is not current and p.data]
    floating = [p for p in others if p.dtype.is_floating_point]
    return any(p.shape[-1:] == current.shape[-1:] or p.shape == current.shape for p in floating)


def _carries(node: Node) -> bool:
    name = plain(node.op)
    quiet = VIEWS | CASTS | IDENTITIES | GATHERS | SCATTERS | SUMS | ROWWISE | ADDS
    return (
        name in quiet
        or name in {"mul", "div", "where", "sub", "rsqrt", "pow", "cat", "stack"}
        or (name in {"einsum", "bmm", "matmul"} and not any(p.weights for p in node.parents))
    )
