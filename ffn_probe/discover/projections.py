"""The names of a block's matrices: module or parameter path, and which half of it."""

from itertools import takewhile

import torch
from torch import nn

from ffn_probe.anatomy import Projection
from ffn_probe.discover.experts import expert_matrix
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
        found[name] = _projection(linearity.of[base], part, model, experts)
    found["down"] = _projection(Linear(reading.hidden, (reading.down,)), "all", model, experts)
    return found


def _projection(linear: Linear, part: str, model: nn.Module, experts: int) -> Projection:
    matrix = linear.matrices[0]
    weight = matrix.weight
    root = _parameter(weight)
    if root is None:
        return Projection(matrix.node.module, part)
    if part == "all":
        part = _weight_part(expert_matrix(weight) if experts else root, weight)
    owner = root.name.rsplit(".", 1)[0] if "." in root.name else ""
    if owner and _is_matrix_module(model.get_submodule(owner), root.name):
        return Projection(owner, part)
    runner = matrix.node.module
    if runner and _owns(model, runner, root):
        return Projection(runner, part)
    return Projection(root.name, part)


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
    for axis in reversed(range(len(root.shape))):
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


def _is_matrix_module(module: nn.Module, name: str) -> bool:
    matrices = [n for n, p in module.named_parameters(recurse=False) if p.dim() >= 2]
    return matrices == [name.rsplit(".", 1)[-1]] and next(module.children(), None) is None


def _owns(model: nn.Module, path: str, root: Node) -> bool:
    if "<" in path:
        return False
    module = model.get_submodule(path)
    own = list(module.parameters(recurse=False))
    return len([p for p in own if p.dim() >= 2]) == 1 and any(p is root.value for p in own)


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
