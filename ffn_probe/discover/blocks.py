"""From a Reading (nodes of one pass) to a Block (names, taps, recompute error)."""

from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Call, Projection, Tap
from ffn_probe.discover.linear import Linear, Linearity, Matrix
from ffn_probe.discover.norming import Normed, find_norm
from ffn_probe.discover.operations import plain
from ffn_probe.discover.reading import Reading
from ffn_probe.discover.rebuild import NotRebuildable, rebuild
from ffn_probe.discover.region import unscaled
from ffn_probe.discover.taps import part_between, part_of, tap
from ffn_probe.discover.trace import Graph, Node
from ffn_probe.zoo.fingerprint import apply_match

TOLERANCES = {
    torch.float32: 1e-4,
    torch.float64: 1e-4,
    torch.bfloat16: 3e-2,
    torch.float16: 4e-3,
}
"""Largest relative error of rebuilding `out` in float32, by the dtype of the pass."""


def block_of(reading: Reading, graph: Graph, linearity: Linearity, model: nn.Module) -> Block:
    """Return the Block that a Reading describes (layer 0; `discover` numbers the layers)."""
    gate_base, gate_part = _slice(reading.gate, linearity, reading.halves, 0)
    matrices = {"gate": (gate_base, gate_part)}
    if reading.value is not None:
        matrices["value"] = _slice(reading.value, linearity, reading.halves, 1)
    normed = find_norm(reading.source, linearity, model)
    out = _out_node(reading, linearity)
    named = {role: _named(role, reading, linearity) for role in matrices}
    projections = _projections(reading, named, linearity, model)
    error = recompute_error(reading, out)
    axis = reading.down.axis
    experts, labels = _experts(linearity.of[gate_base].matrices[0])
    taps = _taps(
        reading, normed, matrices, out, graph, linearity, experts=experts, labels=labels
    )
    name = block_name([p.path for p in projections.values()], model)
    flags = _flags(reading, error, matrices)
    return Block(
        name=name,
        layer=0,
        kind=reading.kind,
        activation=reading.activation.name if reading.activation else "other",
        norm=normed.norm,
        projections=projections,
        d_model=out.shape[axis],
        d_ff=reading.hidden.shape[axis],
        layout=_layout(projections, experts),
        experts=experts,
        recompute_error=error,
        taps=taps,
        flags=flags,
        details=_details(reading, graph),
    )


def _details(reading: Reading, graph: Graph) -> dict[str, object]:
    found: dict[str, object] = {}
    if reading.activation is not None and reading.activation.params:
        found["activation"] = {k: float(v) for k, v in reading.activation.params.items()}
    calls = graph.module_calls.get(reading.down.node.module, 1)
    if calls > 1:
        found["calls"] = calls
    return found


def _slice(
    node: Node, linearity: Linearity, halves: tuple[str, str] | None, which: int
) -> tuple[Node, str]:
    base, part = part_of(node, linearity)
    return (base, part) if halves is None else (base, halves[which])


def _named(role: str, reading: Reading, linearity: Linearity) -> tuple[Node, str]:
    """Return the matrix of a branch, below any multiplier between it and the activation."""
    node = reading.value if role == "value" and reading.value is not None else reading.gate
    which = 1 if role == "value" else 0
    return _slice(unscaled(node, linearity), linearity, reading.halves, which)


def _out_node(reading: Reading, linearity: Linearity) -> Node:
    """Return the block's output: the projection with its bias, LoRA delta and multiplier."""
    node = down = reading.down.node
    while True:
        following = [c for c in node.consumers if _completes(c, down, linearity)]
        if len(following) != 1:
            return node
        node = following[0]


def _completes(node: Node, down: Node, linearity: Linearity) -> bool:
    if node not in linearity.of or all(m.node is not down for m in linearity.of[node].matrices):
        return False
    if plain(node.op) not in {"add", "view", "reshape", "to", "squeeze", "mul", "div"}:
        return False
    around = down.module == node.module or not node.module
    return around or (down.module.startswith(node.module + ".") and bool(node.outputs_of))


# Projections


def _projections(
    reading: Reading,
    matrices: dict[str, tuple[Node, str]],
    linearity: Linearity,
    model: nn.Module,
) -> dict[str, Projection]:
    found: dict[str, Projection] = {}
    for role, (base, part) in matrices.items():
        name = "up" if role == "value" or reading.kind == "mlp" else role
        found[name] = _projection(linearity.of[base], part, model)
    found["down"] = _projection(Linear(reading.hidden, (reading.down,)), "all", model)
    return found


def _projection(linear: Linear, part: str, model: nn.Module) -> Projection:
    matrix = linear.matrices[0]
    weight = matrix.weight
    root = _parameter(weight)
    if root is None:
        return Projection(matrix.node.module, part)
    if part == "all" and not _packed(weight):
        part = _weight_part(root, weight)
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
    if root is weight or len(root.shape) != 2 or root.shape == weight.shape:
        return "all"
    if _numel(root) == _numel(weight) or len(weight.shape) != 2:
        return "all"
    axes = [a for a in (0, 1) if root.shape[a] in weight.shape]
    for axis in (0, 1):
        kept = [a for a in axes if a != axis]
        if not kept or root.shape[axis] // 2 not in weight.shape:
            continue
        part = _weight_slice(root, weight, axis)
        if part != "other":
            return part
    return "all"


def _weight_slice(root: Node, weight: Node, axis: int) -> str:
    shape = [1, 1]
    shape[axis] = root.shape[axis]
    index = torch.arange(root.shape[axis], dtype=torch.float64).reshape(shape)
    try:
        seen = rebuild(weight, {root: index.expand(root.shape).contiguous()})
    except NotRebuildable:
        return "other"
    values = torch.unique(seen)
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


def _layout(projections: dict[str, Projection], experts: int) -> str:
    parts = {p.part for p in projections.values()}
    prefix = "packed " if experts else ""
    if parts & {"even", "odd"}:
        return prefix + "interleaved"
    if parts & {"first", "second"}:
        return prefix + "concatenated"
    return prefix + "separate"


# Experts


def _packed(weight: Node) -> bool:
    return _stack_of(weight) is not None


def _stack_of(weight: Node) -> Node | None:
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


def _experts(matrix: Matrix) -> tuple[int, str]:
    """Return (number of experts, how the rows of a call are labelled); (0, "") when dense."""
    if plain(matrix.node.op).startswith("conv"):
        return 0, ""
    stack = _stack_of(matrix.weight)
    if stack is None:
        return 0, ""
    if "grouped" in matrix.node.op:
        return stack.shape[0], "offsets"
    if len(matrix.weight.shape) == 3 and _picks_rows(matrix.weight):
        return stack.shape[0], "index"
    if len(matrix.weight.shape) == 3:
        return stack.shape[0], "batch"
    return stack.shape[0], "slice"


def _picks_rows(weight: Node) -> bool:
    node: Node | None = weight
    while node is not None:
        if node.picked_by is not None and len(node.shape) == 3:
            return True
        node = next((p for p in node.parents if not p.data and p.weights), None)
    return False


def _pick_of(weight: Node) -> Node | None:
    node: Node | None = weight
    while node is not None:
        if node.picked_by is not None:
            return node
        node = next((p for p in node.parents if not p.data and p.weights), None)
    return None


# Taps


def _taps(
    reading: Reading,
    normed: Normed,
    matrices: dict[str, tuple[Node, str]],
    out: Node,
    graph: Graph,
    linearity: Linearity,
    *,
    experts: int,
    labels: str,
) -> tuple[Tap, ...]:
    axis = reading.down.axis
    calls = graph.module_calls.get(reading.down.node.module, 1)
    first = linearity.of[matrices["gate"][0]].matrices[0]
    found: list[Tap] = []
    if normed.resid is not None:
        home = normed.norm.module or ""
        found.append(tap("resid", normed.resid, graph, prefer="input", home=home, calls=calls))
    entering = reading.source if experts else first.data
    home = first.node.module
    found.append(
        tap("normed", entering, graph, prefer="input", home=home, axis=axis, calls=calls)
    )
    found.append(
        _branch_tap("gate", reading.gate, matrices["gate"], graph, axis, calls, reading)
    )
    if reading.gate_act is not None and reading.gate_act is not reading.gate:
        found.append(tap("gate_act", reading.gate_act, graph, axis=axis, calls=calls))
    if reading.value is not None:
        value = _branch_tap(
            "value", reading.value, matrices["value"], graph, axis, calls, reading
        )
        found.append(value)
    found.append(tap("hidden", reading.hidden, graph, prefer="input", axis=axis, calls=calls))
    found.append(tap("out", out, graph, axis=axis, calls=calls))
    if experts:
        return tuple(_labelled(t, first, labels) for t in found)
    return tuple(found)


def _branch_tap(
    role: str,
    node: Node,
    matrix: tuple[Node, str],
    graph: Graph,
    axis: int,
    calls: int,
    reading: Reading,
) -> Tap:
    base, part = matrix
    whole = tap(role, base, graph, axis=axis, calls=calls)
    if reading.halves is not None or (base is not node and part != "other"):
        return replace(whole, part=part)
    return whole if base is node else tap(role, node, graph, axis=axis, calls=calls)


def _labelled(found: Tap, matrix: Matrix, labels: str) -> Tap:
    if found.role in {"resid", "normed"}:
        return found
    node = matrix.node
    if labels == "index":
        node = _pick_of(matrix.weight) or node
    return replace(
        found, labels=labels, source=Call(node.op, node.trail), source_path=node.module
    )


# Error


def recompute_error(reading: Reading, out: Node) -> float:
    """Return the relative error (float32) of rebuilding `out` with the zoo's activation.

    Infinity when the block cannot be rebuilt at all. Values that are not finite, here or
    there, are left out: a model of NaN can be watched too.
    """
    if reading.activation is None or out.value is None:
        return float("inf")
    try:
        rebuilt = _rebuilt(reading, out)
    except NotRebuildable:
        return float("inf")
    expected = out.value.detach().float()
    finite = expected.isfinite() & rebuilt.isfinite()
    expected, rebuilt = torch.where(finite, expected, 0), torch.where(finite, rebuilt, 0)
    scale = float(expected.norm())
    difference = float((rebuilt - expected).norm())
    if scale == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / scale


def _rebuilt(reading: Reading, out: Node) -> Tensor:
    source = reading.source
    if source.value is None:
        raise NotRebuildable("the input of the block was dropped; pass a shorter example")
    given = {source: source.value.detach()}
    gate = rebuild(reading.gate, given, dtype=torch.float32)
    value = None
    if reading.halves is not None:
        value, gate = gate.chunk(2, dim=-1)
    elif reading.value is not None:
        value = rebuild(reading.value, given, dtype=torch.float32)
    assert_match = reading.activation
    if assert_match is None:
        raise NotRebuildable("no activation of the zoo fits")
    product = apply_match(assert_match, gate, value)
    return rebuild(out, {reading.product: product, source: given[source]}, dtype=torch.float32)


def _flags(
    reading: Reading, error: float, matrices: dict[str, tuple[Node, str]]
) -> tuple[str, ...]:
    found: list[str] = []
    if reading.activation is None:
        found.append("no activation of the zoo fits")
    if any(part == "other" for _, part in matrices.values()):
        found.append("the branches are slices of a kind that has no name")
    tolerance = TOLERANCES.get(reading.hidden.dtype, 3e-2)
    if not error <= tolerance:
        found.append(f"recompute error {error:.2g} is over the tolerance {tolerance:g}")
    return tuple(found)


__all__ = ["TOLERANCES", "block_name", "block_of", "part_between", "recompute_error"]
