"""Exact folds: factors that move from one matrix of a block into another.

The hidden tensor is linear in the up projection of a GLU, so each of its channels can be scaled
by the rows of up and scaled back by the columns of down (Smooth-SwiGLU, Fishman et al. 2024,
arXiv 2409.12517). In an MLP only a homogeneous activation lets a factor pass. The gain and the
bias of a norm move into the matrices that read it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.discover.trace import trace
from ffn_probe.errors import SwapError
from ffn_probe.swaps.agreement import Gap, gap_between, outputs_of
from ffn_probe.swaps.copies import own_copies
from ffn_probe.swaps.exact import carry_out
from ffn_probe.swaps.gains import effective_gain, plan_vectors, vectors_of
from ffn_probe.swaps.plan import Plan
from ffn_probe.swaps.scales import hidden_absmax, smooth_scales
from ffn_probe.swaps.stream import Reading, norms_of
from ffn_probe.swaps.weights import put_parameter, read_matrix
from ffn_probe.zoo.activations import ACTIVATIONS

HOMOGENEOUS: Mapping[str, int] = {"relu": 1, "leaky_relu": 1, "relu2": 2}
"""Activations with f(s x) = s^degree f(x) for every s > 0, and their degrees."""

_PLAIN = frozenset(entry.name for entry in ACTIVATIONS)


@dataclass(frozen=True, slots=True)
class Fold:
    """What a fold did to a block (or to a norm, which `place` names then).

    `low` and `high` are the smallest and the largest factor, `rounded` counts the parameters
    that do not come back when the factor is taken out again: 0 where the fold is exact bit for
    bit. `sqnr_db` compares the model's outputs on the example with those of before (inf: equal
    bit for bit).
    """

    place: str
    parameters: tuple[str, ...]
    low: float
    high: float
    rounded: int
    sqnr_db: float


# ---- scales through the hidden tensor ---------------------------------------------------


def fold_hidden(
    model: nn.Module,
    block: Block,
    scales: Float[Tensor, " d_ff"],
    example: Any,
    stack: ExitStack,
) -> Fold:
    """Scale the channels of the hidden tensor: rows of up times them, columns of down by them.

    The block's output stays. Bias rows go along; all experts of a mixture get the same factors.

    Args:
        model: the model of the block; closing `stack` puts its parameters back.
        block: what discovery found.
        scales: by what each channel of `hidden` is multiplied; positive in an MLP.
        example: an input on which the outputs are compared: what else stands between the
            matrices (a norm, a low-rank delta, a bias that is added apart) shows there.
        stack: undoes the fold.

    Raises:
        SwapError: the factor cannot pass the block's nonlinearity, a matrix is shared or no
            view of one parameter, a factor is no such number, or the outputs changed. Nothing
            was changed.
        ModelError: a matrix cannot be read.
    """
    degree = _degree(block)
    wide = _checked(block, scales)
    before = outputs_of(model, example)
    with ExitStack() as undo:
        names = own_copies(model, block, ("up", "down"), undo)
        rows = wide.pow(1.0 / degree) if degree > 1 else wide
        rounded = 0
        for expert in range(max(block.experts, 1)):
            up = read_matrix(model, block, "up", expert=expert)
            down = read_matrix(model, block, "down", expert=expert)
            rounded += _multiply(up.weight, rows[:, None])
            rounded += _multiply(up.bias, rows) if up.bias is not None else 0
            rounded += _multiply(down.weight, 1.0 / wide)
        gap = _seen(before, model, example, f"scaling the hidden tensor of {block.name!r}")
        stack.push(undo.pop_all())
    low, high = float(wide.min()), float(wide.max())
    return Fold(block.name, names, low, high, rounded, gap.sqnr_db)


def smooth(
    model: nn.Module, blocks: Sequence[Block], batches: Iterable[Any], stack: ExitStack
) -> tuple[Fold, ...]:
    """Bring the hidden channels of every block to one absmax (Smooth-SwiGLU); all or nothing.

    Args:
        model: the model of the blocks.
        blocks: what discovery found.
        batches: calibration batches; the outputs are compared on the first.
        stack: undoes it.

    Raises:
        SwapError: as `hidden_absmax` and `fold_hidden`. Nothing was changed.
    """
    rest = iter(batches)
    first = list(islice(rest, 1))
    tops = hidden_absmax(model, blocks, chain(first, rest))
    found: list[Fold] = []
    with ExitStack() as undo:
        for block in blocks:
            scales = smooth_scales(tops[block.name], base=2 ** _degree(block))
            found.append(fold_hidden(model, block, scales, first[0], undo))
        stack.push(undo.pop_all())
    return tuple(found)


def _degree(block: Block) -> int:
    """Return the degree in which the hidden tensor grows with the up projection."""
    if block.kind == "glu":
        if block.activation in _PLAIN:
            return 1
        raise SwapError(
            f"the hidden tensor of {block.name!r} is no plain product of a gate and its up "
            f"projection ({block.activation}: clamps or offsets stand between), so no factor "
            "can pass"
        )
    if block.activation not in HOMOGENEOUS:
        raise SwapError(
            f"{block.name!r} is an MLP: a factor cannot pass its {block.activation}, only "
            f"{', '.join(HOMOGENEOUS)} let it through"
        )
    return HOMOGENEOUS[block.activation]


def _checked(block: Block, scales: Tensor) -> Tensor:
    """Return the factors in float64 after looking at them."""
    if tuple(scales.shape) != (block.d_ff,):
        raise SwapError(
            f"{block.name!r} has {block.d_ff} hidden channels, so it needs that many factors, "
            f"not {tuple(scales.shape)}"
        )
    wide = scales.detach().double()
    usable = wide.isfinite() & ((wide != 0) if block.kind == "glu" else (wide > 0))
    if not bool(usable.all()):
        kind = "not zero" if block.kind == "glu" else "positive"
        raise SwapError(f"a factor has to be finite and {kind}, not {float(wide[~usable][0])}")
    return wide


def _multiply(view: Tensor, factors: Tensor) -> int:
    """Multiply a view of a parameter in place; return how many do not come back by dividing."""
    with torch.no_grad():
        old, by = view.double(), factors.to(view.device)
        view.copy_(old * by)
        if not torch.equal(view.isfinite(), old.isfinite()):
            largest = float(old[old.isfinite()].abs().max())
            raise SwapError(
                f"a weight of up to {largest:.3g} times a factor of up to "
                f"{float(by.abs().max()):.3g} is too large for {str(view.dtype)[6:]}; use "
                "factors nearer to one"
            )
        return int((view.double() / by != old).sum())


def _seen(before: list[Tensor], model: nn.Module, example: Any, what: str) -> Gap:
    """Return how far the outputs went, if it is rounding."""
    gap = gap_between(before, outputs_of(model, example))
    if not gap.is_rounding:
        raise SwapError(
            f"{what} left {gap.sqnr_db:.1f} dB at the outputs, where rounding leaves "
            f"{gap.rounding_db:.0f} dB: something between the matrices does not let a factor "
            "pass (a norm, a low-rank delta, a bias added apart), or the numbers do not hold "
            "it. Nothing was changed."
        )
    return gap


# ---- the gain and the bias of a norm ----------------------------------------------------


def fold_gain(
    model: nn.Module, blocks: Sequence[Block], example: Any, stack: ExitStack
) -> tuple[Fold, ...]:
    """Move gain and bias of the blocks' norms into the matrices behind, leaving unit gains.

    W becomes W * gain, its bias takes W @ bias; a matrix without one gets a bias where its
    module knows one. The model's output stays.

    Raises:
        SwapError: something that is no matrix reads the norm too, a matrix reads something
            else too, or there is nothing to fold. Nothing was changed.
    """
    graph = trace(model, example)
    wanted = {block.norm.module for block in blocks if block.norm.module is not None}
    norms = [norm for norm in norms_of(graph, model) if norm.path in wanted]
    if not norms:
        names = ", ".join(block.name for block in blocks[:3])
        raise SwapError(f"no LayerNorm or RMSNorm module stands before {names}")
    held = [v for n in norms for v in vectors_of(model.get_submodule(n.path), _width(n))]
    if not any(vector is not None for vector in held):
        raise SwapError(f"{norms[0].path} has neither gain nor bias: there is nothing to fold")
    plan = Plan("unit gain")
    for norm in norms:
        plan_vectors(plan, norm, graph, model, fold_gain=True)
        plan.reasons += _tied(model, norm)
    plan.check("folding the gain of a norm", type(model).__name__)
    before = outputs_of(model, example)
    with ExitStack() as undo:
        carry_out(plan, model, undo)
        found = [_unit(model, norm, plan, undo) for norm in norms]
        gap = _seen(before, model, example, "folding the gain of a norm")
        stack.push(undo.pop_all())
    return tuple(Fold(p, names, low, high, 0, gap.sqnr_db) for p, names, low, high in found)


def _width(norm: Reading) -> int:
    return norm.passes[0][1].shape[-1]


def _tied(model: nn.Module, norm: Reading) -> list[str]:
    """Say which vector of a norm another module holds too."""
    vectors = vectors_of(model.get_submodule(norm.path), _width(norm))
    return [
        f"a vector of {norm.path} is also a parameter of another module"
        for vector in vectors
        if vector is not None
        and sum(p is vector for m in model.modules() for p in m._parameters.values()) > 1
    ]


def _unit(
    model: nn.Module, norm: Reading, plan: Plan, undo: ExitStack
) -> tuple[str, tuple[str, ...], float, float]:
    """Set a norm's gain to one and its bias to zero; return what took them."""
    gain, bias = vectors_of(model.get_submodule(norm.path), _width(norm))
    low = high = 1.0
    if gain is not None:
        factor = effective_gain(gain, norm).double()
        low, high = float(factor.min()), float(factor.max())
        plus_one = norm.norm.gain == "1+w"
        put_parameter(model, gain, torch.full_like(gain, 0.0 if plus_one else 1.0), undo)
    if bias is not None:
        put_parameter(model, bias, torch.zeros_like(bias), undo)
    taken = [n for n, path in (*plan.folded.items(), *plan.biases.items()) if path == norm.path]
    return norm.path, tuple(taken), low, high
