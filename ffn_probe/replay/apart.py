"""Whether two models share a basis at all: made of one another, or trained apart.

Two models trained apart may compute much the same in other coordinates; the difference of their
tensors, value by value, then says nothing.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.errors import ModelError
from ffn_probe.replay.pairing import BlockPair
from ffn_probe.replay.passes import capture
from ffn_probe.swaps.interpose import readers
from ffn_probe.swaps.weights import read_matrix

SAME_WEIGHTS, SAME_STREAM = 0.5, 0.9
"""Least |cosine| of the down projections, or of the streams that enter the first block, of
models that share a basis. A port or a quantization keeps both over 0.9, permuted neurons the
streams. Two trainings from one seed on one text have been seen at 0.16 and 0.64."""


def trained_apart(
    reference: nn.Module, candidate: nn.Module, batch: Any, pairs: Sequence[BlockPair]
) -> str:
    """Return why the models' values cannot be paired one by one, "" when they can.

    They can when the streams that enter the first block agree, or the down projections do.
    """
    fit = [pair for pair in pairs if not pair.reason]
    if not fit or candidate is reference:
        return ""
    stream = _stream_cosine(reference, candidate, batch, fit[0])
    weights = _weight_cosine(reference, candidate, fit)
    if stream is None and weights is None:
        return ""
    if abs(weights or 0.0) >= SAME_WEIGHTS or abs(stream or 0.0) >= SAME_STREAM:
        return ""
    return (
        "the models were trained apart: their bases differ (cosine of the streams "
        f"{_text(stream)}, of the down projections {_text(weights)}); values are compared by "
        "distribution and CKA, not one by one"
    )


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"


def _stream_cosine(
    reference: nn.Module, candidate: nn.Module, batch: Any, pair: BlockPair
) -> float | None:
    role = next(
        (r for r in ("resid", "normed") if r in pair.a.roles and r in pair.b.roles), None
    )
    if role is None:
        return None
    one, _ = capture(reference, batch, readers(pair.a, [role]))
    other, _ = capture(candidate, batch, readers(pair.b, [role]), name="the candidate")
    a, b = (next(iter(found.values()), None) for found in (one, other))
    return None if a is None or b is None else _cosine(a, b)


def _weight_cosine(
    reference: nn.Module, candidate: nn.Module, pairs: Sequence[BlockPair]
) -> float | None:
    found = []
    for pair in pairs:
        try:
            one = read_matrix(reference, pair.a, "down").weight
            other = read_matrix(candidate, pair.b, "down").weight
        except ModelError:
            continue
        found.append(abs(_cosine(one, other) or 0.0))
    return median(found) if found else None


def _cosine(a: Tensor, b: Tensor) -> float | None:
    if a.shape != b.shape:
        return None
    with torch.no_grad():
        x, y = (t.detach().double().cpu().nan_to_num(0.0, 0.0, 0.0).flatten() for t in (a, b))
        x, y = x - x.mean(), y - y.mean()
        scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale > 0 else None
