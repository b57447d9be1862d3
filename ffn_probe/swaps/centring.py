"""Plan to take the mean out of everything that is written into a residual stream."""

from collections.abc import Sequence

import torch
from torch import nn

from ffn_probe.discover.trace import Graph, Node
from ffn_probe.swaps.gains import BIASES, vectors_of
from ffn_probe.swaps.plan import WAYS, Plan, held_tensor
from ffn_probe.swaps.readers import read_elsewhere
from ffn_probe.swaps.stream import Stream
from ffn_probe.swaps.writers import Writer

_CENTRED = 16.0
"""How many roundings (eps times the RMS) a mean may have and still count as zero."""


def plan_stream(
    plan: Plan, stream: Stream, streams: Sequence[Stream], graph: Graph, model: nn.Module
) -> None:
    """Plan to centre every writer, unless the stream has no mean already."""
    means = [r for w in stream.writers for r in _means(w, model)]
    if not means:
        return
    if WAYS[plan.target].mean == "checked":
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
        if not mean <= _CENTRED * torch.finfo(held.dtype).eps * scale:
            found.append(f"{name} writes up to {mean:.1e} at an RMS of {scale:.1e}")
    return found


def _norm_mean(writer: Writer, model: nn.Module) -> str:
    """Say why the output of a norm has a mean; "" when it has none."""
    if writer.norm is None or writer.norm.kind != "layernorm":
        return f"{writer.path} is no LayerNorm: what it writes has a mean"
    gain, bias = vectors_of(model.get_submodule(writer.path), writer.node.shape[-1])
    if gain is not None and bool((gain != gain.flatten()[0]).any()):
        return (
            f"the norm {writer.path} writes into the stream, and its gain is not the same for "
            "every channel"
        )
    if bias is None:
        return ""
    mean = float(bias.detach().double().mean())
    return "" if mean == 0.0 else f"{writer.path} has a bias"


def _plan_other(plan: Plan, writer: Writer, model: nn.Module) -> None:
    """Plan for a writer that is no table or matrix: a norm with one gain can be centred."""
    if writer.kind != "norm":
        plan.reasons.append(f"{writer.place} writes into the stream, and {writer.reason}")
        return
    why = _norm_mean(writer, model)
    module = model.get_submodule(writer.path)
    biases = [n for n, _ in module.named_parameters() if n.rsplit(".", 1)[-1] in BIASES]
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
    elsewhere = read_elsewhere(name, places, graph)
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
