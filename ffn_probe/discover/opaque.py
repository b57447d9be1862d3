"""Code that hides its arithmetic: scripts, fused kernels, compiled extensions.

Nothing is guessed about it. What has the size of an FFN is named with the reason.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket

from ffn_probe.discover.operations import PROJECTIONS, plain
from ffn_probe.discover.residual import is_added
from ffn_probe.discover.trace import Graph, Node

_SCRIPTED = "unreadable: a scripted or compiled module, whose functions cannot be seen"
_HIDDEN = "unreadable: a result that is added to the stream is made by code that cannot be seen"
_MATRIX_OPS = frozenset({f"aten::{name}" for name in PROJECTIONS})


def unreadable(graph: Graph, model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield (path, reason) of everything that may hold an FFN and cannot be read."""
    scripted = list(_scripted(graph, model))
    for path in scripted:
        yield path, _SCRIPTED
    for node in graph.nodes:
        if _is_fused(node):
            yield (
                node.module or "(model)",
                f"unreadable: one function ({node.op}) uses several matrices",
            )
        elif node.kind == "unseen" and node.module not in scripted and _joins_stream(node):
            yield node.module or "(model)", f"{_HIDDEN} (a torch.jit script or an extension)"


def _scripted(graph: Graph, model: nn.Module) -> Iterator[str]:
    modules = dict(model.named_modules())
    for visit in graph.visits:
        module = modules.get(visit.path)
        if module is None or not any(n.kind == "unseen" for _, n in visit.outputs):
            continue
        ran = any(n.kind == "op" for n in graph.nodes[visit.start : visit.end])
        if not ran and _matrices(module) >= 2:
            yield visit.path


def _matrices(module: nn.Module) -> int:
    """Return how many matrices a module holds; a frozen script holds them as constants."""
    held = sum(p.dim() >= 2 for p in module.parameters())
    if held or not isinstance(module, torch.jit.ScriptModule):
        return held
    return sum(node.kind() in _MATRIX_OPS for node in module.inlined_graph.nodes())


def _is_fused(node: Node) -> bool:
    """Whether a custom operator takes two matrices and more at once."""
    if plain(node.op) in PROJECTIONS or not isinstance(
        node.func, OpOverload | OpOverloadPacket
    ):
        return False
    return sum(not p.data and bool(p.weights) and len(p.shape) >= 2 for p in node.parents) >= 2


def _joins_stream(node: Node) -> bool:
    return node.dtype.is_floating_point and len(node.shape) >= 2 and is_added(node)
