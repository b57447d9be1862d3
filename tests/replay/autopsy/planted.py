"""Bugs, written into real models: what a wrong port would compute, in plain PyTorch."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.replay.autopsy.hosts import HOSTS, LAYER, Host, gelu_tanh, reference

NARROW = torch.bfloat16
WIDE = torch.float32


@dataclass
class Numbers:
    """The weights [out, in] and biases of a block (gate: the first matrix of an MLP)."""

    gate: Tensor
    up: Tensor | None
    down: Tensor
    gate_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None


class Written(nn.Module):
    """An FFN with its matrices apart, and what it makes of gate and up."""

    def __init__(
        self, numbers: Numbers, hidden: Callable[[Tensor, Tensor | None], Tensor]
    ) -> None:
        super().__init__()
        self.gate_proj = _linear(numbers.gate, numbers.gate_bias)
        self.up_proj = None if numbers.up is None else _linear(numbers.up, numbers.up_bias)
        self.down_proj = _linear(numbers.down, numbers.down_bias)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        up = None if self.up_proj is None else self.up_proj(x)
        return self.down_proj(self.hidden(self.gate_proj(x), up))


class WrittenNorm(nn.Module):
    """A norm by its formula."""

    def __init__(
        self, weight: Tensor | None, bias: Tensor | None, formula: Callable[..., Tensor]
    ) -> None:
        super().__init__()
        self.weight = None if weight is None else nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x, self.weight, self.bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach().clone().contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def numbers(host: Host, model: nn.Module, layer: int = LAYER) -> Numbers:
    """Return the numbers of a block, read by hand."""
    ffn = model.get_submodule(host.layer.replace("1", str(layer))).get_submodule(host.ffn)
    if host.name in {"fused", "clamped"}:
        w, b = ffn.gate_up.weight, ffn.gate_up.bias
        half = len(w) // 2
        first, second = (
            (slice(0, half), slice(half, None))
            if host.name == "fused"
            else (slice(0, None, 2), slice(1, None, 2))
        )
        return Numbers(w[first], w[second], ffn.down.weight, b[first], b[second], ffn.down.bias)
    if host.name == "gpt2":
        return Numbers(
            ffn.c_fc.weight.t(), None, ffn.c_proj.weight.t(), ffn.c_fc.bias, None,
            ffn.c_proj.bias,
        )  # fmt: skip
    if host.name == "llama":
        return Numbers(ffn.gate_proj.weight, ffn.up_proj.weight, ffn.down_proj.weight)
    if host.name == "rms-swiglu":
        return Numbers(ffn.gate.weight, ffn.up.weight, ffn.down.weight)
    return Numbers(ffn.up.weight, None, ffn.down.weight)


def healthy_hidden(host: Host) -> Callable[[Tensor, Tensor | None], Tensor]:
    if host.hidden is not None:
        return host.hidden
    return lambda g, u: host.act(g) if u is None else host.act(g) * u


def norm_formula(host: Host, eps: float | None = None) -> Callable[..., Tensor]:
    """Return the host's own norm, as a formula."""
    at = host.eps if eps is None else eps

    def formula(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        if host.layernorm:
            return F.layer_norm(x, x.shape[-1:], w, b, at)
        if host.one_plus:
            return rms(x, w.float() + 1, at)
        return rms(x, None, at) * w if host.name == "llama" else rms(x, w, at)

    return formula


def rms(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    wide = x.float()
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (normal if gain is None else normal * gain.float()).to(x.dtype)


# ---- plants -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """A bug: what the autopsy should call it, where it can be, and how it is put there."""

    expected: str
    do: Callable[[Host, nn.Module], None]
    key: str = ""
    fits: Callable[[Host], bool] = lambda _: True
    dtypes: tuple[torch.dtype, ...] = (WIDE, NARROW)
    also: tuple[str, ...] = field(default=())  # other names of the very same function

    @property
    def name(self) -> str:
        return self.key or self.expected


def candidate(plant: Plant, host: Host, dtype: torch.dtype) -> nn.Module:
    model = copy.deepcopy(reference(host.name))
    with torch.no_grad():
        plant.do(host, model)
    return model.eval().to(dtype)


def _glu(host: Host) -> bool:
    return host.glu


def _plain(host: Host) -> bool:
    return host.glu and host.hidden is None


def _biased(host: Host) -> bool:
    return host.name in {"gpt2", "fused", "clamped"}


def _put_ffn(host: Host, model: nn.Module, ffn: nn.Module) -> None:
    setattr(model.get_submodule(host.layer), host.ffn, ffn)


def _hidden(make: Callable[[Host], Callable[[Tensor, Tensor | None], Tensor]]) -> Callable:
    def do(host: Host, model: nn.Module) -> None:
        _put_ffn(host, model, Written(numbers(host, model), make(host)))

    return do


def _weights(change: Callable[[Numbers, Host, nn.Module], Numbers]) -> Callable:
    def do(host: Host, model: nn.Module) -> None:
        changed = change(numbers(host, model), host, model)
        _put_ffn(host, model, Written(changed, healthy_hidden(host)))

    return do


def _norm(make: Callable[[Host], Callable[..., Tensor]], *, bias: bool = True) -> Callable:
    def do(host: Host, model: nn.Module) -> None:
        old = model.get_submodule(host.layer).get_submodule(host.norm)
        kept = getattr(old, "bias", None) if bias else None
        new = WrittenNorm(old.weight, kept, make(host))
        setattr(model.get_submodule(host.layer), host.norm, new)

    return do


_ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "sigmoid": torch.sigmoid,
}


def _other_act(name: str) -> Plant:
    def make(_: Host) -> Callable[[Tensor, Tensor | None], Tensor]:
        act = _ACTS[name]
        return lambda g, u: act(g) if u is None else act(g) * u

    return Plant(
        f"activation: {name} instead of", _hidden(make), f"{name} for the activation",
        lambda h: h.activation != name and h.hidden is None,
    )  # fmt: skip


def _with_act(make: Callable[[Callable[[Tensor], Tensor]], Callable]) -> Callable:
    return _hidden(lambda host: make(host.act))


def _interleaved(n: Numbers, size: int) -> Numbers:
    """Store gate and up in turns of `size` rows, and read them as halves."""

    def mix(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        pieces = zip(a.split(size), b.split(size), strict=True)
        whole = torch.cat([row for pair in pieces for row in pair])
        return whole[: len(a)], whole[len(a) :]

    gate, up = mix(n.gate, n.up)
    biases = (None, None) if n.gate_bias is None else mix(n.gate_bias, n.up_bias)
    return replace(n, gate=gate, up=up, gate_bias=biases[0], up_bias=biases[1])


def _taken_in_turns(n: Numbers) -> Numbers:
    """Store gate and up as halves, and read them in turns."""
    whole = torch.cat([n.gate, n.up])
    biases = (None, None)
    if n.gate_bias is not None:
        both = torch.cat([n.gate_bias, n.up_bias])
        biases = (both[0::2], both[1::2])
    return replace(n, gate=whole[0::2], up=whole[1::2], gate_bias=biases[0], up_bias=biases[1])


def _exchanged(n: Numbers) -> Numbers:
    return replace(n, gate=n.up, up=n.gate, gate_bias=n.up_bias, up_bias=n.gate_bias)


def _turned(w: Tensor) -> Tensor:
    return w.t().contiguous().view(w.shape)


def _permuted(n: Numbers, *, parts: str) -> Numbers:
    order = torch.randperm(len(n.gate), generator=torch.Generator().manual_seed(3))

    def rows(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[order]

    if "gate" in parts:
        n = replace(n, gate=rows(n.gate), gate_bias=rows(n.gate_bias))
    if "up" in parts and n.up is not None:
        n = replace(n, up=rows(n.up), up_bias=rows(n.up_bias))
    if "down" in parts:
        n = replace(n, down=n.down[:, order])
    return n


def _int8(w: Tensor, *, stale: float = 1.0, power: int = 1, late: bool = False) -> Tensor:
    scale = w.abs().amax(1, keepdim=True) / 127 * stale
    codes = (w / scale).round().clamp(-127, 127)
    if late:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    return codes * scale**power


def _every(n: Numbers, function: Callable[[Tensor], Tensor]) -> Numbers:
    up = None if n.up is None else function(n.up)
    return replace(n, gate=function(n.gate), up=up, down=function(n.down))


def _half(n: Numbers) -> Numbers:
    keep = len(n.gate) // 2

    def first(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[:keep]

    return Numbers(
        first(n.gate), first(n.up), n.down[:, :keep], first(n.gate_bias), first(n.up_bias),
        n.down_bias,
    )  # fmt: skip


def _gain(host: Host, model: nn.Module) -> Tensor:
    weight = model.get_submodule(host.layer).get_submodule(host.norm).weight
    return weight + 1 if host.one_plus else weight


def _folded(n: Numbers, host: Host, model: nn.Module) -> Numbers:
    gain = _gain(host, model)
    return replace(n, gate=n.gate * gain, up=None if n.up is None else n.up * gain)


def rewritten_with(hidden: Callable[[Tensor, Tensor | None], Tensor]) -> Callable:
    """Return what puts an FFN with its own way from gate and up to hidden in place."""
    return _hidden(lambda _: hidden)


def rewritten(host: Host, model: nn.Module) -> None:
    """Write the block anew, as it should be."""
    _hidden(healthy_hidden)(host, model)
    _norm(norm_formula)(host, model)


def permuted_alike(host: Host, model: nn.Module) -> None:
    """Put the neurons in another order in all matrices: the same function."""
    _weights(lambda n, *_: _permuted(n, parts="gate up down"))(host, model)


def folded_gain(host: Host, model: nn.Module) -> None:
    """Fold the norm's gain into the projections, and leave a gain of one."""
    _weights(_folded)(host, model)
    norm = model.get_submodule(host.layer).get_submodule(host.norm)
    if getattr(norm, "bias", None) is not None:
        norm.bias.div_(norm.weight)
    norm.weight.fill_(0.0 if host.one_plus else 1.0)


def noisy_down(host: Host, model: nn.Module) -> None:
    """Train on: other numbers in one matrix, at 20 dB."""
    generator = torch.Generator().manual_seed(5)

    def change(n: Numbers, *_: object) -> Numbers:
        noise = torch.randn(n.down.shape, generator=generator) * n.down.std() * 0.1
        return replace(n, down=n.down + noise)

    _weights(change)(host, model)


def _other_norm(host: Host, model: nn.Module) -> None:
    other = HOSTS[host.name].layer.replace("1", "2")
    mine = model.get_submodule(host.layer).get_submodule(host.norm)
    mine.weight.copy_(model.get_submodule(other).get_submodule(host.norm).weight)


# ---- layers -----------------------------------------------------------------------------


class WrongLayer(nn.Module):
    """A hand-written layer that adds, or reads, the wrong stream."""

    def __init__(self, layer: nn.Module, mode: str) -> None:
        super().__init__()
        self.attn_norm, self.attn = layer.attn_norm, layer.attn
        self.ffn_norm, self.ffn, self.mode = layer.ffn_norm, layer.ffn, mode

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.attn(self.attn_norm(x))
        read = x if self.mode == "parallel" else y
        normed = read if self.mode == "unnormed" else self.ffn_norm(read)
        made = self.ffn(normed)
        kept = {"normed": normed, "none": 0.0, "start": x}.get(self.mode, y)
        return kept + (2 if self.mode == "twice" else 1) * made


def _layered(mode: str) -> Callable:
    def do(_: Host, model: nn.Module) -> None:
        model.layers[LAYER] = WrongLayer(model.layers[LAYER], mode)

    return do


def _own(host: Host) -> bool:
    return host.layer == "layers.1"


# ---- the table --------------------------------------------------------------------------

_SWAPPED = (
    "gate and up swapped", "fused halves in the wrong order", "activation on the value branch",
)  # fmt: skip


def _formula(function: Callable[..., Tensor]) -> Callable[[Host], Callable[..., Tensor]]:
    return lambda _: function


def _eps_outside(host: Host) -> Callable[..., Tensor]:
    def formula(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if host.layernorm:
            centred = x - x.mean(-1, keepdim=True)
            y = centred / (centred.pow(2).mean(-1, keepdim=True).sqrt() + host.eps) * w
            return y if b is None else y + b
        gain = w + 1 if host.one_plus else w
        return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + host.eps) * gain

    return formula


def _no_upcast(host: Host) -> Callable[..., Tensor]:
    def formula(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if host.layernorm:
            centred = x - x.mean(-1, keepdim=True)
            y = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + host.eps) * w
            return y if b is None else y + b
        gain = w + 1 if host.one_plus else w
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + host.eps) * gain

    return formula


def _cast_order(host: Host) -> Callable[..., Tensor]:
    """The other of: cast, then the weight; the weight in float32, then the cast."""

    def formula(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:  # noqa: ARG001
        wide = x.float()
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + host.eps)
        if host.name == "llama":
            return (normal * w.float()).to(x.dtype)
        gain = w + 1 if host.one_plus else w
        return normal.to(x.dtype) * gain

    return formula


def _as_other(host: Host) -> Callable[..., Tensor]:
    def formula(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        gain = w + 1 if host.one_plus else w
        if host.layernorm:
            return rms(x, gain, host.eps)
        return F.layer_norm(x, x.shape[-1:], gain, b, host.eps)

    return formula


def _gained(change: Callable[[Tensor], Tensor | None]) -> Callable[[Host], Callable]:
    def make(host: Host) -> Callable[..., Tensor]:
        def formula(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            if host.layernorm:
                return F.layer_norm(x, x.shape[-1:], change(w), b, host.eps)
            gain = change(w)
            if host.name == "llama" and gain is not None:
                return rms(x, None, host.eps) * gain
            return rms(x, gain, host.eps)

        return formula

    return make


def _not_one_plus(host: Host) -> bool:
    return not host.one_plus


def _two(host: Host, model: nn.Module) -> None:
    less = replace(numbers(host, model), down_bias=None)
    made = Written(less, lambda g, u: F.relu(g) if u is None else F.relu(g) * u)
    _put_ffn(host, model, made)


PLANTS: tuple[Plant, ...] = (
    # between the projections
    *(_other_act(name) for name in _ACTS),
    Plant("activation missing", _hidden(lambda _: lambda g, u: g if u is None else g * u),
          fits=lambda h: h.hidden is None),
    Plant("activation applied twice", _with_act(
        lambda act: lambda g, u: act(act(g)) if u is None else act(act(g)) * u),
        fits=lambda h: h.hidden is None),
    Plant("value path dropped", _with_act(lambda act: lambda g, _: act(g)), fits=_plain),
    Plant("gate path dropped", _hidden(lambda _host: lambda _g, u: u), fits=_plain),
    Plant("activation on the value branch", _with_act(lambda act: lambda g, u: g * act(u)),
          fits=_plain, also=_SWAPPED),
    Plant("activation on both branches", _with_act(lambda act: lambda g, u: act(g) * act(u)),
          fits=_plain),
    Plant("activation on the product", _with_act(lambda act: lambda g, u: act(g * u)),
          fits=_plain),
    Plant("gate and value added", _with_act(lambda act: lambda g, u: act(g) + u), fits=_plain),
    Plant("up + 1 added", _with_act(lambda act: lambda g, u: act(g) * (u + 1)), fits=_plain),
    Plant("up + 1 missing", _hidden(
        lambda h: lambda g, u: u.clamp(-7, 7) * h.act(g.clamp(max=7.0))),
          fits=lambda h: h.hidden is not None),
    Plant("clamp missing", _hidden(lambda h: lambda g, u: (u + 1) * h.act(g)),
          fits=lambda h: h.hidden is not None),
    Plant("clamp after the activation", _hidden(
        lambda h: lambda g, u: (u.clamp(-7, 7) + 1) * h.act(g).clamp(max=7.0)),
        fits=lambda h: h.hidden is not None, dtypes=(WIDE,)),
    Plant("beta 1 instead of 1.702", _hidden(
        lambda _: lambda g, u: (u.clamp(-7, 7) + 1) * F.silu(g.clamp(max=7.0))),
        fits=lambda h: h.hidden is not None,
        also=("activation: silu instead of x sigmoid(1.702 x)",)),
    # layouts and loading
    Plant("gate and up swapped", _weights(lambda n, *_: _exchanged(n)), fits=_glu,
          also=_SWAPPED),
    Plant("interleaved read as concatenated", _weights(lambda n, *_: _interleaved(n, 1)),
          fits=_glu),
    Plant("block-interleaved (32) read as concatenated",
          _weights(lambda n, *_: _interleaved(n, 32)), fits=_glu),
    Plant("concatenated read as interleaved", _weights(lambda n, *_: _taken_in_turns(n)),
          fits=_glu),
    Plant("gate weights loaded into up", _weights(
        lambda n, *_: replace(n, up=n.gate, up_bias=n.gate_bias)), fits=_glu),
    Plant("projection bias dropped", _weights(lambda n, *_: replace(n, gate_bias=None)),
          "bias of the first projection dropped", _biased),
    Plant("projection bias dropped", _weights(lambda n, *_: replace(n, down_bias=None)),
          "bias of down dropped", _biased),
    Plant("projection bias added twice", _weights(
        lambda n, *_: replace(n, down_bias=2 * n.down_bias)), fits=_biased),
    Plant("weight transposed", _weights(lambda n, *_: replace(n, gate=_turned(n.gate))),
          "gate transposed"),
    Plant("weight transposed", _weights(lambda n, *_: replace(n, down=_turned(n.down))),
          "down transposed"),
    Plant("weights of another layer", _weights(lambda _, h, m: numbers(h, m, 2)),
          "all of layer 2"),
    Plant("weights of another layer", _weights(
        lambda n, h, m: replace(n, down=numbers(h, m, 0).down,
                                down_bias=numbers(h, m, 0).down_bias)), "down of layer 0"),
    Plant("neurons permuted", _weights(lambda n, *_: _permuted(n, parts="gate up")),
          "down not permuted"),
    Plant("wrong d_ff slice", _weights(lambda n, *_: _half(n))),
    Plant("gain folded twice", _weights(_folded)),
    Plant("quantization scale stale", _weights(
        lambda n, *_: _every(n, lambda w: _int8(w, stale=0.25)))),
    Plant("quantization scale applied twice", _weights(
        lambda n, *_: replace(n, down=_int8(n.down, power=2)))),
    Plant("scale rounded after quantizing", _weights(
        lambda n, *_: _every(n, lambda w: _int8(w, late=True)))),
    Plant("weights quantized", _weights(lambda n, *_: _every(n, _int8))),
    # norms
    Plant("LayerNorm run as RMSNorm", _norm(_as_other, bias=False),
          fits=lambda h: h.layernorm),
    Plant("RMSNorm run as LayerNorm", _norm(_as_other), fits=lambda h: not h.layernorm),
    Plant("norm bias dropped", _norm(norm_formula, bias=False), fits=lambda h: h.layernorm),
    Plant("(1 + w) missing", _norm(_gained(lambda w: w)), fits=lambda h: h.one_plus),
    Plant("(1 + w) doubled", _norm(_gained(lambda w: (w + 1).float() + 1)),
          fits=lambda h: h.one_plus),
    Plant("(1 + w) added", _norm(_gained(lambda w: w + 1)), fits=_not_one_plus),
    Plant("gain not folded", _norm(_gained(lambda _: None))),
    Plant("gain applied twice", _norm(lambda h: _gained(
        lambda w: (w + 1).square() if h.one_plus else w.square())(h))),
    Plant("weights of another norm", _other_norm),
    Plant("eps 1e-05 instead of", _norm(lambda h: norm_formula(h, 1e-5)),
          fits=lambda h: h.eps != 1e-5),
    Plant("eps 1e-06 instead of", _norm(lambda h: norm_formula(h, 1e-6)),
          fits=lambda h: h.eps != 1e-6),
    Plant("eps outside the root", _norm(_eps_outside), dtypes=(WIDE,)),
    Plant("norm applied twice", _norm(lambda h: lambda x, w, b: norm_formula(h)(
        norm_formula(h)(x, w, b), w, b))),
    Plant("norm missing", _norm(_formula(lambda x, *_: x)), "norm returns its input"),
    Plant("no float32 upcast", _norm(_no_upcast), dtypes=(NARROW,)),
    Plant("cast order", _norm(_cast_order), dtypes=(NARROW,), fits=lambda h: not h.layernorm),
    # around the block
    Plant("residual from after the norm", _layered("normed"), fits=_own),
    Plant("parallel instead of sequential", _layered("parallel"), fits=_own),
    Plant("norm missing", _layered("unnormed"), "norm not called", fits=_own),
    Plant("residual dropped", _layered("none"), fits=_own),
    Plant("residual from before the attention", _layered("start"), fits=_own),
    Plant("FFN output added twice", _layered("twice"), fits=_own),
    # two in one stage
    Plant("two bugs", _two, "relu, and the bias of down dropped",
          fits=lambda h: _biased(h) and h.hidden is None),
)  # fmt: skip
