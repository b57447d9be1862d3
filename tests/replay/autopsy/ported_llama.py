"""Llama, written anew in plain PyTorch: other names, gate and up in one matrix."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Norm(nn.Module):
    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(weight.detach().clone())
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.scale * normal.to(x.dtype)


class Heads(nn.Module):
    """Causal attention with grouped keys and rotary positions."""

    def __init__(self, old: nn.Module, heads: int, groups: int, theta: float) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = old.q_proj, old.k_proj, old.v_proj, old.o_proj
        self.heads, self.groups, self.theta = heads, groups, theta

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        size = width // self.heads
        q = self._turned(self.q(x).view(batch, length, self.heads, size).transpose(1, 2))
        k = self._turned(self.k(x).view(batch, length, self.groups, size).transpose(1, 2))
        v = self.v(x).view(batch, length, self.groups, size).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        )
        return self.o(mixed.transpose(1, 2).reshape(batch, length, width))

    def _turned(self, x: Tensor) -> Tensor:
        length, size = x.shape[-2:]
        steps = torch.arange(0, size, 2, dtype=torch.float32) / size
        angle = torch.arange(length)[:, None] * self.theta**-steps
        cos, sin = (torch.cat([f(angle)] * 2, -1).to(x.dtype) for f in (torch.cos, torch.sin))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], -1) * sin


class FeedForward(nn.Module):
    """One matrix for gate and up; `up_first` takes its halves the wrong way round."""

    def __init__(self, old: nn.Module, *, up_first: bool, interleaved: bool) -> None:
        super().__init__()
        gate, up = old.gate_proj.weight.detach(), old.up_proj.weight.detach()
        rows = (
            torch.stack([gate, up], 1).flatten(0, 1) if interleaved else torch.cat([gate, up])
        )
        self.w13 = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
        self.w13.weight = nn.Parameter(rows.clone())
        self.w2 = old.down_proj
        self.up_first = up_first

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w13(x).chunk(2, dim=-1)
        gate, up = (b, a) if self.up_first else (a, b)
        return self.w2(functional.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, attention: Heads, ffn: FeedForward, norms: tuple[Norm, Norm]) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.ffn = norms[0], attention, norms[1], ffn

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention(self.norm1(h))
        return h + self.ffn(self.norm2(h))


class PortedLlama(nn.Module):
    """A port that shares no code with the original."""

    def __init__(self, embedding: nn.Module, stack: list[Block], norm: Norm, head: nn.Module):
        super().__init__()
        self.embedding, self.stack = embedding, nn.ModuleList(stack)
        self.final, self.head = norm, head

    @classmethod
    def of(
        cls, llama: nn.Module, *, up_first: bool = False, interleaved: bool = False
    ) -> "PortedLlama":
        """Return the port of a model of transformers, with its weights."""
        import copy

        old, c = copy.deepcopy(llama), llama.config
        theta = float(c.rope_parameters["rope_theta"])
        stack = [
            Block(
                Heads(x.self_attn, c.num_attention_heads, c.num_key_value_heads, theta),
                FeedForward(x.mlp, up_first=up_first, interleaved=interleaved),
                (
                    Norm(x.input_layernorm.weight, c.rms_norm_eps),
                    Norm(x.post_attention_layernorm.weight, c.rms_norm_eps),
                ),
            )
            for x in old.model.layers
        ]
        final = Norm(old.model.norm.weight, c.rms_norm_eps)
        return cls(old.model.embed_tokens, stack, final, old.lm_head).eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.embedding(input_ids)
        for block in self.stack:
            h = block(h)
        return self.head(self.final(h))
