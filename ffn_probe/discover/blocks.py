"""From a Reading (nodes of one pass) to a Block (names, taps, recompute error)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Call, Tap
from ffn_probe.discover.experts import experts_of, pick_of
from ffn_probe.discover.linear import Linearity, Matrix
from ffn_probe.discover.norming import Normed
from ffn_probe.discover.operations import plain
from ffn_probe.discover.projections import block_name, layout_of, projections_of
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


def block_of(
    reading: Reading, normed: Normed, graph: Graph, linearity: Linearity, model: nn.Module
) -> Block:
    """Return the Block that a Reading describes (layer 0; `discover` numbers the layers)."""
    gate_base, gate_part = _slice(reading.gate, linearity, reading.halves, 0)
    matrices = {"gate": (gate_base, gate_part)}
    if reading.value is not None:
        matrices["value"] = _slice(reading.value, linearity, reading.halves, 1)
    out = _out_node(reading, linearity)
    named = {role: _named(role, reading, linearity) for role in matrices}
    experts, labels = experts_of(linearity.of[gate_base].matrices[0], reading.down)
    projections = projections_of(reading, named, linearity, model, experts=experts)
    error = recompute_error(reading, out)
    axis = reading.down.axis
    taps = _taps(
        reading, normed, matrices, out, graph, linearity, experts=experts, labels=labels
    )
    calls = graph.module_calls.get(reading.down.node.module, 1)
    product = tap("product", reading.product, graph, axis=axis, calls=calls)
    if experts:
        product = _labelled(product, linearity.of[gate_base].matrices[0], labels)
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
        layout=layout_of(projections, experts),
        experts=experts,
        recompute_error=error,
        taps=taps,
        products=(product,),
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
    found = node = down = reading.down.node
    while True:
        following = [c for c in node.consumers if _completes(c, down, linearity)]
        if len(following) != 1:
            return found
        node = following[0]
        if _is_outside(node, down):  # a part of what a module around the projection returns
            if node.outputs_of:
                found = node
        else:
            found = node


def _completes(node: Node, down: Node, linearity: Linearity) -> bool:
    if node not in linearity.of or all(m.node is not down for m in linearity.of[node].matrices):
        return False
    if plain(node.op) not in {"add", "view", "reshape", "to", "squeeze", "mul", "div"}:
        return False
    return not _is_outside(node, down) or down.module.startswith(node.module + ".")


def _is_outside(node: Node, down: Node) -> bool:
    return bool(node.module) and down.module != node.module


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
    sliced = base is not node and base.shape[axis] > node.shape[axis] and part != "other"
    if reading.halves is not None or sliced:
        return replace(whole, part=part)
    return whole if base is node else tap(role, node, graph, axis=axis, calls=calls)


def _labelled(found: Tap, matrix: Matrix, labels: str) -> Tap:
    if found.role in {"resid", "normed"}:
        return found
    node = matrix.node
    if labels == "index":
        node = pick_of(matrix.weight) or node
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
    # What the smallest numbers of the dtype cannot hold is no error of the rebuilding.
    kept = torch.finfo(out.value.dtype)
    apart = ((rebuilt - expected).abs() - kept.smallest_normal * kept.eps).clamp(min=0)
    difference = float(apart.norm())
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
