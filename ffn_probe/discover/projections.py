"""The names of a block's matrices: module or parameter path, and which half of it."""

from itertools import takewhile

import torch
from torch import nn

from ffn_probe.anatomy import Projection
from ffn_probe.discover.experts import stack_of
from ffn_probe.discover.linear import Linear, Linearity
from ffn_probe.discover.reading import Reading
from ffn_probe.discover.rebuild import NotRebuildable, rebuild
from ffn_probe.discover.trace import Node


def projections_of(
    reading: Reading,
    matrices: dict[str, tuple[Node, str]],
    linearity: Linearity,
    model: nn.Module,
    *,
    experts: int,
) -> dict[str, Projection]:
    """Return the matrices of a block by role, each with its path and part."""
    found: dict[str, Projection] = {}
    for role, (base, part) in matrices.items():
        name = "up" if role == "value" or reading.kind == "mlp" else role
        found[name] = _projection(linearity.of[base], part, model, linearity, experts)
    found["down"] = _projection(
        Linear(reading.hidden, (reading.down,)), "all", model, linearity, experts
    )
    return found


def _projection(
    linear: Linear, part: str, model: nn.Module, linearity: Linearity, experts: int
) -> Projection:
    matrix = linear.matrices[0]
    weight = matrix.weight
    root = _parameter(weight)
    if root is None:
        return Projection(matrix.node.module, part)
    if part == "all":
        part = _expert_part(weight, experts) if experts else _weight_part(root, weight)
    runner = matrix.node.module
    if _is_one_call(runner, linearity) and _holds_only(model, runner, weight):
        return Projection(runner, part)
    owner = root.name.rpartition(".")[0]
    if owner and owner != runner and _holds_only(model, owner, weight):
        return Projection(owner, part)
    return Projection(root.name, part)


def _is_one_call(path: str, linearity: Linearity) -> bool:
    """Whether the code of a module itself multiplies with a matrix in one place only."""
    if not path or "<" in path:
        return False
    return len({n.trail for n in linearity.matrices if n.module == path}) == 1


def _holds_only(model: nn.Module, path: str, weight: Node) -> bool:
    """Whether every matrix in a module is part of `weight` (a base, its factors, its norm)."""
    inner = model.get_submodule(path).named_parameters(remove_duplicate=False)
    return all(f"{path}.{name}" in weight.weights for name, p in inner if p.dim() >= 2)


def _parameter(weight: Node) -> Node | None:
    """Return the largest parameter that the weight is made of."""
    seen: set[Node] = set()
    stack, found = [weight], []
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.kind == "param":
            found.append(node)
        stack.extend(p for p in node.parents if not p.data)
    return max(found, key=_numel, default=None)


def _weight_part(root: Node, weight: Node) -> str:
    """Return which half of `root` the weight is, along the one axis that was halved."""
    if root is weight or _numel(root) != 2 * _numel(weight):
        return "all"
    return _halved(root, weight, range(len(root.shape)))


def _expert_part(weight: Node, experts: int) -> str:
    """Return which half of an expert's matrix the weight is."""
    stack = stack_of(weight)
    if stack is None or stack is weight:
        return "all"
    return _halved(stack, weight, range(stack.shape[0] == experts, len(stack.shape)))


def _halved(root: Node, weight: Node, axes: range) -> str:
    for axis in reversed(axes):
        if root.shape[axis] % 2 == 0:
            part = _weight_slice(root, weight, axis)
            if part != "other":
                return part
    return "all"


def _weight_slice(root: Node, weight: Node, axis: int) -> str:
    shape = [1] * len(root.shape)
    shape[axis] = root.shape[axis]
    index = torch.arange(root.shape[axis], dtype=torch.float64).reshape(shape)
    try:
        seen = rebuild(weight, {root: index.expand(root.shape).contiguous()})
    except NotRebuildable:
        return "other"
    values = torch.unique(seen).cpu()
    half = root.shape[axis] // 2
    patterns = {
        "first": torch.arange(half),
        "second": torch.arange(half, 2 * half),
        "even": torch.arange(0, 2 * half, 2),
        "odd": torch.arange(1, 2 * half, 2),
    }
    for name, pattern in patterns.items():
        if values.shape == pattern.shape and bool(torch.equal(values, pattern.double())):
            return name
    return "other"


def _numel(node: Node) -> int:
    size = 1
    for length in node.shape:
        size *= length
    return size


def block_name(paths: list[str], model: nn.Module) -> str:
    """Return the innermost module that holds all the projections."""
    parts = [path.split(".") for path in paths]
    same = takewhile(lambda pieces: len(set(pieces)) == 1, zip(*parts, strict=False))
    shared = [pieces[0] for pieces in same] if len(set(paths)) > 1 else parts[0][:-1]
    name = ".".join(shared)
    modules = dict(model.named_modules(remove_duplicate=False))
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def layout_of(projections: dict[str, Projection], experts: int) -> str:
    """Return how gate and up are stored: separate, concatenated, interleaved; packed."""
    parts = {p.part for p in projections.values()}
    prefix = "packed " if experts else ""
    if parts & {"even", "odd"}:
        return prefix + "interleaved"
    if parts & {"first", "second"}:
        return prefix + "concatenated"
    return prefix + "separate"
