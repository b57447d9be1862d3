"""What gating does to the scale of a block, beside theory: an MLP against the GLU in its place.

At initialisation gates and values are centred and normal, and the root mean square of what
enters the down projection follows from the activations, the widths and the gates' standard
deviations alone. A swap that forgets it rescales the residual branch.
"""

import math

import numpy as np

from ffn_probe.anatomy import Block
from ffn_probe.attribution.theory import CURVES, hidden_moments
from ffn_probe.sketches import BitHistogram

_OFF_CENTRE = 0.1
_SAME_CURVE = {"gelu_tanh": "gelu", "quick_gelu": "gelu"}


def scale_ratio(
    a: Block,
    b: Block,
    gates: tuple[BitHistogram, BitHistogram],
    hidden: tuple[BitHistogram, BitHistogram],
) -> tuple[float, float] | None:
    """Return (expected, observed) norm of a token's hidden in `b` over that in `a`.

    None where theory does not speak: both blocks are gated or neither is, an activation has no
    curve, or a gate's mean is over a tenth of its standard deviation.
    """
    names = [_SAME_CURVE.get(block.activation, block.activation) for block in (a, b)]
    if a.kind == b.kind or any(name not in CURVES for name in names):
        return None
    expected, observed = [], []
    for block, name, gate, seen in zip((a, b), names, gates, hidden, strict=True):
        mean, square = _moments(gate)
        std = math.sqrt(max(square - mean**2, 0.0))
        if not std > 0 or abs(mean) > _OFF_CENTRE * std:
            return None
        second, _ = hidden_moments(name, std, kind=block.kind)
        expected.append(block.d_ff * second)
        observed.append(block.d_ff * _moments(seen)[1])
    if not observed[0] > 0:
        return None
    return math.sqrt(expected[1] / expected[0]), math.sqrt(observed[1] / observed[0])


def _moments(histogram: BitHistogram) -> tuple[float, float]:
    """Return mean and mean square of a histogram's finite values, to 2^-8."""
    points, weights = histogram.midpoints(), histogram.weights()
    total = weights.sum()
    if total == 0:
        return 0.0, 0.0
    return (
        float(np.dot(points, weights) / total),
        float(np.dot(points * points, weights) / total),
    )
