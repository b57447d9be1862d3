"""Models to plant bugs in: the sample models, two of transformers, two written by hand."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sample_runs import tiny_lm

LAYER = 1


@dataclass(frozen=True)
class Host:
    """A healthy model and how to reach the block of LAYER in it."""

    name: str
    build: Callable[[], nn.Module]
    layer: str  # path of the layer
    norm: str  # name of the norm in the layer
    ffn: str  # name of the FFN in the layer
    act: Callable[[Tensor], Tensor]
    activation: str  # what the zoo calls it
    eps: float
    glu: bool
    hidden: Callable[[Tensor, Tensor], Tensor] | None = None  # when it is no act(gate) * up
    one_plus: bool = False
    layernorm: bool = False


class Rms(nn.Module):
    """RMSNorm, written out: with the gain w or 1 + w."""

    def __init__(self, width: int, eps: float, *, one_plus: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width) if one_plus else torch.ones(width))
        self.eps, self.one_plus = eps, one_plus

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        gain = 1.0 + self.weight.float() if self.one_plus else self.weight.float()
        return (normal * gain).to(x.dtype)


class FusedGeglu(nn.Module):
    """Gate and up in one matrix, one after the other, with biases."""

    def __init__(self, width: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * d_ff)
        self.down = nn.Linear(d_ff, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate, approximate="tanh") * up)


class ClampedSwiglu(nn.Module):
    """The gating of gpt-oss: rows of gate and up take turns, clamps, up + 1."""

    def __init__(self, width: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * d_ff)
        self.down = nn.Linear(d_ff, width)

    def forward(self, x: Tensor) -> Tensor:
        both = self.gate_up(x)
        gate, up = both[..., ::2].clamp(max=7.0), both[..., 1::2].clamp(-7.0, 7.0)
        return self.down((up + 1) * (gate * torch.sigmoid(1.702 * gate)))


class Mixing(nn.Module):
    """A cheap stand-in for attention: each token sees the mean of those before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        return self.proj(x.cumsum(1) / count[:, None])


class Layer(nn.Module):
    """A pre-norm layer."""

    def __init__(self, norm: Callable[[], nn.Module], ffn: nn.Module, width: int) -> None:
        super().__init__()
        self.attn_norm, self.attn = norm(), Mixing(width)
        self.ffn_norm, self.ffn = norm(), ffn

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class PlainLM(nn.Module):
    """Three layers between a table and a head."""

    def __init__(
        self, norm: Callable[[], nn.Module], ffn: Callable[[], nn.Module], width: int
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(256, width)
        self.layers = nn.ModuleList(Layer(norm, ffn(), width) for _ in range(3))
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def spread(model: nn.Module, gate: float = 1.0) -> nn.Module:
    """Give weights the scale at which pre-activations have unit variance, gains some spread."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            turned = "c_fc" in name or "c_proj" in name or "c_attn" in name
            width = parameter.shape[0] if turned else parameter.shape[-1]
            up = any(w in name for w in ("gate", "up", "c_fc"))
            scale = gate / math.sqrt(width) if up else 1 / math.sqrt(width)
            parameter.data = noise * (0.3 if "table" in name else scale)
        elif name.endswith("bias"):
            parameter.data = 0.3 * noise
        else:
            parameter.data = parameter.data + 0.2 * noise
    return model.eval()


def fused() -> nn.Module:
    return spread(
        PlainLM(lambda: Rms(64, 1e-6, one_plus=True), lambda: FusedGeglu(64, 128), 64)
    )


def clamped() -> nn.Module:
    """Square matrices, and gates that reach the clamp."""
    return spread(plain_clamped(), gate=3.0)


def plain_clamped() -> nn.Module:
    return PlainLM(lambda: Rms(64, 1e-5), lambda: ClampedSwiglu(64, 64), 64)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6,
    )  # fmt: skip
    return spread(LlamaForCausalLM(config))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=256, n_positions=256, n_embd=64, n_layer=3, n_head=4, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return spread(GPT2LMHeadModel(config))


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def oss(gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1) * (gate * torch.sigmoid(1.702 * gate))


HOSTS: dict[str, Host] = {
    host.name: host
    for host in (
        Host("ln-gelu", lambda: tiny_lm.load("ln-gelu"), "layers.1", "ffn_norm", "ffn", F.gelu,
             "gelu", 1e-5, glu=False, layernorm=True),
        Host("rms-swiglu", lambda: tiny_lm.load("rms-swiglu"), "layers.1", "ffn_norm", "ffn",
             F.silu, "silu", 1e-5, glu=True),
        Host("llama", llama, "model.layers.1", "post_attention_layernorm", "mlp", F.silu,
             "silu", 1e-6, glu=True),
        Host("gpt2", gpt2, "transformer.h.1", "ln_2", "mlp", gelu_tanh, "gelu_tanh", 1e-5,
             glu=False, layernorm=True),
        Host("fused", fused, "layers.1", "ffn_norm", "ffn", gelu_tanh, "gelu_tanh", 1e-6,
             glu=True, one_plus=True),
        Host("clamped", clamped, "layers.1", "ffn_norm", "ffn",
             lambda x: x * torch.sigmoid(1.702 * x), "x sigmoid(1.702 x)", 1e-5, glu=True,
             hidden=oss),
    )
}  # fmt: skip


@cache
def reference(name: str) -> nn.Module:
    return HOSTS[name].build()


@cache
def batches() -> list[dict[str, Any]]:
    return tiny_lm.held_back(count=1, sequences=4, length=64)


@cache
def blocks(name: str) -> tuple[Any, ...]:
    from ffn_probe.discover import discover

    return discover(reference(name), batches()[0])
