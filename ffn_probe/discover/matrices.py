"""The matrices of a block as [out, in] tensors.

`read_matrix` understands linear layers, transposed ones, halves of fused projections, stacks of
experts, and (read only) whatever else is linear.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Projection
from ffn_probe.discover.calling import undisturbed
from ffn_probe.discover.mixtures import renumbered
from ffn_probe.errors import ModelError, UnknownName

_LEARNED = ("weight", "bias")
_FORWARDS = frozenset(cls.forward for cls in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
"""The forwards that use weight and bias as they are stored, rows being outputs."""

_AT_ONCE = 1024
"""Unit vectors that go through a module in one call."""


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """One projection of a block: y = x @ weight.T + bias.

    `weight` is [out, in] and `bias` [out] (None: there is none). `parameter` names the
    Parameter that the weight is a view of, "" when it was measured; `bias_parameter` likewise.
    """

    weight: Tensor
    bias: Tensor | None
    parameter: str = ""
    bias_parameter: str = ""


def read_matrix(
    model: nn.Module, block: Block, name: str, *, expert: int = 0, stored: bool = False
) -> Matrix:
    """Return a matrix of a block as it is now.

    Args:
        model: the model of the block.
        block: what discovery found.
        name: one of the block's projections: "gate" and "up" of a GLU, "up" of an MLP, "down".
        expert: which expert of a mixture.
        stored: take a matrix only as it stands in the memory. Without, what a module of
            unknown making does is measured, which costs as much as multiplying two matrices.

    Raises:
        UnknownName: the block has no such projection.
        ModelError: the matrix cannot be read as one of d_model and d_ff channels.
    """
    if name not in block.projections:
        raise UnknownName.of("projection", name, block.projections, f"(block {block.name})")
    projection = block.projections[name]
    path = _expert_path(block, projection.path, expert)
    sizes = (block.d_model, block.d_ff) if name == "down" else (block.d_ff, block.d_model)
    module = _module(model, path)
    wrapper = _adapting(model, path)
    if wrapper is not None:
        whole = _adapted(wrapper, path, sizes[1], stored=stored)
        return _sliced(*whole, "", "", projection, sizes, known=True)
    if module is not None:
        return _of_module(module, path, projection, sizes, stored=stored)
    holder, _, leaf = path.rpartition(".")
    owner = _module(model, holder)
    weight = getattr(owner, leaf, None)
    if not isinstance(weight, Tensor):
        raise ModelError(f"{path} of block {block.name!r} is no module and no parameter")
    named = (f"{leaf}_bias", leaf.replace("weight", "bias"))
    bias_name = next((n for n in named if n != leaf and hasattr(owner, n)), "")
    bias = getattr(owner, bias_name) if bias_name else None
    if block.experts and weight.dim() == 3:
        weight, bias = weight[expert], None if bias is None else bias[expert]
    elif block.experts and weight.dim() == 2 and weight.shape[0] % block.experts == 0:
        # The matrices of DBRX's experts stand one below the other.
        weight = weight.view(block.experts, -1, weight.shape[1])[expert]
    full = f"{holder}.{bias_name}" if bias is not None else ""
    return _sliced(weight, bias, path, full, projection, sizes)


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:  # there is none, or a parameter is there
        return None


def _adapting(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module that adds low-rank deltas to the one at `path` (LoRA), if any is on."""
    holder, _, leaf = path.rpartition(".")
    owner = _module(model, holder) if leaf == "base_layer" else None
    if owner is None or not callable(getattr(owner, "get_delta_weight", None)):
        return None
    off = getattr(owner, "disable_adapters", False) or getattr(owner, "merged", False)
    return None if off or not _adapters(owner) else owner


def _adapters(owner: nn.Module) -> list[str]:
    known = getattr(owner, "lora_A", {})
    return [name for name in getattr(owner, "active_adapters", ()) if name in known]


def _adapted(
    owner: nn.Module, path: str, width: int, *, stored: bool
) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear layer with its deltas, as if they were merged.

    Raises:
        ModelError: only what stands in the memory is wanted, and the deltas are more than sums.
    """
    names, base = _adapters(owner), owner.get_submodule("base_layer")
    plain = type(base).forward is nn.Linear.forward and not any(
        name in getattr(owner, "lora_variant", {}) or getattr(owner, "lora_bias", {}).get(name)
        for name in names
    )
    if not plain and stored:
        raise ModelError(
            f"{path} has adapters of a kind ({type(owner).__name__}) that adds no matrix"
        )
    if not plain:
        return _measured(owner, width)
    with torch.no_grad():
        deltas = [owner.get_delta_weight(name) for name in names]  # type: ignore[operator]
        weight: Tensor = base.get_parameter("weight") + sum(deltas)
    bias = base.bias
    return weight, bias if isinstance(bias, Tensor) else None


def _expert_path(block: Block, path: str, expert: int) -> str:
    """Return the path of another expert's module, from that of the first."""
    if not block.experts or not any(tap.expert is not None for tap in block.taps):
        return path
    first = min(t.expert for t in block.taps if t.expert is not None)
    return renumbered(path, block.projections["down"].path, first, first + expert) or path


def _of_module(
    module: nn.Module,
    path: str,
    projection: Projection,
    sizes: tuple[int, int],
    *,
    stored: bool = False,
) -> Matrix:
    own = dict(module.named_parameters(recurse=True))
    known = type(module).__name__ == "Conv1D" or type(module).forward in _FORWARDS
    weight = own.get("weight")
    if stored and not (known and set(own) <= set(_LEARNED)):
        raise ModelError(
            f"{path} is a {type(module).__name__}: its matrix is not stored as it is used"
        )
    if weight is None or not set(own) <= set(_LEARNED):
        return _sliced(*_measured(module, sizes[1]), "", "", projection, sizes, known=True)
    bias = own.get("bias")
    flat: Tensor = weight
    while flat.dim() > 2 and flat.shape[-1] == 1:  # a convolution over one position
        flat = flat[..., 0]
    if type(module).__name__ == "Conv1D":
        flat = flat.t()
    elif type(module).forward not in _FORWARDS:
        done, added = _measured(module, sizes[1])
        flat = next((w for w in (flat, flat.t()) if _equal(w, done)), done)
        if flat is done or not (_equal(bias, added) if bias is not None else not added.any()):
            return _sliced(done, added, "", "", projection, sizes, known=True)
    named = f"{path}.bias" if bias is not None else ""
    return _sliced(flat, bias, f"{path}.weight", named, projection, sizes, known=True)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether what was measured is what is stored, up to rounding."""
    eps = torch.finfo(b.dtype).eps
    return a.shape == b.shape and torch.allclose(a, b, rtol=16 * eps, atol=16 * eps)


def _measured(module: nn.Module, width: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias of what a module of any making does to the unit vectors."""
    some = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    inputs = torch.cat([torch.zeros(1, width), torch.eye(width)]).to(some)
    try:
        with torch.no_grad(), undisturbed(module):
            rows = torch.cat([module(part) for part in torch.split(inputs, _AT_ONCE)])
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be read as a matrix: {error}"
        ) from error
    return (rows[1:] - rows[0]).t(), rows[0]


def _sliced(
    weight: Tensor,
    bias: Tensor | None,
    name: str,
    bias_name: str,
    projection: Projection,
    sizes: tuple[int, int],
    *,
    known: bool = False,
) -> Matrix:
    """Return the part of a tensor that a projection is, rows being outputs."""
    out, width = sizes
    times = 1 if projection.part == "all" else 2
    if not known and tuple(weight.shape) == (width, times * out) != (times * out, width):
        weight = weight.t()
    if tuple(weight.shape) != (times * out, width):
        raise ModelError(
            f"{name or 'a matrix'} has the shape {tuple(weight.shape)}; expected "
            f"{(times * out, width)} for {projection.part!r} of [out, in]"
        )
    rows = {
        "first": slice(0, out), "second": slice(out, None),
        "even": slice(0, None, 2), "odd": slice(1, None, 2),
    }.get(projection.part, slice(None))  # fmt: skip
    return Matrix(weight[rows], None if bias is None else bias[rows], name, bias_name)
