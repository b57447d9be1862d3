"""Which norm made a tensor: its input, its module, and its fingerprint.

The norm's piece of the dataflow is run again on synthetic rows of varied mean and scale in
float64, and the input/output pairs are compared with every norm of the zoo.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Norm
from ffn_probe.discover.linear import Linearity, Matrix
from ffn_probe.discover.operations import CASTS, POINTWISE, ROWWISE, VIEWS, plain
from ffn_probe.discover.rebuild import NotRebuildable, rebuild
from ffn_probe.discover.region import passable
from ffn_probe.discover.trace import Graph, Node
from ffn_probe.discover.unknown import is_made_of, unknown_norm
from ffn_probe.zoo.fingerprint import identify_norm

_MAX_NODES = 40
_SHIFTS = frozenset({"pad", "roll", "cat", "constant_pad_nd"})
_EPS_NAMES = (
    "eps",
    "variance_epsilon",
    "epsilon",
    "layer_norm_eps",
    "norm_eps",
    "rms_norm_eps",
)


@dataclass(frozen=True, slots=True)
class Normed:
    """The norm, the tensor that enters it and the tensor that leaves it."""

    norm: Norm
    resid: Node | None
    normed: Node


def find_norm(source: Node, graph: Graph, linearity: Linearity, model: nn.Module) -> Normed:
    """Return the norm that made `source`; kind "none" when none did, "other" if unknown.

    Between the norm and the FFN there may be a mix with the token before (RWKV), a scale
    and a shift by a condition (DiT), or a dispatch to experts by a product.
    """
    for end in [source, *_mixed_from(source), *_modulated(source), *_dispatched(source)]:
        found = _nearest(end, source, linearity, model)
        if found is not None:
            return found
    unknown = unknown_norm(source, graph, linearity)
    if unknown is not None:
        entry, inside, owner = unknown
        return Normed(_unknown(inside, owner, linearity, model), entry, source)
    return Normed(Norm("none"), None, source)


def _unknown(inside: list[Node], owner: str, linearity: Linearity, model: nn.Module) -> Norm:
    """Return the Norm of a module whose formula is not known, with what vectors it has."""
    leaves: list[str] = []
    if not any(node in linearity.matrices for node in inside):
        held = [p for node in inside for p in node.parents if isinstance(p.value, nn.Parameter)]
        leaves = [p.name.rpartition(".")[2] for p in held if len(p.shape) == 1]
    bias = any("bias" in leaf for leaf in leaves)
    gain = "w" if any("bias" not in leaf for leaf in leaves) else None
    return Norm("other", owner, gain, bias=bias, eps=_eps_hint(inside, owner, model))


def _modulated(source: Node) -> list[Node]:
    """Return what a condition scales and shifts: operands that the condition is not made of."""
    found: list[Node] = []
    node = source
    for _ in range(6):
        data = [p for p in node.parents if p.data]
        if plain(node.op) not in {"add", "mul", "addcmul"} or len(data) < 2:
            return found
        wide = [p for p in data if p.shape == node.shape]
        others = [p for p in data if p.shape != node.shape]
        if len(wide) != 1 or any(is_made_of(other, wide[0]) for other in others):
            return found
        node = wide[0]
        found.append(node)
    return found


def _dispatched(source: Node) -> list[Node]:
    """Return the tensor whose rows a product with a mask sends to experts."""
    if plain(source.op) not in {"einsum", "matmul", "bmm"}:
        return []
    return [p for p in source.parents if p.data and p.shape[-1:] == source.shape[-1:]]


def along_channels(source: Node, matrix: Matrix) -> bool:
    """Return whether `matrix` sums over the last axis of `source`, the one a norm is over.

    A token mixer sums over positions: its operand does not change along that axis.
    """
    if not matrix.data.shape or plain(matrix.node.op) == "einsum":
        return True
    index = torch.arange(source.shape[-1], dtype=torch.float64)
    try:
        seen = rebuild(matrix.data, {source: index.expand(source.shape).contiguous()})
    except NotRebuildable:
        return True
    seen = seen.movedim(matrix.axis, -1)
    return seen.shape[-1] == 1 or bool((seen[..., 0] != seen[..., -1]).any())


def _nearest(end: Node, source: Node, linearity: Linearity, model: nn.Module) -> Normed | None:
    """Return the norm that ends at `end`, from the nearest node that it can begin at.

    An RMSNorm of a difference is looked at from further away: a LayerNorm that centres first.
    """
    found: Normed | None = None
    for entry, inside in _entries(end, linearity):
        if not any(plain(n.op) in ROWWISE or _is_squash(n) for n in inside):
            continue
        norm = _identify(end, entry, inside, model)
        if norm is None:
            return found
        if found is None or norm.kind == "layernorm":
            found = Normed(norm, entry, source)
        if norm.kind == "layernorm" or plain(entry.op) != "sub":
            return found
    return found


def _mixed_from(source: Node) -> list[Node]:
    """Return the one tensor of which `source` is a mix of each token and the one before."""
    heap = {source}
    shifted = False
    for _ in range(_MAX_NODES):
        node = max(heap, key=lambda n: n.index)
        heap.discard(node)
        if not heap and shifted:
            return [node]
        name = plain(node.op)
        shifted = shifted or name in _SHIFTS
        mixes = name in _SHIFTS or name in {"mul", "add", "sub", "lerp", "addcmul"}
        if not mixes or node.kind not in {"op", "item"}:
            return []
        heap.update(p for p in node.parents if p.data)
        if not heap:
            return []
    return []


def _is_squash(node: Node) -> bool:
    return plain(node.op) in {"tanh", "erf"} and any(
        p.op in {"mul", "__mul__", "__rmul__"} for p in node.parents
    )


def _entries(source: Node, linearity: Linearity) -> Iterator[tuple[Node, list[Node]]]:
    """Return nodes that all of `source` passes, nearest first, with what lies between."""
    heap = {source}
    inside: list[Node] = []
    while heap and len(inside) < _MAX_NODES:
        node = max(heap, key=lambda n: n.index)
        heap.discard(node)
        if not heap and inside and (plain(node.op) not in CASTS or node in linearity.of):
            yield node, list(inside)
        allowed = passable(node) or plain(node.op) in {"sum"}
        if node in linearity.of or node.kind not in {"op", "item"} or not allowed:
            return
        inside.append(node)
        heap.update(p for p in node.parents if p.data)


def _identify(source: Node, entry: Node, inside: list[Node], model: nn.Module) -> Norm | None:
    x = _rows(entry)
    try:
        y = rebuild(source, {entry: x})
    except NotRebuildable:
        return None
    if y.shape != x.shape:
        return None
    weight, bias = _parameters(inside, x.shape[-1])
    owner = _owner(source, inside)
    hint = _eps_hint(inside, owner, model)
    rows_x, rows_y = x.reshape(-1, x.shape[-1]), y.reshape(-1, x.shape[-1])
    tries = [(weight, bias)] + ([(bias, weight)] if bias is not None else [])
    matches = [identify_norm(rows_x, rows_y, w, b, eps_hint=hint) for w, b in tries]
    found = [m for m in matches if m is not None]
    if not found:
        return None
    best = min(found, key=lambda m: m.error)
    if best.kind == "none":
        return None
    return Norm(
        kind=best.kind,
        module=owner,
        gain=best.gain,
        bias=best.bias,
        eps=_default_eps(inside, best.eps),
        cast=_cast_convention(source, inside, weighted=weight is not None),
        function=best.function,
    )


def _default_eps(inside: list[Node], found: float | None) -> float | None:
    """Return the eps of F.rms_norm without one (the dtype's), else what was found."""
    for node in inside:
        given = node.kwargs.get("eps", node.args[3] if len(node.args) > 3 else None)
        if plain(node.op) == "rms_norm" and given is None:
            return torch.finfo(node.dtype).eps
    return found


def _rows(entry: Node) -> Tensor:
    """Return float64 rows of varied mean (0, 0.1, 3 sigma) and scale (1e-5 .. 30)."""
    width = entry.shape[-1]
    count = 1
    for length in entry.shape[:-1]:
        count *= length
    generator = torch.Generator().manual_seed(20240)
    x = torch.randn(count, width, generator=generator, dtype=torch.float64)
    scales = torch.tensor([1.0, 1e-2, 30.0, 1e-3, 0.3, 1e-4, 3.0, 1e-5], dtype=torch.float64)
    means = torch.tensor([0.0, 3.0, 0.1, -1.0, 0.5], dtype=torch.float64)
    index = torch.arange(count)
    x = (x + means[index % 5][:, None]) * scales[index % 8][:, None]
    device = entry.value.device if entry.value is not None else torch.device("cpu")
    return x.reshape(entry.shape).to(device)


def _parameters(inside: list[Node], width: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the vectors of the norm: (weight, bias) by order of use, bias by its name."""
    names: dict[str, Tensor] = {}
    for node in reversed(inside):
        stack = [p for p in node.parents if not p.data]
        while stack:
            parent = stack.pop()
            if parent.kind == "param" and parent.value is not None:
                if parent.shape and parent.shape[-1] == width and parent.value.numel() == width:
                    names[parent.name] = parent.value.detach().reshape(-1).double()
            else:
                stack.extend(parent.parents)
    biases = [n for n in names if "bias" in n.rsplit(".", 1)[-1] or n.endswith((".beta", ".b"))]
    weights = [n for n in names if n not in biases]
    weight = names[weights[0]] if weights else None
    bias = names[biases[0]] if biases else (names[weights[1]] if len(weights) > 1 else None)
    return weight, bias


def _owner(source: Node, inside: list[Node]) -> str | None:
    """Return the module whose forward did the norm, when it did nothing else."""
    paths = {node.module for node in inside if plain(node.op) not in VIEWS | CASTS}
    outputs = {path for node in _aliases(source) for path, _ in node.outputs_of}
    both = [p for p in paths & outputs if p]
    if both:
        return min(both, key=len)
    prefixes = [p for p in outputs if p and all(q == p or q.startswith(p + ".") for q in paths)]
    return min(prefixes, key=len) if prefixes else None


def _aliases(source: Node) -> list[Node]:
    """Return `source` and the casts and views that follow it in the same module."""
    found = [source]
    for node in found:
        quiet = [c for c in node.consumers if plain(c.op) in VIEWS | CASTS]
        found.extend(c for c in quiet if c.module == source.module and c not in found)
    return found


def _eps_hint(inside: list[Node], owner: str | None, model: nn.Module) -> float | None:
    if owner is not None:
        module = model.get_submodule(owner)
        for name in _EPS_NAMES:
            value = getattr(module, name, None)
            if isinstance(value, float):
                return value
    for node in inside:
        for arg in (*node.args, *node.kwargs.values()):
            if (
                isinstance(arg, float)
                and 0 < arg < 0.1
                and plain(node.op) in POINTWISE | ROWWISE
            ):
                return arg
    return None


def _cast_convention(source: Node, inside: list[Node], *, weighted: bool) -> str:
    """Return where the casts stand: what a port has to get right in low precision.

    "fused" (one kernel), "native" (no upcast), "cast-then-weight" (normalise in float32,
    cast back, multiply: the llama way), "weight-then-cast" (all in float32, cast last).
    """
    if len(_aliases(source)) > 1 and weighted and _cast_after(source):
        return "weight-then-cast"
    ops = [plain(node.op) for node in inside]
    if any(
        op in {"layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm"} for op in ops
    ):
        return "fused"
    casts = [i for i, op in enumerate(ops) if op in CASTS]
    if not casts:
        return "native"
    if not weighted:
        return "float32"
    products = [i for i, node in enumerate(inside) if ops[i] == "mul" and _has_parameter(node)]
    if products and min(casts) < products[0]:
        return "weight-then-cast"
    return "cast-then-weight" if products and casts else "float32"


def _cast_after(source: Node) -> bool:
    later = [c for c in source.consumers if plain(c.op) in CASTS and c.module == source.module]
    return bool(later) and plain(source.op) in {"mul", "add"}


def _has_parameter(node: Node) -> bool:
    return any(not p.data and p.weights for p in node.parents)
