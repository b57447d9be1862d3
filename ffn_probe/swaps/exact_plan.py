"""What an exact conversion of norms would change, and every reason why it cannot be exact.

Nothing is changed here: a plan is a list of edits of parameters, new biases and norm modules.
"""

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from ffn_probe.discover.trace import trace
from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.swaps.centring import plan_stream
from ffn_probe.swaps.gains import plan_vectors
from ffn_probe.swaps.plan import KINDS, Plan
from ffn_probe.swaps.stream import Stream, streams_of


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
    wanted = "rmsnorm" if KINDS[target] == "layernorm" else "layernorm"
    plan = _chosen(streams, target, wanted, only, type(model).__name__)
    _check_placement(plan, streams)
    if not plan.reasons:
        for stream in streams:
            if any(n in plan.norms for n in stream.norms):
                plan_stream(plan, stream, streams, graph, model)
        for norm in plan.norms:
            plan_vectors(plan, norm, graph, model, fold_gain=fold_gain)
    plan.check(f"{wanted} -> {target}", type(model).__name__)
    return plan


def _chosen(
    streams: Sequence[Stream],
    target: str,
    wanted: str,
    only: Collection[str] | None,
    model: str,
) -> Plan:
    reading = {n.path: n for stream in streams for n in stream.norms}
    for path in only or ():
        if path not in reading:
            raise UnknownName.of("norm that reads a residual stream", path, reading)
    kinds = [n for n in reading.values() if n.norm.kind == wanted]
    norms = [n for n in kinds if only is None or n.path in only]
    if not norms:
        seen = [
            f"{n.path} ({n.norm.kind})" for n in reading.values() if not only or n.path in only
        ]
        listed = ", ".join(seen[:4]) or "none at all"
        raise SwapError(
            f"no {wanted} of {model} reads a residual stream, so there is nothing to turn into "
            f"{target}; norms that do: {listed}"
        )
    return Plan(target, norms, [p for p, n in reading.items() if n not in norms])


def _check_placement(plan: Plan, streams: Sequence[Stream]) -> None:
    """Refuse post-norms: what they write back to the stream has a gain and a bias."""
    read = {n.path for stream in streams for n in stream.norms}
    writers = [w for stream in streams for w in stream.writers if w.kind == "norm"]
    behind = list(dict.fromkeys(w.path for w in writers if w.path in read))
    if behind:
        plan.reasons.append(
            f"post-norm: {behind[0]} writes its output back to the stream"
            + (f", and so do {len(behind) - 1} more norms" if len(behind) > 1 else "")
        )
