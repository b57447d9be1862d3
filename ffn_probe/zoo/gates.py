"""Joint forms of gate and value that are no plain product act(gate) * value.

`function(gate, value, **params)` returns the hidden tensor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Gate:
    """A named function of gate and value; `params` holds the published defaults."""

    name: str
    function: Callable[..., Tensor]
    source: str
    params: Mapping[str, float] = field(default_factory=dict)


def clamped_swiglu(gate: Tensor, value: Tensor, limit: float) -> Tensor:
    """Return silu(min(gate, limit)) * clamp(value, -limit, limit)."""
    return F.silu(gate.clamp(max=limit)) * value.clamp(min=-limit, max=limit)


def gpt_oss_swiglu(gate: Tensor, value: Tensor, limit: float, alpha: float) -> Tensor:
    """Return (clamp(value) + 1) * g sigmoid(alpha g) with g = min(gate, limit)."""
    bounded = gate.clamp(max=limit)
    return (value.clamp(min=-limit, max=limit) + 1) * bounded * torch.sigmoid(alpha * bounded)


def post_clamped_swiglu(gate: Tensor, value: Tensor, limit: float) -> Tensor:
    """Return min(silu(gate), limit) * clamp(value, -limit, limit)."""
    return F.silu(gate).clamp(max=limit) * value.clamp(min=-limit, max=limit)


def situ_glu(gate: Tensor, value: Tensor, gate_limit: float, value_limit: float) -> Tensor:
    """Return b1 tanh(g / b1) sigmoid(g) * b2 tanh(u / b2)."""
    soft = gate_limit * torch.tanh(gate / gate_limit) * torch.sigmoid(gate)
    return soft * value_limit * torch.tanh(value / value_limit)


GATES: tuple[Gate, ...] = (
    Gate("clamped_swiglu", clamped_swiglu, "DeepSeek-V4", {"limit": 10.0}),
    Gate("gpt_oss_swiglu", gpt_oss_swiglu, "openai/gpt-oss", {"limit": 7.0, "alpha": 1.702}),
    Gate("post_clamped_swiglu", post_clamped_swiglu, "Step-3.7", {"limit": 16.0}),
    Gate("situ_glu", situ_glu, "Kimi K3", {"gate_limit": 4.0, "value_limit": 25.0}),
)
"""The joint forms in the order in which a fingerprint tries them."""
