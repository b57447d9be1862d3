"""The residual streams of a model: who writes into them, who reads them, from one pass.

A stream is read by norms and written by embedding tables, slices of parameters and matrices.
The walk goes back from what enters a norm and ends at the writers; what it cannot go through is
a writer with a reason why it is no matrix.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn

from ffn_probe.anatomy import Norm
from ffn_probe.discover.linear import Linearity
from ffn_probe.discover.norming import find_norm
from ffn_probe.discover.operations import ADDS, ROWWISE, plain
from ffn_probe.discover.trace import Graph, Node
from ffn_probe.swaps.axes import LOOKS
from ffn_probe.swaps.readers import readers_of
from ffn_probe.swaps.writers import Step, Writer, before, writer_of


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A norm module that reads a stream: each pair of what went in and what came out."""

    path: str
    norm: Norm
    passes: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One residual stream of `width` channels.

    `axes` holds every tensor of it and the axis of its channels. `others` tells what reads it
    and is no norm module.
    """

    width: int
    writers: tuple[Writer, ...]
    norms: tuple[Reading, ...]
    others: tuple[str, ...]
    axes: dict[Node, int]


@dataclass(slots=True)
class _Walk:
    """What a walk back from the norms has met."""

    outputs: dict[Node, tuple[str, Norm]]  # what norm modules return
    axes: dict[Node, int] = field(default_factory=dict)
    writers: dict[Node, Writer] = field(default_factory=dict)
    edges: list[tuple[Node, Node]] = field(default_factory=list)


def streams_of(graph: Graph, model: nn.Module) -> tuple[Stream, ...]:
    """Return the residual streams of a pass, in the order in which they are first read.

    A residual stream is one into which a matrix writes what was made from the stream itself:
    a norm of queries or of an embedding reads none.
    """
    norms = norms_of(graph, model)
    walk = _Walk({out: (n.path, n.norm) for n in norms for _, out in n.passes})
    for norm in norms:
        for entry, _ in norm.passes:
            _walk_back(walk, entry, len(entry.shape) - 1)
    _walk_on(walk)
    found = [_stream(part, walk, norms, graph) for part in _components(walk)]
    return tuple(s for s in found if _is_residual(s))


def norms_of(graph: Graph, model: nn.Module) -> tuple[Reading, ...]:
    """Return every module of a pass that computes a LayerNorm or an RMSNorm of its input."""
    linearity = Linearity(graph, model)
    found: dict[str, Norm | None] = {}
    passes: dict[str, list[tuple[Node, Node]]] = {}
    modules = dict(model.named_modules())
    for visit in graph.visits:
        if visit.path not in modules or len(visit.inputs) != 1 or len(visit.outputs) != 1:
            continue
        entry, out = visit.inputs[0][2], visit.outputs[0][1]
        inside = graph.nodes[visit.start : visit.end]
        if entry.shape != out.shape or not any(plain(n.op) in ROWWISE for n in inside):
            continue
        if visit.path not in found:
            normed = find_norm(out, graph, linearity, model)
            known = normed.norm.kind in {"layernorm", "rmsnorm"}
            found[visit.path] = normed.norm if known else None
        norm = found[visit.path]
        if norm is not None and norm.module == visit.path:
            passes.setdefault(visit.path, []).append((entry, out))
    kept = ((p, found[p], tuple(each)) for p, each in passes.items())
    return tuple(Reading(path, norm, each) for path, norm, each in kept if norm is not None)


# ---- walking back -----------------------------------------------------------------------


def _walk_back(walk: _Walk, start: Node, axis: int) -> None:
    stack = [(start, axis)]
    while stack:
        node, at = stack.pop()
        if node in walk.axes:
            continue
        walk.axes[node] = at
        writer = writer_of(node, at, walk.outputs)
        step = before(node, at) if writer is None else Step()
        if step.reason:
            writer = Writer("other", node, node.module, reason=step.reason)
        if writer is not None:
            walk.writers[node] = writer
        parents = [(parent, at) for parent, at in step.parents if 0 not in parent.shape]
        walk.edges.extend((node, parent) for parent, _ in parents)
        stack.extend(parents)


def _walk_on(walk: _Walk) -> None:
    """Go on from the streams through the sums that come after their last norms."""
    stack = list(walk.axes)
    while stack:
        node = stack.pop()
        for consumer in node.consumers:
            if plain(consumer.op) in ADDS and consumer not in walk.axes:
                known = set(walk.axes)
                _walk_back(
                    walk, consumer, walk.axes[node] - len(node.shape) + len(consumer.shape)
                )
                stack.extend(n for n in walk.axes if n not in known)


# ---- one stream -------------------------------------------------------------------------


def _components(walk: _Walk) -> list[set[Node]]:
    """Return the tensors of the walk in groups that are connected."""
    beside: dict[Node, list[Node]] = {node: [] for node in walk.axes}
    for a, b in walk.edges:
        beside[a].append(b)
        beside[b].append(a)
    parts: list[set[Node]] = []
    seen: set[Node] = set()
    for start in walk.axes:
        if start in seen:
            continue
        part: set[Node] = set()
        stack = [start]
        while stack:
            node = stack.pop()
            if node not in part:
                part.add(node)
                stack.extend(beside[node])
        seen |= part
        parts.append(part)
    return parts


def _stream(part: set[Node], walk: _Walk, norms: Iterable[Reading], graph: Graph) -> Stream:
    ordered = sorted(part, key=lambda n: n.index)
    reading = tuple(n for n in norms if any(entry in part for entry, _ in n.passes))
    inside = {
        node
        for norm in reading
        for visit in graph.visits_of(norm.path)
        for node in graph.nodes[visit.start : visit.end]
    }
    axes = {node: walk.axes[node] for node in ordered}
    width = ordered[-1].shape[axes[ordered[-1]]]
    writers = tuple(walk.writers[n] for n in ordered if n in walk.writers)
    others = tuple(dict.fromkeys(_other_readers(part, inside, graph)))
    return Stream(width, writers, reading, others, axes)


def _other_readers(part: set[Node], inside: set[Node], graph: Graph) -> Iterator[str]:
    """Tell what reads the stream beside its norms."""
    tensors = {n for n in part if n.kind != "param"}
    for node in sorted(tensors, key=lambda n: n.index):
        for reader in readers_of(node, tensors | inside, graph):
            if reader not in inside:
                yield (
                    "the model returns it"
                    if reader is node or plain(reader.op) in LOOKS
                    else f"{reader.op!r} in {reader.module or 'the model'}"
                )


def _is_residual(stream: Stream) -> bool:
    """Whether something that was made from the stream is written back into it."""
    written = {w.node for w in stream.writers if w.kind != "table"}
    tensors = [n for n in stream.axes if n.kind != "param"]
    stack = [c for n in tensors for c in n.consumers if c not in stream.axes]
    below: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in written:
            return True
        if node not in below:
            below.add(node)
            stack.extend(node.consumers)
    return False
