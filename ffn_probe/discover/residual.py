"""Whether a block's output is added to a residual stream: a head's or a projector's is not."""

from ffn_probe.discover.linear import Linearity, as_matrix
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

_WALK = 400
_BACK = 60
_TURNS = 1
_CLAMPS = frozenset({"clamp", "clip", "clamp_min", "clamp_max", "minimum", "maximum"})
_QUIET = VIEWS | CASTS | IDENTITIES
_CARRIED = (
    _QUIET | GATHERS | SCATTERS | SUMS | ROWWISE | ADDS | _CLAMPS
    | {"mul", "div", "where", "sub", "rsqrt", "pow", "cat", "stack", "masked_fill"}
    | {"batch_norm"}
)  # fmt: skip
_KEPT = _QUIET | GATHERS | SUMS | ADDS | _CLAMPS | {"mul", "div", "sub", "cat", "stack"}


def in_residual_stream(
    readings: list[Reading], linearity: Linearity
) -> tuple[list[Reading], list[Near]]:
    """Keep the blocks around which a residual path runs; a bare FFN stands for itself."""
    added = [
        r for r in readings if has_residual(r.down.node, linearity.of[r.gate].matrices[0].data)
    ]
    if not added:
        added = [r for r in readings if _is_output(r.down.node)]
    kept = set(map(id, added))
    reason = "its output is not added to a residual stream (a head, a projector or a pooler)"
    return added, [Near(r.down.node, reason) for r in readings if id(r) not in kept]


def _is_output(node: Node) -> bool:
    """Whether nothing but views follows: the model is a bare FFN."""
    return all(plain(c.op) in _QUIET | {"add"} and _is_output(c) for c in node.consumers)


def has_residual(out: Node, source: Node) -> bool:
    """Return whether `out` is added to a tensor that `source` was made of.

    Between them there may be norms, routing weights, scatters and one more projection (the
    way back from a latent space); what `out` is added to may have been scaled or mixed.
    """
    before = _ancestors(source)
    seen: dict[Node, int] = {}
    stack = [(out, 0)]
    while stack and len(seen) < _WALK:
        current, turns = stack.pop(0)
        if seen.get(current, _TURNS + 1) <= turns:
            continue
        seen[current] = turns
        for consumer in current.consumers:
            if any(_leads_back(p, out, before) for p in _added_to(consumer, current)):
                return True
            if _carries(consumer):
                stack.append((consumer, turns))
            elif turns < _TURNS and as_matrix(consumer) is not None:
                stack.append((consumer, turns + 1))
    return False


def _ancestors(source: Node) -> set[Node]:
    """Return `source` and the floating data it was made of."""
    found: set[Node] = set()
    stack = [source]
    while stack:
        node = stack.pop()
        if node not in found and node.data and node.dtype.is_floating_point:
            found.add(node)
            stack.extend(node.parents)
    return found


def _added_to(consumer: Node, current: Node) -> list[Node]:
    """Return the data that `consumer` adds to `current`."""
    name = plain(consumer.op)
    sums = name in {"stack", "cat"} and any(plain(c.op) in SUMS for c in consumer.consumers)
    if name not in ADDS and not sums:
        return []
    return [
        p
        for p in consumer.parents
        if p is not current and p.data and p.dtype.is_floating_point
        and (p.shape[-1:] == current.shape[-1:] or p.shape == current.shape)
    ]  # fmt: skip


def _leads_back(node: Node, out: Node, before: set[Node]) -> bool:
    """Whether `node` is one of `before`, or is made of one by moving, scaling and adding."""
    seen: set[Node] = set()
    stack = [node]
    while stack and len(seen) < _BACK:
        current = stack.pop()
        if current in before:
            return True
        if current is out or current in seen or not current.data:
            continue
        seen.add(current)
        if plain(current.op) in _KEPT or _mixes_data(current):
            stack.extend(p for p in current.parents if p.dtype.is_floating_point)
    return False


def _carries(node: Node) -> bool:
    return plain(node.op) in _CARRIED or _mixes_data(node)


def _mixes_data(node: Node) -> bool:
    name = plain(node.op)
    return name in {"einsum", "bmm", "matmul"} and not any(p.weights for p in node.parents)


def is_added(node: Node) -> bool:
    """Return whether the tensor itself is added to other data."""
    return any(_added_to(consumer, node) for consumer in node.consumers)
