"""Small models that are not from transformers, and the FFNs that their code has.

Positive cases are forms that exist in the wild but in few libraries; negative cases look
like an FFN and are none; unreadable ones hide their arithmetic from Python.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.discover.architectures import NO_NORM, Entering, Ffn, disturb, glu, layer, mlp

D, H, TOKENS = 32, 48, 10
GLU = {"d_model": D, "d_ff": H, "count": 1}


@dataclass(frozen=True, slots=True)
class Case:
    """A builder and what must be found; `reason` must be in a skipped entry's reason."""

    name: str
    make: Callable[[], nn.Module]
    expected: tuple[Ffn, ...] = ()
    reason: str = ""
    outside: bool = False

    def build(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return the model, its vectors away from zero and one, and an example.

        With `outside` the model takes a second tensor of 8 channels.
        """
        torch.manual_seed(11)
        model = self.make().eval()
        disturb(model, 0.2)
        x = torch.randn(2, TOKENS, D)
        return model, ((x, torch.randn(2, TOKENS, 8)) if self.outside else (x,))


class Residual(nn.Module):
    """x + ffn(norm(x)), after an attention-like mixing of the tokens."""

    def __init__(self, ffn: nn.Module, norm: nn.Module | None = None, layers: int = 1) -> None:
        super().__init__()
        self.mix = nn.Linear(TOKENS, TOKENS)
        self.norm = nn.LayerNorm(D) if norm is None else norm
        self.ffn = ffn
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.layers):
            x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
            x = x + self.ffn(self.norm(x))
        return x


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-2] ** 0.5)


# FFNs without modules for their matrices


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w_in, self.w_gate = parameter(D, H), parameter(D, H)
        self.w_out = parameter(H, D)

    def forward(self, x: Tensor) -> Tensor:
        up = torch.einsum("btd,dh->bth", x, self.w_in)
        gate = torch.einsum("btd,dh->bth", x, self.w_gate)
        return torch.einsum("bth,hd->btd", F.silu(gate) * up, self.w_out)


class TwoGates(nn.Module):
    """The flax form: one (2, d, h) tensor of both branches."""

    def __init__(self) -> None:
        super().__init__()
        self.gating = nn.Parameter(torch.randn(2, D, H) / D**0.5)
        self.linear = parameter(H, D)

    def forward(self, x: Tensor) -> Tensor:
        gate = x @ self.gating[0]
        value = x @ self.gating[1]
        return (F.gelu(gate, approximate="tanh") * value) @ self.linear


class Matmuls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = parameter(D, H), parameter(H, D)
        self.bias = nn.Parameter(torch.zeros(H))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(F.gelu(torch.matmul(x, self.up) + self.bias), self.down)


class Addmm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = parameter(D, H), parameter(H, D)
        self.b_up, self.b_down = nn.Parameter(torch.zeros(H)), nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.addmm(self.b_up, x.reshape(-1, D), self.up))
        return torch.addmm(self.b_down, hidden, self.down).view(x.shape)


# Fused projections


class Fused(nn.Module):
    """One matrix of two branches; `split` returns (activated branch, linear branch)."""

    def __init__(
        self, split: Callable[[Tensor], tuple[Tensor, Tensor]], act: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.both = nn.Linear(D, 2 * H)
        self.down = nn.Linear(H, D)
        self.split, self.act = split, act

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.split(self.both(x))
        return self.down(self.act(gate) * value)


def gate_first(x: Tensor) -> tuple[Tensor, Tensor]:
    gate, value = x.chunk(2, dim=-1)
    return gate, value


def value_first(x: Tensor) -> tuple[Tensor, Tensor]:
    value, gate = x.chunk(2, dim=-1)
    return gate, value


def gate_first_sliced(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :H], x[..., H:]


def value_first_split(x: Tensor) -> tuple[Tensor, Tensor]:
    value, gate = torch.split(x, H, dim=-1)
    return gate, value


def even(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., ::2], x[..., 1::2]


def odd(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1::2], x[..., ::2]


def interleaved_by_view(x: Tensor) -> tuple[Tensor, Tensor]:
    gate, value = x.unflatten(-1, (H, 2)).unbind(-1)
    return gate, value


class TorchGlu(nn.Module):
    """F.glu gates the first half with the sigmoid of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(D, 2 * H)
        self.down = nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.glu(self.both(x), dim=-1))


class Geglu(nn.Module):
    """The projection of diffusers: value first, the activation inside the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(D, 2 * H)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class DiffusersFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleList([Geglu(), nn.Dropout(0.0), nn.Linear(H, D)])

    def forward(self, x: Tensor) -> Tensor:
        for module in self.net:
            x = module(x)
        return x


# Three matrices


class Gated(nn.Module):
    """gate, up, down; `join` makes the hidden tensor of both branches."""

    def __init__(
        self,
        join: Callable[[Tensor, Tensor], Tensor] = lambda g, u: F.silu(g) * u,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(D, H, bias=bias)
        self.up = nn.Linear(D, H, bias=bias)
        self.down = nn.Linear(H, D, bias=bias)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.join(self.gate(x), self.up(x)))


class MisnamedGated(nn.Module):
    """The branch called up_proj is the one that is activated."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj, self.gate_proj = nn.Linear(D, H), nn.Linear(D, H)
        self.down_proj = nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.up_proj(x)) * self.gate_proj(x))


class SubNormed(nn.Module):
    """A norm and a scale between the product and the down projection."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(D, H), nn.Linear(D, H)
        self.inner = nn.LayerNorm(H)
        self.scale = nn.Parameter(torch.ones(H))
        self.down = nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.inner(F.silu(self.gate(x)) * self.up(x)) * self.scale)


class LoraGated(nn.Module):
    """Each projection carries a low-rank delta."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(D, H), nn.Linear(D, H), nn.Linear(H, D)
        self.a = nn.ModuleList([nn.Linear(n, 4, bias=False) for n in (D, D, H)])
        self.b = nn.ModuleList([nn.Linear(4, n, bias=False) for n in (H, H, D)])

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x) + 0.5 * self.b[0](self.a[0](x))
        up = self.up(x) + 0.5 * self.b[1](self.a[1](x))
        hidden = F.silu(gate) * up
        return self.down(hidden) + 0.5 * self.b[2](self.a[2](hidden))


# Two matrices


def sequential(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(D, H), *middle, nn.Linear(H, D))


class ConvFfn(nn.Module):
    """1x1 convolutions over (batch, channels, tokens)."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.shrink = nn.Conv1d(D, H, 1), nn.Conv1d(H, D, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shrink(F.relu(self.expand(x.transpose(1, 2)))).transpose(1, 2)


class SquaredRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, H), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)).square())


class ComposedGelu(nn.Module):
    """The tanh approximation spelled out, with the bias added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, H, bias=False), nn.Linear(H, D)
        self.bias = nn.Parameter(torch.zeros(H))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        h += self.bias
        cubic = h + 0.044715 * torch.pow(h, 3.0)
        return self.fc2(0.5 * h * (1.0 + torch.tanh((2.0 / torch.pi) ** 0.5 * cubic)))


class Inline(nn.Module):
    """fc1 and fc2 stand in the layer, and so does the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 4, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(D, H), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        residual = x
        x = self.fc1(self.norm2(x))
        x = F.gelu(x)
        return residual + self.fc2(x)


class ResidualInside(nn.Module):
    """Norm and residual are in the FFN's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(D)
        self.inner, self.outer = nn.Linear(D, H), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(self.ln(x)))) + x


# Norms


class Rms(nn.Module):
    """RMSNorm in one of its forms."""

    def __init__(
        self, *, offset: float = 0.0, outside: bool = False, weight: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D) - offset) if weight else None
        self.offset, self.outside = offset, outside

    def forward(self, x: Tensor) -> Tensor:
        square = x.pow(2).mean(-1, keepdim=True)
        x = x / (square.sqrt() + 1e-5) if self.outside else x * torch.rsqrt(square + 1e-5)
        return x if self.weight is None else x * (self.offset + self.weight)


class DynamicTanh(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight, self.bias = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * self.weight + self.bias


class Sandwich(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = Rms(), Rms()
        self.ffn = Gated()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.after(self.ffn(self.before(x)))


class NormedOutput(nn.Module):
    """The norm is on the output of the sublayer only."""

    def __init__(self) -> None:
        super().__init__()
        self.ffn, self.norm = Gated(), Rms()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.ffn(x))


class PostNorm(nn.Module):
    """norm(x + ffn(x)): what enters the second FFN is the norm of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = sequential(nn.ReLU()), sequential(nn.ReLU())
        self.norm_a, self.norm_b = nn.LayerNorm(D), nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_a(x + self.first(x))
        return self.norm_b(x + self.second(x))


class Parallel(nn.Module):
    """Attention and FFN read one norm and are added together."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D, bias=False)
        self.attention = nn.MultiheadAttention(D, 4, batch_first=True)
        self.ffn = Gated()

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        return x + self.attention(n, n, n, need_weights=False)[0] + self.ffn(n)


class FusedParallel(nn.Module):
    """ViT-22B: one matrix makes q, k, v and both branches; one takes them all back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.qkv = nn.Linear(D, 3 * D)
        self.gate_up, self.down = nn.Linear(D, 2 * H), nn.Linear(H, D)
        self.out = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        q, k, v = self.qkv(n).chunk(3, dim=-1)
        mixed = self.out(F.scaled_dot_product_attention(q, k, v))
        gate, up = self.gate_up(n).chunk(2, dim=-1)
        return x + mixed + self.down(F.silu(gate) * up)


# Mixtures


class Experts(nn.Module):
    """Each expert is a module of its own; a router picks two a token."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(D, count, bias=False)
        self.experts = nn.ModuleList([Gated() for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        weights, chosen = self.router(flat).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == number)
            if token.numel():
                out.index_add_(0, token, expert(flat[token]) * weights[token, slot, None])
        return out.view_as(x)


class DenseExperts(nn.Module):
    """Every expert sees every token: one bmm over 3-D parameters."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(D, count, bias=False)
        self.w_in = nn.Parameter(torch.randn(count, D, 2 * H) / D**0.5)
        self.w_out = nn.Parameter(torch.randn(count, H, D) / H**0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        weights = self.router(flat).softmax(-1)
        spread = flat.expand(self.w_in.shape[0], *flat.shape)
        gate, up = torch.bmm(spread, self.w_in).chunk(2, dim=-1)
        outs = torch.bmm(F.silu(gate) * up, self.w_out)
        return (outs * weights.T[..., None]).sum(0).view_as(x)


# Whole models


class Tied(nn.Module):
    """Three layers share one FFN."""

    def __init__(self) -> None:
        super().__init__()
        shared = Gated()
        self.layers = nn.ModuleList([Residual(shared) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x)
        return x


class WithHead(nn.Module):
    """An encoder with a pooler, a projector and a classifier with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Inline()
        self.pooler = nn.Linear(D, D)
        self.classifier = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


# What looks like an FFN and is none


class GatedAttention(nn.Module):
    """The output of attention is gated by a sigmoid of a projection (Qwen3-Next, Afmoe)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.qkvg, self.out = nn.Linear(D, 4 * D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, gate = self.qkvg(self.norm(x)).chunk(4, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed * torch.sigmoid(gate))


class EagerAttention(nn.Module):
    """Attention in elementary calls with a QK-norm and rotary products."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))
        self.q_norm, self.k_norm = nn.RMSNorm(D), nn.RMSNorm(D)
        self.out = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(TOKENS)[:, None] * torch.ones(D)
        q, k = (
            self.rotate(self.q_norm(self.q(x)), angle),
            self.rotate(self.k_norm(self.k(x)), angle),
        )
        scores = (q @ k.transpose(1, 2) / D**0.5).softmax(-1)
        return x + self.out(scores @ self.v(x))

    @staticmethod
    def rotate(x: Tensor, angle: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * angle.cos() + torch.cat((-second, first), -1) * angle.sin()


class LinearAttention(nn.Module):
    """elu(q) + 1 times a running sum of elu(k) + 1 times v."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))
        self.out = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        state = torch.einsum("btd,bte->bde", k, self.v(x))
        return x + self.out(torch.einsum("btd,bde->bte", q, state))


class Lora(nn.Module):
    """A projection with a low-rank delta: two matrices without a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(D, D)
        self.a, self.b = nn.Linear(D, 4, bias=False), nn.Linear(4, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.base(x) + 0.5 * self.b(self.a(x))


class ConvModule(nn.Module):
    """The convolution module of a Conformer: a GLU, a depthwise convolution, SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.first, self.last = nn.Conv1d(D, 2 * D, 1), nn.Conv1d(D, D, 1)
        self.depthwise = nn.Conv1d(D, D, 5, padding=2, groups=D)

    def forward(self, x: Tensor) -> Tensor:
        h = F.glu(self.first(self.norm(x).transpose(1, 2)), dim=1)
        return x + self.last(F.silu(self.depthwise(h))).transpose(1, 2)


class MambaLike(nn.Module):
    """A scan gated by SiLU of a second projection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Rms()
        self.in_proj, self.out_proj = nn.Linear(D, 4 * D), nn.Linear(2 * D, D)
        self.conv = nn.Conv1d(2 * D, 2 * D, 4, padding=3, groups=2 * D)

    def forward(self, x: Tensor) -> Tensor:
        h, z = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        h = F.silu(self.conv(h.transpose(1, 2))[..., :TOKENS].transpose(1, 2))
        state, outs = torch.zeros_like(h[:, 0]), []
        for step in range(TOKENS):
            state = 0.9 * state + h[:, step]
            outs.append(state)
        return x + self.out_proj(torch.stack(outs, 1) * F.silu(z))


class TokenMixer(nn.Module):
    """The token-mixing MLP of MLP-Mixer: it acts on positions, not on channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.fc1, self.fc2 = nn.Linear(TOKENS, 24), nn.Linear(24, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).transpose(1, 2)
        return x + self.fc2(F.gelu(self.fc1(y))).transpose(1, 2)


class SqueezeExcite(nn.Module):
    """Channel weights of pooled features, multiplied into the features."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(D, D)
        self.reduce, self.expand = nn.Linear(D, 8), nn.Linear(8, D)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x)
        weights = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean(1)))))
        return x * weights[:, None]


class BareHead(nn.Module):
    """Embedding, pooling and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x.mean(1))).softmax(-1)


class SoftMoA(nn.Module):
    """A router's softmax times plain linear experts: no nonlinearity inside."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 3)
        self.experts = nn.ModuleList([nn.Linear(D, D) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        parts = [weights[..., n, None] * e(x) for n, e in enumerate(self.experts)]
        return x + torch.stack(parts).sum(0)


class PassedValue(nn.Module):
    """act(gate(x)) times a tensor that comes from outside (per-layer embeddings)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.back = nn.Linear(D, 8), nn.Linear(8, D)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return x + self.back(F.gelu(self.gate(x)) * given)


# What cannot be read


class GatedFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, gate, up, down)
        return (F.silu(x @ gate) * (x @ up)) @ down

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


class AutogradFfn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = parameter(D, H), parameter(D, H), parameter(H, D)

    def forward(self, x: Tensor) -> Tensor:
        return GatedFunction.apply(x, self.gate, self.up, self.down)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        inner = torch.jit.trace(sequential(nn.GELU()).eval(), torch.randn(2, TOKENS, D))
        return Residual(torch.jit.freeze(inner))


class ScriptedActivation(nn.Module):
    """The bias and the GELU are one scripted function, as in Megatron."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, H, bias=False), nn.Linear(H, D)
        self.bias = nn.Parameter(torch.zeros(H))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.act = torch.jit.script(bias_gelu)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x), self.bias))


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    x = x + bias
    return x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1.0 + 0.044715 * x * x)))


def torch_encoder(*, norm_first: bool) -> nn.Module:
    made = nn.TransformerEncoderLayer(
        D, 4, H, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    )
    return nn.TransformerEncoder(made, 2, enable_nested_tensor=False)


def mlps(where: str, norm: Entering, activation: str, up: str, down: str, **rest: int) -> Ffn:
    return mlp(where, norm, activation, up, down, **({"count": 1} | rest))


def one(norm: Entering, activation: str = "silu", **rest: object) -> Ffn:
    """gate, up, down under `ffn`."""
    names = {"gate": "gate", "up": "up", "down": "down", "count": 1}
    return glu("ffn", norm, activation, **(names | rest))


def halves(gate: str, up: str, activation: str = "silu") -> Ffn:
    """Both branches in `ffn.both`."""
    kind = "interleaved" if "even" in (gate, up) else "concatenated"
    return one(LN, activation, gate=f"both:{gate}", up=f"both:{up}", layout=kind)


LN = layer("norm")
FOUND: tuple[Case, ...] = (
    Case(
        "einsum", lambda: Residual(Einsum()), (one(LN, gate="w_gate", up="w_in", down="w_out"),)
    ),
    Case("matmuls", lambda: Residual(Matmuls()), (mlps("ffn", LN, "gelu", "up", "down"),)),
    Case("addmm", lambda: Residual(Addmm()), (mlps("ffn", LN, "relu", "up", "down"),)),
    Case(
        "gate_first", lambda: Residual(Fused(gate_first, F.silu)), (halves("first", "second"),)
    ),
    Case(
        "value_first",
        lambda: Residual(Fused(value_first, F.gelu)),
        (halves("second", "first", "gelu"),),
    ),
    Case(
        "gate_first_sliced",
        lambda: Residual(Fused(gate_first_sliced, F.relu)),
        (halves("first", "second", "relu"),),
    ),
    Case(
        "value_first_split",
        lambda: Residual(Fused(value_first_split, F.silu)),
        (halves("second", "first"),),
    ),
    Case("even", lambda: Residual(Fused(even, F.silu)), (halves("even", "odd"),)),
    Case("odd", lambda: Residual(Fused(odd, F.silu)), (halves("odd", "even"),)),
    Case(
        "interleaved_by_view",
        lambda: Residual(Fused(interleaved_by_view, F.silu)),
        (halves("even", "odd"),),
    ),
    Case(
        "bilinear_fused",
        lambda: Residual(Fused(gate_first, torch.sigmoid)),
        (halves("first", "second", "sigmoid"),),
    ),
    Case("torch_glu", lambda: Residual(TorchGlu()), (halves("second", "first", "sigmoid"),)),
    Case(
        "diffusers",
        lambda: Residual(DiffusersFeedForward()),
        (
            one(
                LN,
                "gelu",
                gate="net.0.proj:second",
                up="net.0.proj:first",
                down="net.2",
                layout="concatenated",
            ),
        ),
    ),
    Case("gated_biased", lambda: Residual(Gated(bias=True)), (one(LN),)),
    Case(
        "misnamed",
        lambda: Residual(MisnamedGated()),
        (one(LN, gate="up_proj", up="gate_proj", down="down_proj"),),
    ),
    Case("value_times_act", lambda: Residual(Gated(lambda g, u: u * F.silu(g))), (one(LN),)),
    Case(
        "swish_spelled_out",
        lambda: Residual(Gated(lambda g, u: g * torch.sigmoid(g) * u)),
        (one(LN),),
    ),
    Case(
        "swish_beta",
        lambda: Residual(Gated(lambda g, u: g * torch.sigmoid(1.3 * g) * u)),
        (one(LN, "swish_beta"),),
    ),
    Case(
        "clamped",
        lambda: Residual(Gated(lambda g, u: F.silu(g.clamp(max=5.0)) * u.clamp(-5.0, 5.0))),
        (one(LN, "clamped_swiglu"),),
    ),
    Case(
        "scaled_gate",
        lambda: Residual(Gated(lambda g, u: F.gelu(0.5 * g) * u)),
        (one(LN, "gelu"),),
    ),
    Case("sub_norm", lambda: Residual(SubNormed()), (one(LN),)),
    Case("lora_gated", lambda: Residual(LoraGated()), (one(LN),)),
    Case(
        "sequential",
        lambda: Residual(sequential(nn.SiLU())),
        (mlps("ffn", LN, "silu", "0", "2"),),
    ),
    Case(
        "sequential_dropout",
        lambda: Residual(sequential(nn.Mish(), nn.Dropout(0.1))),
        (mlps("ffn", LN, "mish", "0", "3"),),
    ),
    Case(
        "leaky",
        lambda: Residual(sequential(nn.LeakyReLU(0.1))),
        (mlps("ffn", LN, "leaky_relu", "0", "2"),),
    ),
    Case(
        "one_by_one_convolutions",
        lambda: Residual(ConvFfn()),
        (mlps("ffn", LN, "relu", "expand", "shrink"),),
    ),
    Case(
        "squared_relu",
        lambda: Residual(SquaredRelu()),
        (mlps("ffn", LN, "relu2", "fc1", "fc2"),),
    ),
    Case(
        "composed_gelu",
        lambda: Residual(ComposedGelu()),
        (mlps("ffn", LN, "gelu_tanh", "fc1", "fc2"),),
    ),
    Case(
        "inline",
        Inline,
        (Ffn("mlp", "gelu", layer("norm2", 1e-6), None, "fc1", "fc2", count=1),),
    ),
    Case(
        "residual_inside",
        ResidualInside,
        (Ffn("mlp", "relu", layer("ln"), None, "inner", "outer", count=1),),
    ),
    Case(
        "rms",
        lambda: Residual(Gated(), Rms()),
        (one(Entering("rmsnorm", "norm", "w", eps=1e-5)),),
    ),
    Case(
        "one_plus_weight",
        lambda: Residual(Gated(), Rms(offset=1.0)),
        (one(Entering("rmsnorm", "norm", "1+w", eps=1e-5)),),
    ),
    Case(
        "eps_outside_the_root",
        lambda: Residual(Gated(), Rms(outside=True)),
        (one(Entering("rmsnorm", "norm", "w", eps=1e-5)),),
    ),
    Case(
        "rms_without_weight",
        lambda: Residual(Gated(), Rms(weight=False)),
        (one(Entering("rmsnorm", "norm", None, eps=1e-5)),),
    ),
    Case(
        "torch_rms",
        lambda: Residual(Gated(), nn.RMSNorm(D, eps=1e-6)),
        (one(Entering("rmsnorm", "norm", "w", eps=1e-6)),),
    ),
    Case(
        "layer_norm_without_weight",
        lambda: Residual(Gated(), nn.LayerNorm(D, elementwise_affine=False)),
        (one(Entering("layernorm", "norm", None, eps=1e-5)),),
    ),
    Case("no_norm", lambda: Residual(Gated(), nn.Identity()), (one(NO_NORM),)),
    Case(
        "dynamic_tanh",
        lambda: Residual(Gated(), DynamicTanh()),
        (one(Entering("other", "norm", "w", bias=True)),),
    ),
    Case("sandwich", Sandwich, (one(Entering("rmsnorm", "before", "w", eps=1e-5)),)),
    Case("normed_output", NormedOutput, (one(NO_NORM),)),
    Case(
        "post_norm",
        PostNorm,
        (
            mlps("first", NO_NORM, "relu", "0", "2"),
            mlps("second", layer("norm_a"), "relu", "0", "2"),
        ),
    ),
    Case("parallel", Parallel, (one(layer("norm", bias=False)),)),
    Case(
        "parallel_with_qkv",
        FusedParallel,
        (
            Ffn(
                "glu",
                "silu",
                LN,
                "gate_up:first",
                "gate_up:second",
                "down",
                count=1,
                layout="concatenated",
            ),
        ),
    ),
    Case(
        "experts_as_modules",
        lambda: Residual(Experts()),
        (glu("ffn.experts.*", LN, gate="gate", up="up", down="down", count=1, experts=4),),
    ),
    Case(
        "dense_experts",
        lambda: Residual(DenseExperts()),
        (
            one(
                LN,
                gate="w_in:first",
                up="w_in:second",
                down="w_out",
                experts=4,
                layout="packed concatenated",
            ),
        ),
    ),
    Case("shared_by_time", lambda: Residual(Gated(), layers=3), (one(LN),)),
    Case(
        "tied",
        Tied,
        (glu("layers.*.ffn", LN, gate="gate", up="up", down="down", count=1),),
    ),
    Case(
        "with_head",
        WithHead,
        (mlps("block", layer("norm2", 1e-6), "gelu", "fc1", "fc2"),),
    ),
    Case(
        "torch_encoder_post",
        lambda: torch_encoder(norm_first=False),
        (mlps("layers.*", layer("norm1"), "gelu", "linear1", "linear2", count=2),),
    ),
    Case(
        "torch_encoder_pre",
        lambda: torch_encoder(norm_first=True),
        (mlps("layers.*", layer("norm2"), "gelu", "linear1", "linear2", count=2),),
    ),
    Case(
        "two_gates_in_one_tensor",
        lambda: Residual(TwoGates()),
        (
            one(
                LN,
                "gelu_tanh",
                gate="gating:first",
                up="gating:second",
                down="linear",
                layout="concatenated",
            ),
        ),
    ),
)

NOT_FFN: tuple[Case, ...] = (
    Case("gated_attention", GatedAttention, reason="mixes positions"),
    Case("eager_attention", EagerAttention),
    Case("linear_attention", LinearAttention),
    Case("lora", Lora),
    Case("convolution_module", ConvModule),
    Case("mamba_like", MambaLike, reason="mixes positions"),
    Case("token_mixer", TokenMixer),
    Case("squeeze_excite", SqueezeExcite, reason="not added to a residual stream"),
    Case("bare_head", BareHead),
    Case("mixture_of_linear_maps", SoftMoA),
    Case("value_from_outside", PassedValue, outside=True),
)

UNREADABLE: tuple[Case, ...] = (
    Case("autograd_function", lambda: Residual(AutogradFfn()), reason="autograd"),
    Case("scripted", scripted, reason="script"),
    Case("scripted_activation", lambda: Residual(ScriptedActivation()), reason="script"),
)
