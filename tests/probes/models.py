"""Models for the probes' tests, built here."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

VOCABULARY = 61


class Layer(nn.Module):
    """Causal mean, then a pre-norm SwiGLU with dropout."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.mix = nn.Linear(width, width)
        self.gate = nn.Linear(width, hidden)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.act = nn.SiLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None].to(x.dtype)
        x = x + self.mix(x.cumsum(1) / steps)
        h = self.norm(x)
        return x + self.dropout(self.down(self.act(self.gate(h)) * self.up(h)))


class Tiny(nn.Module):
    """A language model of such layers, with activation checkpointing when asked."""

    def __init__(
        self,
        width: int = 16,
        hidden: int = 40,
        layers: int = 2,
        dropout: float = 0.0,
        checkpointing: bool | None = None,  # noqa: FBT001 - use_reentrant, None: off
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(Layer(width, hidden, dropout) for _ in range(layers))
        self.head = nn.Linear(width, VOCABULARY)
        self.checkpointing = checkpointing

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        del attention_mask
        x = self.embedding(input_ids)
        for layer in self.layers:
            if self.checkpointing is None or not torch.is_grad_enabled():
                x = layer(x)
            else:
                x = checkpoint(layer, x, use_reentrant=self.checkpointing)
        return self.head(x)


class Experts(nn.Module):
    """A mixture of SwiGLU experts, top 2 of 4; padding takes part as any token does."""

    def __init__(self, width: int = 16, hidden: int = 24, count: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(Expert(width, hidden) for _ in range(count))
        self.counts = torch.zeros(count, dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weight, chosen = self.router(rows).softmax(-1).topk(2)
        out = torch.zeros_like(rows)
        for i, expert in enumerate(self.experts):
            token, slot = (chosen == i).nonzero(as_tuple=True)
            self.counts[i] += token.numel()
            if token.numel():
                out.index_add_(0, token, expert(rows[token]) * weight[token, slot, None])
        return out.view_as(x)


class Expert(nn.Module):
    """One SwiGLU expert."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Mixture(nn.Module):
    """Embedding and one mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.norm = nn.LayerNorm(16)
        self.mlp = Experts()
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        del attention_mask
        x = self.embedding(input_ids)
        return self.head(x + self.mlp(self.norm(x)))


def tiny(**options: Any) -> Tiny:
    torch.manual_seed(0)
    return Tiny(**options)


def tokens(sequences: int = 3, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(VOCABULARY, (sequences, length), generator=generator)}


def tensors_of(model: Tiny, batch: Mapping[str, Tensor]) -> dict[tuple[int, str], Tensor]:
    """Return the seven tensors of every layer, computed here and not by hooks."""
    found = {}
    x = model.embedding(batch["input_ids"])
    for i, layer in enumerate(model.layers):
        steps = torch.arange(1, x.shape[1] + 1)[:, None].to(x.dtype)
        x = x + layer.mix(x.cumsum(1) / steps)
        h = layer.norm(x)
        gate, value = layer.gate(h), layer.up(h)
        act = functional.silu(gate)
        hidden = act * value
        out = layer.down(hidden)
        roles = ("resid", "normed", "gate", "gate_act", "value", "hidden", "out")
        named = dict(zip(roles, (x, h, gate, act, value, hidden, out), strict=True))
        found.update({(i, role): tensor for role, tensor in named.items()})
        x = x + out
    return found
