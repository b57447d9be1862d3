"""Find the feed-forward blocks of any PyTorch model from one forward pass.

`scan` returns the blocks and what came near but is none, with the reason; `discover` only
the blocks. Names in the model play no part in the decision.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.blocks import block_name, block_of
from ffn_probe.discover.linear import Linearity
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
from ffn_probe.discover.reading import Near, Reading, read
from ffn_probe.discover.trace import Graph, Node, trace
from ffn_probe.errors import ModelError

_DEPTH = 60
_NUMBER = re.compile(r"(?<=[._])\d+(?=$|[._])")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something near an FFN that is none or cannot be read, with the reason."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What one forward pass of a model shows."""

    blocks: tuple[Block, ...]
    skipped: tuple[Skipped, ...]


def discover(model: nn.Module, example: Any) -> tuple[Block, ...]:
    """Return the feed-forward blocks of `model`, in the order in which they run.

    Args:
        model: any nn.Module with real parameters.
        example: a mapping for model(**example), a tuple for model(*example), or a tensor.

    Raises:
        ModelError: no FFN was found, or the model cannot be read.
        ExampleError: the model rejected the example.
    """
    found = scan(model, example)
    if not found.blocks:
        near = "; ".join(f"{s.path}: {s.reason}" for s in found.skipped[:3]) or "nothing"
        raise ModelError(
            f"no FFN in {type(model).__name__}: no projection reads an activation of a "
            f"projection of the same input. Near: {near}. Does the example run the layers?"
        )
    return found.blocks


def scan(model: nn.Module, example: Any) -> Scan:
    """Return the blocks of `model` and what was skipped, from one forward pass."""
    graph = trace(model, example)
    linearity = Linearity(graph, model)
    readings, near = _read_all(linearity)
    readings, rejected = _in_residual_stream(readings)
    near += rejected
    blocks = [block_of(reading, graph, linearity, model) for reading in readings]
    sources = [reading.source for reading in readings]
    blocks = _mixtures(blocks, sources, model)
    blocks = _numbered(_distinct(blocks), model)
    return Scan(tuple(blocks), _skipped(near, graph, model, blocks))


def _read_all(linearity: Linearity) -> tuple[list[Reading], list[Near]]:
    """Return one Reading a place in the code, however often it ran."""
    readings: dict[tuple[Any, ...], Reading] = {}
    near: dict[tuple[Any, ...], Near] = {}
    for matrix in linearity.matrices.values():
        key = (matrix.node.module, matrix.node.trail, _root_names(matrix.weight))
        if key in readings:
            continue
        found = read(matrix, linearity)
        if isinstance(found, Near):
            near.setdefault(key, found)
        elif found is not None:
            entering = linearity.of[found.gate].matrices[0]
            width = entering.data.shape[entering.axis]
            if matrix.node.shape[matrix.axis] == width:
                readings[key] = found
                near.pop(key, None)
            else:
                if _is_low_rank(matrix.node, linearity):
                    continue
                made = matrix.node.shape[matrix.axis]
                text = f"{width} channels in, {made} out: not a residual branch"
                near.setdefault(key, Near(matrix.node, text))
    return list(readings.values()), list(near.values())


def _is_low_rank(node: Node, linearity: Linearity) -> bool:
    """Whether the result is only read by further projections (the A of a LoRA pair)."""
    return bool(node.consumers) and all(c in linearity.matrices for c in node.consumers)


def _root_names(weight: Node) -> frozenset[str]:
    return weight.weights


# The residual stream


def _in_residual_stream(readings: list[Reading]) -> tuple[list[Reading], list[Near]]:
    """Keep the blocks whose output is added to other data; a bare FFN stands for itself."""
    added = [r for r in readings if _is_added(r.down.node)]
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


def _is_added(node: Node) -> bool:
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


# Mixtures of experts that are modules of their own


def _mixtures(blocks: list[Block], sources: list[Node], model: nn.Module) -> list[Block]:
    """Merge blocks that are siblings in one list and read rows of one tensor."""
    groups: dict[tuple[Any, ...], list[Block]] = {}
    for block, source in zip(blocks, sources, strict=True):
        pattern = _expert_pattern(block)
        key = (id(block),) if pattern is None else (pattern[0], id(source))
        groups.setdefault(key, []).append(block)
    found: list[Block] = []
    for members in groups.values():
        pattern = _expert_pattern(members[0])
        if pattern is None or not _is_mixture(members, pattern[0], model):
            found.extend(members)
        else:
            found.append(_mixture(members, pattern[0], model))
    return found


def _expert_pattern(block: Block) -> tuple[str, int] | None:
    """Return (path with the last number replaced by *, that number), from the down path."""
    path = block.projections["down"].path
    numbers = list(_NUMBER.finditer(path))
    if not numbers or block.experts:
        return None
    last = numbers[-1]
    return path[: last.start()] + "*" + path[last.end() :], int(last.group())


def _is_mixture(members: list[Block], pattern: str, model: nn.Module) -> bool:
    container = pattern.split("*", maxsplit=1)[0].rstrip("._")
    holder = container if _exists(model, container) else container.rpartition(".")[0]
    size = _container_size(model, holder)
    return len(members) > 1 or (size > 1 and "expert" in holder.rpartition(".")[2])


def _mixture(members: list[Block], pattern: str, model: nn.Module) -> Block:
    first = members[0]
    container = pattern.split("*", maxsplit=1)[0].rstrip("._")
    holder = container if _exists(model, container) else container.rpartition(".")[0]
    size = _container_size(model, holder)
    number = {id(b): _expert_pattern(b)[1] for b in members}  # type: ignore[index]
    base = min(number.values()) if size == 0 else 0
    taps = [t for t in first.taps if t.role in {"resid"}]
    taps += [replace(t) for t in first.taps if t.role == "normed"][:0]
    prefix = first.projections["down"].path
    own = number[id(first)]
    for index in range(base, base + max(size, len(members))):
        for tap in first.taps:
            if tap.role == "resid":
                continue
            path = _renumbered(tap.path, prefix, own, index)
            if path is not None and _exists(model, path):
                taps.append(replace(tap, path=path, expert=index))
    error = max(b.recompute_error for b in members)
    flags = tuple(dict.fromkeys(f for b in members for f in b.flags))
    projections = {
        k: replace(p, path=_renumbered(p.path, prefix, own, base) or p.path)
        for k, p in first.projections.items()
    }
    name = holder
    return replace(
        first, name=name, experts=max(size, len(members)), taps=tuple(taps), flags=flags,
        recompute_error=error, projections=projections, layout="packed " * 0 + first.layout,
    )  # fmt: skip


def _renumbered(path: str, down: str, own: int, index: int) -> str | None:
    """Return `path` with expert number `own` (at its place in `down`) replaced by `index`."""
    last = list(_NUMBER.finditer(down))[-1]
    head = down[: last.start()]
    if not path.startswith(head + str(own)):
        return None
    return head + str(index) + path[len(head) + len(str(own)) :]


def _exists(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _container_size(model: nn.Module, path: str) -> int:
    if not _exists(model, path):
        return 0
    children = [name for name, _ in model.get_submodule(path).named_children()]
    return len([c for c in children if re.search(r"\d+$", c)])


# Names and layers


def _distinct(blocks: list[Block]) -> list[Block]:
    """Give blocks with the same name the path of their down projection."""
    seen: dict[str, int] = {}
    for block in blocks:
        seen[block.name] = seen.get(block.name, 0) + 1
    found: list[Block] = []
    used: set[str] = set()
    for block in blocks:
        name = block.name or block_name([block.projections["down"].path], _EMPTY) or "model"
        if seen[block.name] > 1:
            name = block.projections["down"].path
        while name in used:
            name += "+"
        used.add(name)
        found.append(replace(block, name=name))
    return found


_EMPTY = nn.Module()


def _numbered(blocks: list[Block], model: nn.Module) -> list[Block]:
    """Give each block its layer: the index in its stack, stacks one after the other.

    Numbers in a path count layers where they differ between blocks; `layer.1` of a T5 block,
    the same in all, does not.
    """
    values: dict[str, set[int]] = {}
    for block in blocks:
        for prefix, number in _numbers(block.name):
            values.setdefault(prefix, set()).add(number)
    keys: dict[str, list[tuple[int, ...]]] = {}
    places: list[tuple[str, tuple[int, ...]]] = []
    for block in blocks:
        numbers = _numbers(block.name)
        varying = [n for i, (p, n) in enumerate(numbers) if i == 0 or len(values[p]) > 1]
        stack = numbers[0][0] if numbers else ""
        places.append((stack, tuple(varying)))
        keys.setdefault(stack, []).append(tuple(varying))
    layers: dict[tuple[str, tuple[int, ...]], int] = {}
    offset = 0
    for stack, found in keys.items():
        ordered = sorted(set(found))
        flat = all(len(key) == 1 for key in ordered)
        for i, key in enumerate(ordered):
            layers[stack, key] = offset + (key[0] if flat else i)
        size = _container_size(model, stack.rpartition(".")[0]) if flat and stack else 0
        offset = max(max(layers.values()) + 1, offset + size)
    return [replace(b, layer=layers[place]) for b, place in zip(blocks, places, strict=True)]


def _numbers(path: str) -> list[tuple[str, int]]:
    """Return (pattern of the path up to a number, the number) for each number in it."""
    found: list[tuple[str, int]] = []
    pieces: list[str] = []
    for piece in path.split("."):
        if piece.isdigit():
            found.append((".".join([*pieces, "*"]), int(piece)))
            pieces.append("*")
        else:
            pieces.append(piece)
    return found


# What was skipped


def _skipped(
    near: Iterable[Near], graph: Graph, model: nn.Module, blocks: list[Block]
) -> tuple[Skipped, ...]:
    taken = {b.projections["down"].path for b in blocks}
    found: dict[tuple[str, str], Skipped] = {}
    for item in near:
        path = item.node.module or "(model)"
        if path not in taken:
            found.setdefault((path, item.reason), Skipped(path, item.reason))
    for path, reason in _opaque_modules(graph, model):
        found.setdefault((path, reason), Skipped(path, reason))
    return tuple(found.values())


def _opaque_modules(graph: Graph, model: nn.Module) -> Iterable[tuple[str, str]]:
    """Return modules with two matrices or more whose functions were not seen."""
    modules = dict(model.named_modules())
    for visit in graph.visits:
        module = modules.get(visit.path)
        if module is None or not any(n.kind == "unseen" for _, n in visit.outputs):
            continue
        ran = [n for n in graph.nodes[visit.start : visit.end] if n.kind == "op"]
        matrices = [p for p in module.parameters() if p.dim() >= 2]
        if not ran and len(matrices) >= 2:
            yield (
                visit.path,
                "unreadable: a scripted or compiled module, whose functions cannot be seen",
            )


def tap_of(block: Block, role: str) -> Tap | None:
    """Return the first tap of a role, or None."""
    return next((t for t in block.taps if t.role == role), None)
