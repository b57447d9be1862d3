"""Every norm that stands before an FFN, as a function of rows, with its source.

`function(x, weight, bias, eps)` normalises over the last axis; `weight` and `bias` may be
None. The cast conventions of RMSNorm differ only in low precision.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Normalise = Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]


@dataclass(frozen=True, slots=True)
class NormForm:
    """A named norm: its kind ("layernorm", "rmsnorm" or "other") and how the gain enters."""

    name: str
    function: Normalise
    kind: str
    gain: str | None
    source: str


def _gained(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = x if weight is None else x * weight
    return y if bias is None else y + bias


def layernorm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return w (x - mean) / sqrt(var + eps) + b, with the biased variance."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def layernorm_1p(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return LayerNorm with the gain 1 + w."""
    return layernorm(x, None if weight is None else weight + 1, bias, eps)


def rmsnorm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return w x / sqrt(mean(x^2) + eps): float32 inside, cast back, then the weight."""
    wide = x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return _gained(normal.to(x.dtype), weight, bias)


def rmsnorm_fp32(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return RMSNorm with the weight multiplied in float32, one cast at the end."""
    wide = x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    gain = None if weight is None else weight.to(wide.dtype)
    return _gained(normal, gain, bias).to(x.dtype)


def rmsnorm_1p(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return RMSNorm with the gain 1 + w, in float32 at least (Gemma)."""
    if weight is not None:
        half = weight.dtype in {torch.float16, torch.bfloat16}
        weight = 1.0 + (weight.float() if half else weight)
    return rmsnorm_fp32(x, weight, bias, eps)


def rmsnorm_native(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return RMSNorm without any upcast."""
    return _gained(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps), weight, bias)


def rmsnorm_eps_outside(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return w x / (rms(x) + eps): the original RMSNorm code."""
    return _gained(x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps), weight, bias)


def prmsnorm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return RMSNorm whose RMS is of the first 1/16 of the channels."""
    part = x[..., : max(1, x.shape[-1] // 16)]
    return _gained(x * torch.rsqrt(part.pow(2).mean(-1, keepdim=True) + eps), weight, bias)


def l2norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return w x / max(||x||, eps)."""
    return _gained(F.normalize(x, dim=-1, eps=eps), weight, bias)


def dyt(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return w tanh(a x) + b, with the scale a passed as `eps` (Dynamic Tanh has no eps)."""
    return _gained(torch.tanh(eps * x), weight, bias)


NORMS: tuple[NormForm, ...] = (
    NormForm("layernorm", layernorm, "layernorm", "w", "Ba et al. 2016"),
    NormForm("layernorm_1p", layernorm_1p, "layernorm", "1+w", "Megatron-LM LayerNorm1P"),
    NormForm("rmsnorm", rmsnorm, "rmsnorm", "w", "Zhang & Sennrich 2019; Llama's casts"),
    NormForm("rmsnorm_fp32", rmsnorm_fp32, "rmsnorm", "w", "gpt-oss: weight in float32"),
    NormForm("rmsnorm_1p", rmsnorm_1p, "rmsnorm", "1+w", "Gemma 1-3"),
    NormForm("rmsnorm_native", rmsnorm_native, "rmsnorm", "w", "no upcast"),
    NormForm(
        "rmsnorm_eps_outside", rmsnorm_eps_outside, "rmsnorm", "w", "bzhangGo/rmsnorm 2019"
    ),
    NormForm("prmsnorm", prmsnorm, "other", "w", "Zhang & Sennrich 2019, partial RMSNorm"),
    NormForm("l2norm", l2norm, "other", "w", "unit length"),
    NormForm("dyt", dyt, "other", "w", "Zhu et al. 2025 (Dynamic Tanh)"),
)
"""The norms; a fingerprint in float64 cannot tell cast conventions, discovery reads them."""
