"""Which weights are stacks of expert matrices, and how rows are assigned to them."""

from ffn_probe.discover.linear import Matrix
from ffn_probe.discover.operations import plain
from ffn_probe.discover.trace import Node


def stack_of(weight: Node) -> Node | None:
    """Return the 3-D stack of expert matrices that `weight` is or is taken from."""
    node = weight
    for _ in range(16):
        if len(node.shape) == 3 and node.shape[0] > 1 and node.picked_by is None:
            return node if node.kind in {"param", "op"} else None
        parents = [p for p in node.parents if not p.data and p.weights]
        if not parents:
            return None
        node = parents[0]
    return None


def experts_of(first: Matrix, down: Matrix) -> tuple[int, str]:
    """Return (number of experts, how the rows of a call are labelled); (0, "") when dense.

    Both matrices of a mixture are stacks; the down projection's counts the experts (the
    first may have another axis for gate and value, or rows of experts that do nothing).
    """
    stacks = [stack_of(matrix.weight) for matrix in (first, down)]
    if plain(first.node.op).startswith("conv") or stacks[0] is None or stacks[1] is None:
        return 0, ""
    count = stacks[1].shape[0]
    if "grouped" in first.node.op:
        return count, "offsets"
    if len(first.weight.shape) == 3 and _picks_rows(first.weight):
        return count, "index"
    return count, "batch" if len(first.weight.shape) == 3 else "slice"


def _picks_rows(weight: Node) -> bool:
    node: Node | None = weight
    while node is not None:
        if node.picked_by is not None and len(node.shape) == 3:
            return True
        node = next((p for p in node.parents if not p.data and p.weights), None)
    return False


def pick_of(weight: Node) -> Node | None:
    """Return the node at which the router's index picked the weights of each row."""
    node: Node | None = weight
    while node is not None:
        if node.picked_by is not None:
            return node
        node = next((p for p in node.parents if not p.data and p.weights), None)
    return None
