"""The curve of an activation over the gate, and where it runs backwards. No torch."""

from collections.abc import Callable, Mapping

import numpy as np
import scipy.special
from jaxtyping import Float64

from ffn_probe.attribution.theory import GELU_DIP, SILU_DIP

Values = Float64[np.ndarray, " n"]

_QUICK = 1.702


def _swish(beta: float) -> Callable[[Values], Values]:
    return lambda x: np.asarray(x * scipy.special.expit(beta * x))


def _gelu_tanh(x: Values) -> Values:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


CURVES: Mapping[str, Callable[[Values], Values]] = {
    "silu": _swish(1.0),
    "gelu": lambda x: np.asarray(x * scipy.special.ndtr(x)),
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _swish(_QUICK),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": lambda x: np.asarray(scipy.special.expit(x)),
    "tanh": lambda x: np.asarray(np.tanh(x)),
    "identity": lambda x: x,
    "mish": lambda x: np.asarray(x * np.tanh(np.logaddexp(0, x))),
    "hardswish": lambda x: np.asarray(x * np.clip(x + 3, 0, 6) / 6),
    "softplus": lambda x: np.asarray(np.logaddexp(0, x)),
    "clamped_swiglu": lambda x: _swish(1.0)(np.minimum(x, 10.0)),
    "gpt_oss_swiglu": lambda x: _swish(_QUICK)(np.minimum(x, 7.0)),
}
"""What becomes of the gate, by the name of a block's activation; of a clamped form the part
that acts on the gate."""

DIPS: Mapping[str, float] = {
    "silu": SILU_DIP,
    "clamped_swiglu": SILU_DIP,
    "gelu": GELU_DIP,
    "gelu_tanh": -0.7524614220710162,
    "quick_gelu": SILU_DIP / _QUICK,
    "gpt_oss_swiglu": SILU_DIP / _QUICK,
    "mish": -1.1924312145154955,
    "hardswish": -1.5,
}
"""Where an activation is least: left of it, less gate makes more output. Others have no dip."""
