"""Find the feed-forward blocks of any PyTorch model from one forward pass.

`scan` returns the blocks and what came near but is none, with the reason; `discover` only
the blocks. Names in the model play no part in the decision.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.blocks import block_of
from ffn_probe.discover.layers import distinct, numbered
from ffn_probe.discover.linear import Linearity
from ffn_probe.discover.mixtures import mixtures
from ffn_probe.discover.norming import along_channels, find_norm
from ffn_probe.discover.opaque import unreadable
from ffn_probe.discover.reading import Near, Reading, read
from ffn_probe.discover.rebuild import NotRebuildable
from ffn_probe.discover.residual import in_residual_stream
from ffn_probe.discover.trace import Graph, Node, trace
from ffn_probe.errors import ModelError

_OF_ROWS = frozenset({"layernorm", "rmsnorm"})
_MIXES_POSITIONS = "its projections mix positions: they sum over another axis than its norm"


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
    readings, rejected = in_residual_stream(readings, linearity)
    near += rejected
    blocks: list[Block] = []
    sources: list[Node] = []
    for reading in readings:
        normed = find_norm(reading.source, graph, linearity, model)
        first = linearity.of[reading.gate].matrices[0]
        if normed.norm.kind in _OF_ROWS and not along_channels(reading.source, first):
            near.append(Near(reading.down.node, _MIXES_POSITIONS))
            continue
        try:
            blocks.append(block_of(reading, normed, graph, linearity, model))
        except NotRebuildable as error:
            near.append(Near(reading.down.node, f"unreadable: {error}"))
            continue
        sources.append(reading.source)
    blocks = numbered(distinct(mixtures(blocks, sources, model)), model)
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
    for path, reason in unreadable(graph, model):
        found.setdefault((path, reason), Skipped(path, reason))
    return tuple(found.values())


def tap_of(block: Block, role: str) -> Tap | None:
    """Return the first tap of a role, or None."""
    return next((t for t in block.taps if t.role == role), None)
