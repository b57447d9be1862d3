"""Which nodes of a pass are linear in which tensor, and through which weights.

A projection is one activation times one weight. A node is *linear* when it is a projection,
a view, a cast or a scaled copy of one, or a sum of projections of the same tensor (a LoRA
delta beside its base). Linear nodes are where an FFN's branches begin.
"""

from dataclasses import dataclass

from torch import nn

from ffn_probe.discover.operations import CASTS, GATHERS, IDENTITIES, PROJECTIONS, VIEWS, plain
from ffn_probe.discover.trace import Graph, Node, Visit

_SCALINGS = frozenset({"mul", "div", "multiply", "divide", "true_divide"})
_SUMS = frozenset({"add", "sub", "addcmul"})
_ALLOWED_BEHIND = _SCALINGS | _SUMS | VIEWS | CASTS | IDENTITIES | {"clamp", "round", "where"}


@dataclass(frozen=True, slots=True)
class Matrix:
    """One projection: the function's node, its data operand and its weight operand."""

    node: Node
    data: Node
    weight: Node

    @property
    def axis(self) -> int:
        """The axis of the channels in data and result: 1 for convolutions, else -1."""
        return 1 if plain(self.node.op).startswith("conv") else -1


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear node: the tensor it is linear in, and its projections, largest weight first."""

    source: Node
    matrices: tuple[Matrix, ...]


class Linearity:
    """The linear nodes of a graph (see the module)."""

    def __init__(self, graph: Graph, model: nn.Module) -> None:
        self.matrices: dict[Node, Matrix] = {}
        self.of: dict[Node, Linear] = {}
        wrapped = _wrapped(graph, model)
        for node in graph.nodes:
            if node.data:
                found = self._read(node, wrapped)
                if found is not None:
                    self.of[node] = found

    def _read(self, node: Node, wrapped: dict[Node, Visit]) -> Linear | None:
        matrix = as_matrix(node)
        if matrix is not None:
            self.matrices[node] = matrix
            inner = self.of.get(matrix.data)
            source = inner.source if inner is not None else strip(matrix.data)
            return Linear(source, (matrix,))
        visit = wrapped.get(node)
        if visit is not None:
            found = self._inside(node, visit)
            if found is not None:
                return found
        return self._derived(node)

    def _derived(self, node: Node) -> Linear | None:
        name = plain(node.op)
        parents = [p for p in node.parents if p.data]
        if not parents or any(p not in self.of for p in parents):
            return None
        first = self.of[parents[0]]
        if len(parents) == 1:
            moved = name in VIEWS or name in CASTS or name in IDENTITIES or _static_index(node)
            scaled = name in (_SCALINGS | _SUMS) and node.args[0] is not node.args[-1]
            return first if moved or scaled or name == "batch_norm" else None
        joined = name in {"cat", "concat", "concatenate"}
        if not (joined or name in _SUMS) or any(
            self.of[p].source is not first.source for p in parents
        ):
            return None
        matrices = {m.node: m for p in parents for m in self.of[p].matrices}
        return Linear(first.source, tuple(sorted(matrices.values(), key=_weight_size)))

    def _inside(self, node: Node, visit: Visit) -> Linear | None:
        """Return the linear form of a Linear-like module that does more than one function."""
        inside = [m for n, m in self.matrices.items() if visit.start <= n.index < visit.end]
        if len(inside) != 1 or not visit.inputs:
            return None
        behind: set[Node] = set()
        stack = [node]
        while stack:
            current = stack.pop()
            if current is inside[0].node or current in behind or not current.data:
                continue
            if current.index < visit.start or plain(current.op) not in _ALLOWED_BEHIND:
                return None
            behind.add(current)
            stack.extend(current.parents)
        return Linear(strip(visit.inputs[0][2]), (inside[0],))


def as_matrix(node: Node) -> Matrix | None:
    """Return the projection that `node` computes, or None."""
    name = plain(node.op)
    if name not in PROJECTIONS or node.kind != "op":
        return None
    data = [p for p in node.parents if p.data and p.dtype.is_floating_point]
    weights = [p for p in node.parents if not p.data and p.weights and len(p.shape) >= 2]
    if len(data) != 1 or not weights:
        return None
    weight = max(weights, key=lambda p: len(p.shape))
    if name.startswith("conv") and not _is_pointwise_conv(weight):
        return None
    return Matrix(node, data[0], weight)


def strip(node: Node) -> Node:
    """Return the tensor `node` is a view, cast, row selection or row scaling of."""
    current = node
    for _ in range(64):
        if not current.data or current.kind not in {"op", "item"}:
            return current
        name = plain(current.op)
        follow = None
        if name in VIEWS or name in CASTS or name in IDENTITIES or name in GATHERS:
            follow = next(
                (p for p in current.parents if p.data and p.dtype.is_floating_point), None
            )
        elif name in _SCALINGS:
            follow = _scaled_by_rows(current)
        if follow is None or follow.dtype.is_floating_point != current.dtype.is_floating_point:
            return current
        current = follow
    return current


def _scaled_by_rows(node: Node) -> Node | None:
    data = [p for p in node.parents if p.data]
    if len(data) != 2:
        return None
    narrow = [p for p in data if p.shape and p.shape[-1] == 1]
    wide = [p for p in data if p.shape == node.shape]
    if len(narrow) != 1 or len(wide) != 1 or _is_own_statistic(narrow[0], wide[0]):
        return None
    return wide[0]


def _is_own_statistic(narrow: Node, wide: Node) -> bool:
    """Whether the factor of a row is computed from the row itself (an RMSNorm's 1 / rms)."""
    bases = {wide}
    while plain(wide.op) in _SCALINGS | CASTS and sum(p.data for p in wide.parents) == 1:
        wide = next(p for p in wide.parents if p.data)
        bases.add(wide)
    stack, seen = [narrow], set[Node]()
    while stack and len(seen) < 24:
        node = stack.pop()
        if node in bases:
            return True
        if node.data and node not in seen and as_matrix(node) is None:
            seen.add(node)
            stack.extend(node.parents)
    return False


def _static_index(node: Node) -> bool:
    return plain(node.op) == "__getitem__" and sum(p.data for p in node.parents) == 1


def _is_pointwise_conv(weight: Node) -> bool:
    return all(size == 1 for size in weight.shape[2:])


def _weight_size(matrix: Matrix) -> int:
    size = 1
    for length in matrix.weight.shape:
        size *= length
    return -size


def _wrapped(graph: Graph, model: nn.Module) -> dict[Node, Visit]:
    """Return the outputs of modules that are one matrix, by class or by having no children."""
    modules = dict(model.named_modules())
    found: dict[Node, Visit] = {}
    for visit in graph.visits:
        module = modules.get(visit.path)
        if module is None or len(visit.outputs) != 1:
            continue
        if not any(True for _ in module.children()) or "Linear" in type(module).__name__:
            found[visit.outputs[0][1]] = visit
    return found
