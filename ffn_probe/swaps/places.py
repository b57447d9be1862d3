"""Where a model has its norms, and which they are."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Norm
from ffn_probe.errors import SwapError
from ffn_probe.swaps.interpose import is_standing_in
from ffn_probe.swaps.swapped import Left
from ffn_probe.swaps.target import DEFAULT_ALPHA, DEFAULT_EPS, NONE, Target
from ffn_probe.zoo.fingerprint import identify_norm

_BY_CAST = {
    "weight-then-cast": "rmsnorm_fp32", "fused": "rmsnorm_fp32", "native": "rmsnorm_native",
}  # fmt: skip
_ONE_FORMULA = frozenset({"rmsnorm", "rmsnorm_fp32", "rmsnorm_native"})
"""They differ in their casts alone, so not at all in float32 and float64."""

_BIASES = ("bias", "beta", "b", "b_2")
_EPSILONS = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps", "norm_eps", "rms_norm_eps")


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A norm module: where it is, what discovery or its fingerprint says, its vectors."""

    path: str
    block: str
    module: nn.Module
    norm: Norm
    weight: tuple[str, nn.Parameter | None]
    bias: tuple[str, nn.Parameter | None]

    @property
    def form(self) -> str:
        """The zoo's name of the form, with its cast convention."""
        known = self.norm.function or self.norm.kind
        return _BY_CAST.get(self.norm.cast or "", known) if known == "rmsnorm" else known

    def gain(self) -> Tensor:
        """Return by what the normalised rows are multiplied: float64 [channels], or 1 [1]."""
        weight = self.weight[1]
        if weight is None:
            return torch.ones(1, dtype=torch.float64)
        flat = weight.detach().double().reshape(-1).cpu()
        return flat + 1 if self.norm.gain == "1+w" else flat

    def constant(self, wanted: Target) -> float:
        """Return the eps of the new norm, or the scale of a Dynamic Tanh."""
        if wanted.name == "dyt":
            return wanted.params.get("alpha", DEFAULT_ALPHA)
        own = self.norm.eps if self.norm.function != "dyt" else None
        return wanted.params.get("eps", DEFAULT_EPS if own is None else own)

    def is_already(self, wanted: Target, dtype: torch.dtype) -> bool:
        """Whether the norm computes what is wanted, in `dtype`."""
        mine, asked = self.form, wanted.form.name if wanted.form else NONE
        if dtype in {torch.float32, torch.float64} and {mine, asked} <= _ONE_FORMULA:
            mine = asked
        biased = self.norm.bias and not wanted.with_bias
        constant = mine == "dyt" or self.constant(wanted) == self.norm.eps
        return mine == asked and not biased and (constant or asked == NONE)


# ---- where ------------------------------------------------------------------------------


def places_of(model: nn.Module, blocks: Sequence[Block]) -> tuple[list[Place], list[Left]]:
    """Return the norm modules before these blocks, and the blocks whose norm is none."""
    found: dict[int, Place] = {}
    left: list[Left] = []
    for block in blocks:
        if block.norm.kind == NONE:
            left.append(Left("norm", block.name, "no norm stands before it"))
        if block.norm.module is None:
            continue
        module = model.get_submodule(block.norm.module)
        if id(module) not in found:
            found[id(module)] = _place(module, block.norm, block.norm.module, block.name)
    return list(found.values()), left


def every_place(model: nn.Module, blocks: Sequence[Block]) -> tuple[list[Place], list[Left]]:
    """Return every norm module over d_model channels, and those whose formula is unknown."""
    widths = {block.d_model for block in blocks}
    known, left = places_of(model, blocks)
    found = {id(place.module): place for place in known}
    for path, module in model.named_modules():
        if id(module) in found or not _may_be_norm(module, widths):
            continue
        norm = _fingerprint(module, path, min(widths))
        if norm is None:
            if "norm" in type(module).__name__.lower():
                left.append(Left("norm", path, "its formula is no form of the zoo"))
            continue
        found[id(module)] = _place(module, norm, path, "")
    order = {id(m): i for i, m in enumerate(model.modules())}
    return sorted(found.values(), key=lambda p: order[id(p.module)]), left


def _may_be_norm(module: nn.Module, widths: set[int]) -> bool:
    if any(True for _ in module.children()):
        return False
    sizes = [p.numel() for p in module.parameters()]
    if sizes:
        flat = all(p.dim() == 1 for p in module.parameters())
        return flat and len(sizes) <= 2 and set(sizes) <= widths
    shape = getattr(module, "normalized_shape", None)
    return shape is not None and tuple(shape) in {(width,) for width in widths}


def _fingerprint(module: nn.Module, path: str, width: int) -> Norm | None:
    """Return the Norm that a module is, from what it does to synthetic rows in float64."""
    twin = deepcopy(module).double().cpu()
    names = [n for n, p in twin.named_parameters(recurse=False)]
    width = next((p.numel() for p in twin.parameters()), width)
    generator = torch.Generator().manual_seed(20240)
    x = torch.randn(40, width, generator=generator, dtype=torch.float64)
    index = torch.arange(40)
    means = torch.tensor([0.0, 3.0, 0.1, -1.0, 0.5], dtype=torch.float64)[index % 5]
    scales = torch.tensor([1.0, 1e-2, 30.0, 1e-3, 0.3], dtype=torch.float64)[index // 8]
    x = (x + means[:, None]) * scales[:, None]
    try:
        with torch.no_grad():
            y = twin(x)
    except Exception:  # a module of any making, on rows that it may not take: no norm of ours
        return None
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return None
    gain_name, bias_name = named_vectors(names)
    vectors = dict(twin.named_parameters(recurse=False))
    weight, bias = (
        None if name is None else vectors[name].detach() for name in (gain_name, bias_name)
    )
    hint = next((v for n in _EPSILONS if isinstance(v := getattr(twin, n, None), float)), None)
    match = identify_norm(x, y.double(), weight, bias, eps_hint=hint)
    if match is None:
        return None
    eps = torch.finfo(torch.float32).eps if _is_torch_default(module) else match.eps
    cast = "fused" if isinstance(module, nn.RMSNorm) else None
    return Norm(match.kind, path, match.gain, match.bias, eps, cast, match.function)


def _is_torch_default(module: nn.Module) -> bool:
    return isinstance(module, nn.RMSNorm) and module.eps is None


def named_vectors(names: Sequence[str]) -> tuple[str | None, str | None]:
    """Return which of a norm's vectors is the gain and which the bias."""
    biases = [name for name in names if name in _BIASES]
    gains = [name for name in names if name not in biases]
    bias = biases[0] if biases else (gains[1] if len(gains) > 1 else None)
    return (gains[0] if gains else None), bias


def _place(module: nn.Module, norm: Norm, path: str, block: str) -> Place:
    held = {n: p for n, p in module._parameters.items() if p is not None}
    widest = max((p.numel() for p in held.values()), default=0)
    own = {n: p for n, p in held.items() if p.numel() == widest}  # a Dynamic Tanh has a scale
    deeper = [n for n, _ in module.named_parameters() if "." in n]
    forward = vars(module).get("forward")
    if deeper or (norm.gain is not None and not own):
        raise SwapError(
            f"the vectors of the norm {path!r} ({type(module).__name__}) are not its own "
            f"parameters ({', '.join(deeper) or 'none'}), so no other norm can take them; "
            "remove the parametrization or wrapper first, or leave the block out with blocks="
        )
    if forward is not None and not is_standing_in(module):
        raise SwapError(
            f"the forward of the norm {path!r} is replaced on the instance (by a wrapper such "
            "as accelerate's); remove the wrapper before a swap"
        )
    gain_name, bias_name = named_vectors(list(own))
    return Place(
        path, block, module, norm,
        (gain_name or "weight", own.get(gain_name or "")),
        (bias_name or "bias", own.get(bias_name or "")),
    )  # fmt: skip
