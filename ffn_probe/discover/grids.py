"""What a piece of the dataflow makes of well spread inputs, in float64."""

from math import ceil

import torch
from torch import Tensor

from ffn_probe.discover.rebuild import rebuild
from ffn_probe.discover.trace import Node

SPAN = 12.0
"""Most inputs lie on [-SPAN, SPAN], where activations differ."""

POINTS = 1024
"""Inputs at least, when the recorded shape is smaller."""


def curve(front: Node, end: Node) -> tuple[Tensor, Tensor]:
    """Return float64 inputs in the shape of `front`, and what `end` makes of them."""
    xs, ys = [], []
    size = _size(front)
    for part in range(max(1, min(16, ceil(POINTS / max(size, 1))))):
        x = _grid(front, part)
        xs.append(x)
        ys.append(x if end is front else rebuild(end, {front: x}))
    return torch.stack(xs), torch.stack(ys)


def surface(gate: Node, value: Node, end: Node) -> tuple[Tensor, Tensor, Tensor]:
    """Return float64 gates and values in their shapes, and what `end` makes of both."""
    gs, us, hs = [], [], []
    for part in range(max(1, min(16, ceil(2 * POINTS / max(_size(gate), 1))))):
        g, u = _grid(gate, part), _grid(value, part + 7, reverse=True)
        gs.append(g)
        us.append(u)
        hs.append(rebuild(end, {gate: g, value: u}))
    return torch.stack(gs), torch.stack(us), torch.stack(hs)


def _size(node: Node) -> int:
    size = 1
    for length in node.shape:
        size *= length
    return size


def _grid(node: Node, part: int, *, reverse: bool = False) -> Tensor:
    """Return well spread values, other ones for each part, in the shape of `node`.

    Most lie on [-12, 12], where activations differ; every eighth reaches up to +-1200, where
    clamps show.
    """
    size = _size(node)
    device = node.value.device if node.value is not None else torch.device("cpu")
    step = 0.6180339887498949 if not reverse else 0.7548776662466927
    start = part * size + 1
    index = torch.arange(start, start + size, dtype=torch.float64, device=device)
    unit = torch.remainder(index * step, 1.0)
    x = (unit * 2 - 1) * SPAN
    far = torch.remainder(index + (3 if reverse else 0), 8) == 0
    return torch.where(far, x * 100.0, x).reshape(node.shape)
