"""What an exact conversion of norms would change, and every reason why it cannot be exact.

Nothing is changed here: a plan is a list of edits of parameters, new biases and norm modules.
"""

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from ffn_probe.discover.trace import Graph, trace
from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.swaps.centring import plan_stream
from ffn_probe.swaps.gains import plan_vectors
from ffn_probe.swaps.plan import WAYS, Plan
from ffn_probe.swaps.stream import Stream, norms_of, streams_of


def planned(
    model: nn.Module,
    example: Any,
    target: str,
    only: Collection[str] | None,
    *,
    fold_gain: bool,
) -> Plan:
    """Return what has to be done so that every chosen norm may become `target`.

    Raises:
        SwapError: it cannot be exact, or there is nothing to convert.
    """
    graph = trace(model, example)
    streams = streams_of(graph, model)
    if only is not None:
        _check_paths(only, streams, graph, model)
    plan = _chosen(streams, target, only, type(model).__name__)
    way = WAYS[target]
    if way.mean != "kept":
        _check_placement(plan, streams)
    if not plan.reasons:
        for stream in streams:
            if way.mean != "kept" and any(n in plan.norms for n in stream.norms):
                plan_stream(plan, stream, streams, graph, model)
        for norm in plan.norms:
            plan_vectors(plan, norm, graph, model, fold_gain=fold_gain)
    advice = "; how='matched' comes near"
    plan.check(f"{way.turned} -> {target}", type(model).__name__, advice)
    return plan


def _check_paths(
    only: Collection[str], streams: Sequence[Stream], graph: Graph, model: nn.Module
) -> None:
    """Refuse paths that name no norm, or a norm that reads no residual stream."""
    reading = {n.path for stream in streams for n in stream.norms}
    known = [n.path for n in norms_of(graph, model)] if set(only) - reading else []
    for path in only:
        if path in reading:
            continue
        if path not in known:
            raise UnknownName.of("norm", path, known)
        raise SwapError(
            f"{path} reads no residual stream: what was made of its input is not added back to "
            "it. Nothing was changed; how='matched' comes near."
        )


def _chosen(
    streams: Sequence[Stream], target: str, only: Collection[str] | None, model: str
) -> Plan:
    turned = WAYS[target].turned
    reading = {n.path: n for stream in streams for n in stream.norms}
    asked = {p: n for p, n in reading.items() if only is None or p in only}
    norms = [n for n in asked.values() if n.norm.kind == turned]
    if target == "layernorm_nobias":
        norms = [n for n in norms if n.norm.bias]
    if not norms:
        seen = [f"{path} ({norm.norm.kind})" for path, norm in asked.items()]
        listed = ", ".join(seen[:4]) or "none at all"
        raise SwapError(
            f"no {turned} of {model} reads a residual stream, so there is nothing to turn into "
            f"{target}; norms that do: {listed}"
        )
    return Plan(target, norms, [p for p, n in reading.items() if n not in norms])


def _check_placement(plan: Plan, streams: Sequence[Stream]) -> None:
    """Refuse post-norms: what they write back to the stream has a gain and a bias."""
    read = {n.path for stream in streams for n in stream.norms}
    chosen = {n.path for n in plan.norms}
    behind = [
        writer.path
        for stream in streams
        for writer in stream.writers
        if writer.kind == "norm" and writer.path in read
        and (writer.path in chosen or any(n.path in chosen for n in stream.norms))
    ]  # fmt: skip
    behind = list(dict.fromkeys(behind))
    if behind:
        plan.reasons.append(
            f"post-norm: {behind[0]} writes its output back to the stream"
            + (f", and so do {len(behind) - 1} more norms" if len(behind) > 1 else "")
        )
