"""What an exact conversion of norms would change, and every reason why it cannot be exact.

Nothing is changed here: a plan is a list of edits of parameters, new biases and norm modules.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.discover.trace import Graph, Node, trace
from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.swaps.readers import FORMS, Linear, linear_readers
from ffn_probe.swaps.stream import Reading, Stream, streams_of
from ffn_probe.swaps.writers import Writer
from ffn_probe.zoo.norms import NORMS

KINDS = {form.name: form.kind for form in NORMS}
_CENTRED = 16.0
"""How many roundings (eps times the RMS) a mean may have and still count as zero."""

_SHOWN = 3
"""Reasons in one message."""

_BIASES = frozenset({"bias", "beta", "b"})


@dataclass(slots=True)
class Plan:
    """What will be done; `edits` are made in float64, in their order."""

    target: str
    norms: list[Reading] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    edits: dict[str, list[Callable[[Tensor], Tensor]]] = field(default_factory=dict)
    added: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    centred: dict[str, int] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)  # bias -> the norm it takes from
    folded: dict[str, str] = field(default_factory=dict)  # weight -> likewise
    reasons: list[str] = field(default_factory=list)

    def edit(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        """Add an edit of a parameter."""
        self.edits.setdefault(name, []).append(change)


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
                _plan_stream(plan, stream, streams, graph, model)
        for norm in plan.norms:
            _plan_vectors(plan, norm, graph, model, fold_gain=fold_gain)
    if plan.reasons:
        reasons = list(dict.fromkeys(plan.reasons))
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        raise SwapError(
            f"{wanted} -> {target} cannot be exact in {type(model).__name__}: "
            f"{'; '.join(reasons[:_SHOWN])}{more}. Nothing was changed; "
            "how='matched' comes near."
        )
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


# ---- the stream -------------------------------------------------------------------------


def _plan_stream(
    plan: Plan, stream: Stream, streams: Sequence[Stream], graph: Graph, model: nn.Module
) -> None:
    """Plan to centre every writer, unless the stream has no mean already."""
    means = [r for w in stream.writers for r in _means(w, model)]
    if not means:
        return
    if KINDS[plan.target] == "layernorm":
        plan.reasons.append(f"the stream has a mean, which an RMSNorm reads: {means[0]}")
        return
    places = _places(streams)
    for writer in stream.writers:
        if writer.reason or writer.kind == "norm":
            _plan_other(plan, writer, model)
        for name, axis in writer.parameters:
            _plan_centring(plan, name, axis, places, graph, model)
    for norm in stream.norms:
        if norm.norm.kind != "layernorm":
            plan.reasons.append(f"{norm.path} is no LayerNorm and reads the stream's mean")
    plan.reasons += [f"the stream is also read by what is no norm: {o}" for o in stream.others]


def _means(writer: Writer, model: nn.Module) -> list[str]:
    """Say what gives the stream a mean."""
    if writer.kind == "norm":
        why = _norm_mean(writer, model)
        return [why] if why else []
    if writer.reason:
        return [f"{writer.place}: {writer.reason}"]
    found: list[str] = []
    for name, axis in writer.parameters:
        held = held_tensor(name, model)
        if held is None or not held.is_floating_point():
            found.append(f"{name} is no parameter of a module")
            continue
        values = held.detach().double()
        scale = float(values.square().mean().sqrt())
        mean = float(values.mean(axis).abs().max())
        if mean > _CENTRED * torch.finfo(held.dtype).eps * scale:
            found.append(f"{name} writes up to {mean:.1e} at an RMS of {scale:.1e}")
    return found


def _norm_mean(writer: Writer, model: nn.Module) -> str:
    """Say why the output of a norm has a mean; "" when it has none."""
    if writer.norm is None or writer.norm.kind != "layernorm":
        return f"{writer.path} is no LayerNorm: what it writes has a mean"
    gain, bias = stored_vectors(model.get_submodule(writer.path), writer.node.shape[-1])
    if gain is not None and not bool((gain == gain[0]).all()):
        return (
            f"the norm {writer.path} writes into the stream, and its gain is not the same for "
            "every channel"
        )
    if bias is None:
        return ""
    return "" if float(bias.double().mean().abs()) == 0.0 else f"{writer.path} has a bias"


def _plan_other(plan: Plan, writer: Writer, model: nn.Module) -> None:
    """Plan for a writer that is no table or matrix: a norm with one gain can be centred."""
    if writer.kind != "norm":
        plan.reasons.append(f"{writer.place} writes into the stream, and {writer.reason}")
        return
    why = _norm_mean(writer, model)
    module = model.get_submodule(writer.path)
    biases = [n for n, _ in module.named_parameters() if n.rsplit(".", 1)[-1] in _BIASES]
    if why.endswith("has a bias") and biases:
        _centre(plan, f"{writer.path}.{biases[0]}", 0)
    elif why:
        plan.reasons.append(why)


def _plan_centring(
    plan: Plan, name: str, axis: int, places: set[Node], graph: Graph, model: nn.Module
) -> None:
    if plan.centred.get(name, axis) != axis:
        plan.reasons.append(f"{name} writes into the stream along two of its axes")
    if name in plan.centred:
        return
    elsewhere = _read_elsewhere(name, places, graph)
    if elsewhere:
        plan.reasons.append(
            f"{name} is tied: it writes into the stream and is read by {elsewhere} too (give "
            "that its own copy first)"
        )
    held = held_tensor(name, model)
    if held is None or not held.is_floating_point():
        plan.reasons.append(f"{name} is no floating parameter or buffer of a module")
    _centre(plan, name, axis)


def _centre(plan: Plan, name: str, axis: int) -> None:
    plan.centred[name] = axis
    plan.edit(name, lambda values: values - values.mean(axis, keepdim=True))


def _places(streams: Sequence[Stream]) -> set[Node]:
    """Return where a writer's parameter may be read: where streams are written."""
    found: set[Node] = set()
    for stream in streams:
        found |= set(stream.axes)
        found |= {w.node.parents[0] for w in stream.writers if w.node.op == "item_of"}
    return found


def _read_elsewhere(name: str, places: set[Node], graph: Graph) -> str:
    """Return what reads a parameter outside of `places`; "" when nothing does."""
    stack = [n for n in graph.nodes if n.kind == "param" and n.name == name]
    while stack:
        for consumer in stack.pop().consumers:
            if consumer in places or consumer.op in FORMS:
                continue
            if consumer.data:
                return f"{consumer.op!r} in {consumer.module or 'the model'}"
            stack.append(consumer)
    return ""


# ---- the norm's own gain and bias -------------------------------------------------------


def _plan_vectors(
    plan: Plan, reading: Reading, graph: Graph, model: nn.Module, *, fold_gain: bool
) -> None:
    """Plan to add a norm's bias (and multiply its gain) into the matrices behind it."""
    gain, bias = stored_vectors(
        model.get_submodule(reading.path), reading.passes[0][1].shape[-1]
    )
    beta = bias if bias is not None and bool(bias.any()) else None
    if beta is None and not fold_gain:
        return
    found: list[Linear] = []
    for _, out in reading.passes:
        linears, others = linear_readers(out, graph, model)
        found += linears
        plan.reasons += [
            f"{reading.path} has a {'gain to fold' if beta is None else 'bias'} and is read by "
            f"what is no matrix: {other} (that norm alone may stay as it is)"
            for other in others
        ]
    nodes = {linear.node for linear in found}
    for linear in {(each.path, each.weight): each for each in found}.values():
        if beta is not None:
            _plan_bias(plan, linear, beta, reading.path, nodes, graph)
        if fold_gain and gain is not None:
            _plan_gain(plan, linear, effective_gain(gain, reading), reading.path, nodes, graph)


def _plan_bias(
    plan: Plan, linear: Linear, beta: Tensor, norm: str, nodes: set[Node], graph: Graph
) -> None:
    delta = _through(linear, beta.detach().double())
    if delta is None:
        plan.reasons.append(f"{linear.path} reads {norm} by a weight that is no single matrix")
    elif linear.bias:
        elsewhere = _shared(linear.bias, plan.biases, norm, nodes, graph)
        if elsewhere:
            plan.reasons.append(f"{linear.bias} cannot take the bias of {norm}: {elsewhere}")
        elif linear.bias not in plan.biases:
            plan.biases[linear.bias] = norm
            plan.edit(linear.bias, lambda values: values + delta.to(values.device))
    elif linear.slot is None:
        plan.reasons.append(
            f"{norm} has a bias, and {linear.path or linear.weight} has no place for one"
        )
    elif not _only_reads(linear, nodes, graph):
        plan.reasons.append(f"{linear.path} also reads what {norm} does not normalise")
    else:
        plan.added[linear.slot] = delta


def _plan_gain(
    plan: Plan, linear: Linear, gain: Tensor, norm: str, nodes: set[Node], graph: Graph
) -> None:
    elsewhere = _shared(linear.weight, plan.folded, norm, nodes, graph)
    if elsewhere:
        plan.reasons.append(f"{linear.weight} cannot take the gain of {norm}: {elsewhere}")
    elif linear.weight not in plan.folded:
        plan.folded[linear.weight] = norm
        axis = linear.axis

        def scaled(values: Tensor) -> Tensor:
            sizes = [1] * values.dim()
            sizes[axis] = len(gain)
            return values * gain.double().to(values.device).view(sizes)

        plan.edit(linear.weight, scaled)


def _shared(name: str, taken: dict[str, str], norm: str, nodes: set[Node], graph: Graph) -> str:
    """Say who else reads a parameter than the matrices behind one norm; "" when nobody."""
    if taken.get(name, norm) != norm:
        return f"it takes that of {taken[name]}"
    elsewhere = _read_elsewhere(name, nodes, graph)
    return f"it is also read by {elsewhere}" if elsewhere else ""


def _through(linear: Linear, beta: Tensor) -> Tensor | None:
    """Return what a matrix makes of a vector [d_model], in float64."""
    value = linear.operand.value
    if value is None:
        return None
    weight = value.detach().double()
    weight = weight.flatten(1) if linear.rows_out else weight
    if weight.dim() != 2 or weight.shape[1 if linear.rows_out else 0] != len(beta):
        return None
    return weight @ beta if linear.rows_out else beta @ weight


def _only_reads(linear: Linear, nodes: set[Node], graph: Graph) -> bool:
    return all(
        node in nodes
        for node in graph.nodes
        if node.module == linear.path and linear.operand in node.parents
    )


# ---- what modules hold ------------------------------------------------------------------


def stored_vectors(module: nn.Module, width: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the gain and the bias of a norm module as they are stored: [width] each."""
    vectors = {n: p for n, p in module.named_parameters() if p.numel() == width}
    biases = [p for n, p in vectors.items() if n.rsplit(".", 1)[-1] in _BIASES]
    gains = [p for n, p in vectors.items() if n.rsplit(".", 1)[-1] not in _BIASES]
    return (
        gains[0].detach().reshape(-1) if gains else None,
        biases[0].detach().reshape(-1) if biases else None,
    )


def effective_gain(gain: Tensor, reading: Reading) -> Tensor:
    """Return by what a norm multiplies, from what it stores."""
    return gain.detach() + 1 if reading.norm.gain == "1+w" else gain.detach()


def held_tensor(name: str, model: nn.Module) -> Tensor | None:
    """Return the parameter or buffer of that name, None when a module holds it otherwise."""
    path, _, leaf = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    if module is None:
        return None
    parameter: Tensor | None = module._parameters.get(leaf)
    return parameter if parameter is not None else module._buffers.get(leaf)
