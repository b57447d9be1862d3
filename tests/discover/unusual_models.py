"""Small models written in unusual ways, and the FFNs that their code has.

Arithmetic written out by hand, norms without a module, matrices used through functions,
experts chosen in every way, wrappers around a model, and more that only looks like an FFN.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from tests.discover.architectures import Entering, Ffn, glu, layer, mlp
from tests.discover.plain_models import (
    LN,
    TOKENS,
    Case,
    D,
    Gated,
    H,
    Inline,
    Residual,
    Rms,
    mlps,
    one,
    parameter,
    sequential,
)

RMS = Entering("rmsnorm", "norm", "w", eps=1e-5)


class Acted(nn.Module):
    """Two matrices with any function of a tensor between them."""

    def __init__(self, act: Callable[[Tensor], Tensor], *, bias: bool = True) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, H, bias=bias), nn.Linear(H, D, bias=bias)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def acted(name: str, act: Callable[[Tensor], Tensor], activation: str) -> Case:
    return Case(
        name, lambda: Residual(Acted(act)), (mlps("ffn", LN, activation, "fc1", "fc2"),)
    )


def joined(name: str, join: Callable[[Tensor, Tensor], Tensor], activation: str) -> Case:
    return Case(name, lambda: Residual(Gated(join)), (one(LN, activation),))


def gelu_by_erf(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.erf(x / 2**0.5))


def gelu_by_tanh(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


def mish_by_hand(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.log1p(torch.exp(x.clamp(max=20))).where(x < 20, x))


def in_place_silu(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return x.mul_(gate)


# Norms without a module


class NormedInline(nn.Module):
    """The norm is written in the layer's forward."""

    def __init__(self, norm: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))
        self.shift = nn.Parameter(torch.zeros(D))
        self.norm, self.ffn = norm, Gated()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.norm(x, self.scale, self.shift))


def layer_by_hand(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (var + 1e-6).sqrt() * scale + shift


def layer_by_var(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
    return torch.addcmul(shift, (x - mean) * torch.rsqrt(var + 1e-5), scale)


def rms_by_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    del shift
    return x / (x.norm(dim=-1, keepdim=True) * D**-0.5 + 1e-6) * scale


def rms_by_normalize(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    del shift
    return F.normalize(x, dim=-1) * D**0.5 * scale


def inline(gain: str | None, kind: str, eps: float | None, *, bias: bool = False) -> Entering:
    return Entering(kind, None, gain, bias=bias, eps=eps)


def normed(name: str, norm: Callable[..., Tensor], entering: Entering) -> Case:
    return Case(name, lambda: NormedInline(norm), (one(entering),))


class ScaleNorm(nn.Module):
    """g x / ||x||: one number for all channels (Nguyen & Salazar 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor(5.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.g * x / x.norm(dim=-1, keepdim=True).clamp(min=1e-5)


class AdaLn(nn.Module):
    """Scale and shift come from a conditioning vector (DiT); its MLP is no FFN."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D, elementwise_affine=False, eps=1e-6)
        self.condition = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))
        self.modulate = nn.Linear(D, 3 * D)
        self.ffn = sequential(nn.GELU(approximate="tanh"))

    def forward(self, x: Tensor) -> Tensor:
        given = F.silu(self.condition(x.mean(1)))
        shift, scale, gate = self.modulate(given)[:, None].chunk(3, dim=-1)
        return x + gate * self.ffn(self.norm(x) * (1 + scale) + shift)


class GatedNorm(nn.Module):
    """An RMSNorm times a gate made of its own output: a norm of no known kind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fc1, self.fc2 = Rms(), nn.Linear(D, 4), nn.Linear(4, D)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y * torch.sigmoid(self.fc2(F.silu(self.fc1(y))))


# Matrices used in other ways


class Stateless(nn.Module):
    """The FFN is called with parameters that live elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.ffn = nn.LayerNorm(D), Gated()

    def forward(self, x: Tensor) -> Tensor:
        given = dict(self.ffn.named_parameters())
        return x + functional_call(self.ffn, given, (self.norm(x),))


class LinearCalls(nn.Module):
    """F.linear on parameters of a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"a": (H, D), "b": (H, D), "c": (D, H)}
        self.w = nn.ParameterDict({k: parameter(*shape) for k, shape in shapes.items()})

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, self.w["a"]), F.linear(x, self.w["b"])
        return F.linear(F.relu(gate) * up, self.w["c"])


class OneMatrix(nn.Module):
    """All three matrices are rows of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.both = parameter(2 * H, D)
        self.out = parameter(D, H)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both[:H], self.both[H:]
        return (F.silu(x @ gate.T) * (x @ up.T)) @ self.out.T


class EinsumBranches(nn.Module):
    """One einsum makes both branches on an axis of their own (t5x, gemma)."""

    def __init__(self) -> None:
        super().__init__()
        self.wi = nn.Parameter(torch.randn(2, D, H) / D**0.5)
        self.wo = parameter(H, D)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.einsum("btd,gdh->gbth", x, self.wi)
        return torch.einsum("bth,hd->btd", F.gelu(both[0]) * both[1], self.wo)


class SplitByView(nn.Module):
    """Both branches lie next to each other on a new axis."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(D, 2 * H), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(x).view(*x.shape[:-1], 2, H)
        return self.down(both[..., 0, :] * F.silu(both[..., 1, :]))


class WeightNormed(nn.Module):
    """Each matrix is a direction times a length."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.fc1, self.fc2 = norm(nn.Linear(D, H)), norm(nn.Linear(H, D))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class BatchNormed(nn.Module):
    """1x1 convolutions with batch norms (LeViT, EfficientFormer)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.bn1 = nn.Conv1d(D, H, 1, bias=False), nn.BatchNorm1d(H)
        self.down, self.bn2 = nn.Conv1d(H, D, 1, bias=False), nn.BatchNorm1d(D)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.hardswish(self.bn1(self.up(x.transpose(1, 2))))
        return self.bn2(self.down(hidden)).transpose(1, 2)


class BatchNormBefore(nn.Module):
    """PatchTST: a batch norm over transposed channels stands before the FFN."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.ffn = nn.BatchNorm1d(D), sequential(nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.bn(x.transpose(1, 2)).transpose(1, 2))


class LoraLinear(nn.Module):
    """PEFT's way: the base, and beside it B(A(dropout(x))) times a scale."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})
        self.lora_a = nn.ModuleDict({"default": nn.Linear(base.in_features, 4, bias=False)})
        self.lora_b = nn.ModuleDict({"default": nn.Linear(4, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        delta = self.lora_a["default"](self.lora_dropout["default"](x))
        return self.base_layer(x) + self.lora_b["default"](delta) * 2.0


def with_lora() -> nn.Module:
    ffn = Gated()
    ffn.gate, ffn.up, ffn.down = LoraLinear(ffn.gate), LoraLinear(ffn.up), LoraLinear(ffn.down)
    return Residual(ffn)


class TiedMatrices(nn.Module):
    """The way back is the way up, transposed (a tied autoencoder)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = parameter(H, D)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.linear(x, self.weight)) @ self.weight


# Layouts


class Shared(nn.Module):
    """ALBERT: one layer runs four times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Inline()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = self.layer(x)
        return x


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Inline() for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for inner in self.layers:
            x = checkpoint(inner, x, use_reentrant=False)
        return x


class Wrapped(nn.Module):
    """A wrapper in the way of DataParallel or a compiler."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class LayerScaled(nn.Module):
    """CaiT: the branch is scaled by a vector and dropped by a path."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.ffn = nn.LayerNorm(D), sequential(nn.GELU())
        self.gamma = nn.Parameter(0.1 * torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(self.gamma * self.ffn(self.norm(x)), 0.1, self.training)


class HalfStep(nn.Module):
    """Macaron: half of the branch is added, after a clamp."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.ffn = Rms(), sequential(nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.ffn(self.norm(x)).clamp(-100.0, 100.0)
        y *= 0.5
        y += x
        return y


class GatedResidual(nn.Module):
    """The sum is weighted by learnt gates on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.ffn = Rms(), Gated()
        self.weight = nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(self.weight)
        return torch.lerp(x, self.ffn(self.norm(x)), share)


class Latent(nn.Module):
    """The FFN works in a smaller space, with a projection before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Rms()
        self.into, self.back = nn.Linear(D, 16), nn.Linear(16, D)
        self.fc1, self.fc2 = nn.Linear(16, H), nn.Linear(H, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.fc2(F.relu(self.fc1(self.into(self.norm(x))))))


class ParallelNorms(nn.Module):
    """Attention and FFN read norms of their own and one sum takes both (Falcon 40B)."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_attn, self.ln_mlp = nn.LayerNorm(D), nn.LayerNorm(D, eps=1e-6)
        self.attention = nn.MultiheadAttention(D, 4, batch_first=True)
        self.ffn = sequential(nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        n = self.ln_attn(x)
        mixed = self.attention(n, n, n, need_weights=False)[0]
        return self.ffn(self.ln_mlp(x)) + mixed + x


# Mixtures


def squared(x: Tensor) -> Tensor:
    return F.relu(x) ** 2


class TopOne(nn.Module):
    """Switch: each token to one expert, by boolean masks."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 3)
        self.experts = nn.ModuleDict({f"expert_{n}": Acted(F.relu) for n in range(3)})

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts.values()):
            mask = chosen == number
            out[mask] = expert(x[mask]) * share[mask].unsqueeze(-1)
        return out


class ExpertChoice(nn.Module):
    """Each expert picks its tokens; all experts run in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 4, bias=False)
        self.w1, self.v1 = parameter(4, D, H), parameter(4, D, H)
        self.w2 = parameter(4, H, D)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        score, token = self.router(flat).softmax(-1).T.topk(6, dim=-1)
        picked = flat[token]
        hidden = F.silu(torch.bmm(picked, self.w1)) * torch.bmm(picked, self.v1)
        outs = torch.bmm(hidden, self.w2) * score[..., None]
        out = torch.zeros_like(flat).index_add(0, token.flatten(), outs.flatten(0, 1))
        return out.view_as(x)


class EinsumExperts(nn.Module):
    """Mesh-TensorFlow: dispatch and combine tensors, experts by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 4, bias=False)
        self.wi, self.wo = parameter(4, D, H), parameter(4, H, D)

    def forward(self, x: Tensor) -> Tensor:
        combine = self.router(x).softmax(-1)
        sent = torch.einsum("btd,bte->ebtd", x, (combine > 0.2).to(x.dtype))
        hidden = F.gelu(torch.einsum("ebtd,edh->ebth", sent, self.wi))
        outs = torch.einsum("ebth,ehd->ebtd", hidden, self.wo)
        return torch.einsum("ebtd,bte->btd", outs, combine)


class LoopedStacks(nn.Module):
    """3-D parameters sliced one expert at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 4, bias=False)
        self.w13, self.w2 = parameter(4, 2 * H, D), parameter(4, D, H)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        weights, chosen = self.router(flat).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(flat)
        for number in range(4):
            token, slot = (chosen == number).nonzero(as_tuple=True)
            gate = F.linear(flat[token], self.w13[number, :H])
            up = F.linear(flat[token], self.w13[number, H:])
            part = F.linear(F.silu(gate) * up, self.w2[number])
            out.index_add_(0, token, part * weights[token, slot].unsqueeze(-1))
        return out.view_as(x)


class SharedExpert(nn.Module):
    """A routed mixture beside a dense expert whose output a sigmoid gates."""

    def __init__(self) -> None:
        super().__init__()
        self.routed = LoopedStacks()
        self.shared, self.shared_gate = Gated(), nn.Linear(D, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.routed(x) + torch.sigmoid(self.shared_gate(x)) * self.shared(x)


# What looks like an FFN and is none


class ConditionAdded(nn.Module):
    """A time embedding's MLP is added to the stream, which it was not made of."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(D, H), nn.SiLU(), nn.Linear(H, D))
        self.mix = nn.Linear(D, D)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return x + self.mix(x) + self.time(angles(given.mean(1)))[:, None]


def angles(given: Tensor) -> Tensor:
    """Return a sinusoidal embedding, [batch, D]."""
    return torch.cat([given.sin(), given.cos(), (2 * given).sin(), (2 * given).cos()], dim=-1)


class Film(nn.Module):
    """A network of features scales and shifts other features."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, H), nn.ReLU(), nn.Linear(H, 2 * D))

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        scale, shift = self.net(given).chunk(2, dim=-1)
        return x * (1 + scale) + shift


class GatedLinearAttention(nn.Module):
    """A gate times the output of a linear attention, after a norm of it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.g = (nn.Linear(D, D) for _ in range(4))
        self.norm, self.out = nn.RMSNorm(D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.cumsum(self.k(x)[..., None] * self.v(x)[:, :, None], dim=1)
        read = torch.einsum("btd,btde->bte", self.q(x), state)
        return x + self.out(self.norm(read) * F.silu(self.g(x)))


class TokenShifted(nn.Module):
    """RWKV time mixing: receptance gates a running average."""

    def __init__(self) -> None:
        super().__init__()
        self.r, self.k, self.v = (nn.Linear(D, D) for _ in range(3))
        self.out = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.exp(self.k(x))
        average = torch.cumsum(weight * self.v(x), 1) / torch.cumsum(weight, 1)
        return x + self.out(torch.sigmoid(self.r(x)) * average)


class GlobalGate(nn.Module):
    """Global response norm between the matrices: a statistic over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(D), nn.Linear(D, H), nn.Linear(H, D)
        self.gamma = nn.Parameter(torch.zeros(H))

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.fc1(self.norm(x)))
        size = h.norm(dim=1, keepdim=True)
        h = h + h * size / size.mean(-1, keepdim=True) * self.gamma
        return x + self.fc2(h)


class NormedMiddle(nn.Module):
    """A norm makes the pre-activation: not a form that can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.inner = nn.Linear(D, H), nn.Linear(H, D), nn.LayerNorm(H)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.inner(self.fc1(x))))


class SpatialGate(nn.Module):
    """gMLP: one half is mixed over positions before it gates the other."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.both = nn.LayerNorm(D), nn.Linear(D, 2 * H)
        self.mix, self.down = nn.Linear(TOKENS, TOKENS), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.both(self.norm(x))).chunk(2, dim=-1)
        return x + self.down(u * self.mix(v.transpose(1, 2)).transpose(1, 2))


class Projector(nn.Module):
    """Image features pass an MLP and are put in front of the text (LLaVA)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, D))
        self.norm, self.q, self.out = nn.LayerNorm(D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.project(x[:, :4]), x[:, 4:]], dim=1)
        q = self.q(self.norm(x))
        q = q * 0.5 + torch.cat((-q[..., D // 2 :], q[..., : D // 2]), -1) * 0.5
        mixed = F.scaled_dot_product_attention(q, q, x)
        return x + self.out(mixed)


class Router(nn.Module):
    """A router of two layers picks one of two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, 2))
        self.a, self.b = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        share = self.score(x).softmax(-1)
        return x + share[..., :1] * self.a(x) + share[..., 1:] * self.b(x)


NORM2 = layer("norm2", 1e-6)

UNUSUAL: tuple[Case, ...] = (
    acted("silu_by_sigmoid", lambda x: x * torch.sigmoid(x), "silu"),
    acted("silu_by_division", lambda x: x / (1 + torch.exp(-x)), "silu"),
    acted("silu_in_place", in_place_silu, "silu"),
    acted("gelu_by_erf", gelu_by_erf, "gelu"),
    acted("gelu_by_tanh", gelu_by_tanh, "gelu_tanh"),
    acted("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x), "quick_gelu"),
    acted("relu_by_maximum", lambda x: torch.maximum(x, torch.zeros_like(x)), "relu"),
    acted("relu_by_clamp", lambda x: x.clamp(min=0), "relu"),
    acted("relu_by_mask", lambda x: x * (x > 0), "relu"),
    acted("relu2_by_where", lambda x: torch.where(x > 0, x * x, 0.0), "relu2"),
    acted("relu2_by_product", lambda x: F.relu(x) * x, "relu2"),
    acted("mish_by_hand", mish_by_hand, "mish"),
    acted("swish_of_three", lambda x: x * torch.sigmoid(3.0 * x), "swish_beta"),
    acted("silu_over_a_number", lambda x: F.silu(x) / 0.596, "silu"),
    acted("gelu_below_six", lambda x: F.gelu(x).clamp(max=6.0), "gelu"),
    joined("value_plus_one", lambda g, u: F.silu(g) * (u + 1), "silu"),
    joined("value_scaled", lambda g, u: F.silu(g) * (2.0 * u), "silu"),
    joined("product_scaled", lambda g, u: F.gelu(g) * u * 0.5, "gelu"),
    joined("product_in_place", lambda g, u: F.silu(g).mul_(u), "silu"),
    joined("square_gate", lambda g, u: squared(g) * u, "relu2"),
    joined("erf_gate", lambda g, u: gelu_by_erf(g) * u, "gelu"),
    joined("bilinear", lambda g, u: g * u, "identity"),
    joined("clamped_before", lambda g, u: F.silu(g.clamp(max=7.0)) * u.clamp(-7.0, 7.0),
           "clamped_swiglu"),
    joined("gpt_oss", lambda g, u: (u.clamp(-7.0, 7.0) + 1) * g.clamp(max=7.0)
           * torch.sigmoid(1.702 * g.clamp(max=7.0)), "gpt_oss_swiglu"),
    normed("layer_by_hand", layer_by_hand, inline("w", "layernorm", 1e-6, bias=True)),
    normed("layer_by_var", layer_by_var, inline("w", "layernorm", 1e-5, bias=True)),
    normed("layer_by_function", lambda x, w, b: F.layer_norm(x, (D,), w, b, 1e-6),
           inline("w", "layernorm", 1e-6, bias=True)),
    normed("rms_by_function", lambda x, w, _: F.rms_norm(x, (D,), w, 1e-6),
           inline("w", "rmsnorm", 1e-6)),
    normed("rms_by_norm", rms_by_norm, inline("w", "rmsnorm", 1e-6)),
    normed("one_plus", lambda x, w, _: F.rms_norm(x, (D,), None, 1e-6) * (1 + w),
           inline("1+w", "rmsnorm", 1e-6)),
    normed("bare_rms", lambda x, *_: F.rms_norm(x, (D,), eps=1e-6),
           inline(None, "rmsnorm", 1e-6)),
    Case("ada_ln", AdaLn, (mlps("ffn", layer("norm", 1e-6, gain=None, bias=False),
                                "gelu_tanh", "0", "2"),)),
    Case("stateless", Stateless, (one(LN),)),
    Case("linear_calls", lambda: Residual(LinearCalls()),
         (one(LN, "relu", gate="w.a", up="w.b", down="w.c"),)),
    Case("one_matrix", lambda: Residual(OneMatrix()),
         (one(LN, gate="both:first", up="both:second", down="out", layout="concatenated"),)),
    Case("einsum_branches", lambda: Residual(EinsumBranches()),
         (one(LN, "gelu", gate="wi:first", up="wi:second", down="wo",
              layout="concatenated"),)),
    Case("split_by_view", lambda: Residual(SplitByView()),
         (one(LN, gate="both:second", up="both:first", layout="concatenated"),)),
    Case("weight_normed", lambda: Residual(WeightNormed()),
         (mlps("ffn", LN, "gelu", "fc1", "fc2"),)),
    Case("batch_normed", lambda: Residual(BatchNormed()),
         (mlps("ffn", LN, "hardswish", "up", "down"),)),
    Case("batch_norm_before", BatchNormBefore,
         (mlps("ffn", Entering("other", "bn", "w", bias=True, eps=1e-5), "gelu", "0", "2"),)),
    Case("with_lora", with_lora,
         (one(LN, gate="gate.base_layer", up="up.base_layer", down="down.base_layer"),)),
    Case("tied_matrices", lambda: Residual(TiedMatrices()),
         (mlps("ffn", LN, "gelu", "weight", "weight"),)),
    Case("run_four_times", Shared,
         (Ffn("mlp", "gelu", NORM2, None, "layer.fc1", "layer.fc2", count=1),)),
    Case("checkpointed", Checkpointed,
         (mlp("layers.*", NORM2, "gelu", "fc1", "fc2", count=2),)),
    Case("wrapped", lambda: Wrapped(Wrapped(Inline())),
         (mlps("module.module", NORM2, "gelu", "fc1", "fc2"),)),
    Case("compiled", lambda: torch.compile(Inline(), backend="eager"),
         (mlps("_orig_mod", NORM2, "gelu", "fc1", "fc2"),)),
    Case("layer_scaled", LayerScaled, (mlps("ffn", LN, "gelu", "0", "2"),)),
    Case("half_step", HalfStep, (mlps("ffn", RMS, "silu", "0", "2"),)),
    Case("gated_residual", GatedResidual, (one(RMS),)),
    Case("latent", Latent, (Ffn("mlp", "relu", RMS, None, "fc1", "fc2", d_model=16, count=1),)),
    Case("parallel_norms", ParallelNorms,
         (mlps("ffn", layer("ln_mlp", 1e-6), "gelu", "0", "2"),)),
    Case("top_one", lambda: Residual(TopOne()),
         (mlp("ffn.experts.expert_*", LN, "relu", "fc1", "fc2", count=1, experts=3),)),
    Case("expert_choice", lambda: Residual(ExpertChoice()),
         (one(LN, gate="w1", up="v1", down="w2", experts=4, layout="packed separate"),)),
    Case("einsum_experts", lambda: Residual(EinsumExperts()),
         (mlps("ffn", LN, "gelu", "wi", "wo", experts=4, layout="packed separate"),)),
    Case("looped_stacks", lambda: Residual(LoopedStacks()),
         (one(LN, gate="w13:first", up="w13:second", down="w2", experts=4,
              layout="packed concatenated"),)),
    Case("shared_expert", lambda: Residual(SharedExpert()),
         (glu("ffn.routed", LN, gate="w13:first", up="w13:second", down="w2", count=1,
              experts=4, layout="packed concatenated"),
          glu("ffn.shared", LN, gate="gate", up="up", down="down", count=1))),
    Case("scale_norm", lambda: Residual(Gated(), ScaleNorm()),
         (one(Entering("other", "norm", None, eps=1e-5)),)),
    Case("gated_norm", lambda: Residual(Gated(), GatedNorm()),
         (one(Entering("other", "norm", eps=1e-5)),)),
)  # fmt: skip

UNNAMED: tuple[Case, ...] = (
    acted("relu_cubed", lambda x: F.relu(x) ** 3, "other"),
    acted("snake", lambda x: x + torch.sin(x) ** 2, "other"),
    joined("tanh_value", lambda g, u: torch.sigmoid(g) * torch.tanh(u), "other"),
)

LOOK_ALIKES: tuple[Case, ...] = (
    Case("condition_added", ConditionAdded, outside=True, reason="not added to a residual"),
    Case("film", Film, outside=True, reason="not a residual branch"),
    Case("gated_linear_attention", GatedLinearAttention, reason="mixes positions"),
    Case("token_shifted", TokenShifted, reason="mixes positions"),
    Case("global_gate", GlobalGate, reason="positions"),
    Case("spatial_gate", SpatialGate, reason="different tensors"),
    Case("projector", Projector, reason="not added to a residual stream"),
    Case("norm_before_activation", lambda: Residual(NormedMiddle()),
         reason="a norm stands between"),
    Case("router", Router, reason="not a residual branch"),
)  # fmt: skip
