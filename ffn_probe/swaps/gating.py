"""What gate and value are to meet as: which form, at which place, with which value path."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.errors import SwapError
from ffn_probe.swaps.activations import form_of, own_form, place_of, said
from ffn_probe.swaps.weights import put_parameter, read_matrix
from ffn_probe.zoo.fingerprint import Match
from ffn_probe.zoo.gates import GATES

PLAIN: Mapping[str, str] = {
    "swiglu": "silu",
    "geglu": "gelu",
    "geglu_tanh": "gelu_tanh",
    "reglu": "relu",
    "glu": "sigmoid",
    "bilinear": "identity",
}
"""Name of a gating -> the activation of its gate."""

GATED = "gated"
MLP = "mlp"
SMOOTH = "smooth_swiglu"

NAMES: tuple[str, ...] = (GATED, *PLAIN, *(g.name for g in GATES), MLP, SMOOTH)
"""What `gating` may be: "gated" is a GLU with the activation as it is, "mlp" none."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """What one block's gate and value are to meet as.

    `form` None keeps the model's. `value` is "value", "one" (a new path that begins at one),
    "mean" (what the value path is on average) or "" (an MLP stays one).
    """

    block: Block
    form: Match | None
    at: str
    value: str
    before: str
    after: str


def meeting(
    block: Block, act: Match | None, gating: tuple[str, Mapping[str, float]] | None
) -> Meeting | str:
    """Return what a block is to become, or why it is left as it is.

    Raises:
        SwapError: the block cannot become that.
    """
    form, value = act, "value" if block.kind == "glu" else ""
    if gating is not None:
        name, params = gating
        if name in PLAIN:
            form = form_of(PLAIN[name], params)
        elif name not in {GATED, MLP}:
            form = _joint(block, name, params)
        if name == MLP and block.kind == "glu":
            form, value = _of_mean(block, act), "mean"
        elif name != MLP and block.kind == "mlp":
            _check_dense(block, name)
            value = "one"
    own = own_form(block)
    if form is not None and (form.name, dict(form.params)) == (own.name, dict(own.params)):
        form = None if value in {"one", "value", ""} else form
    if form is None and value in {"value", ""}:
        return f"it is {said(own)} in {'a GLU' if block.kind == 'glu' else 'an MLP'} already"
    kept = own if form is None else form
    at = place_of(block, form) if value == "value" else "product"
    before = f"{said(own)} ({block.kind})"
    after = f"{said(kept)} ({'mlp' if value in {'mean', ''} else 'glu'})"
    return Meeting(block, form, at, value, before, after)


def _joint(block: Block, name: str, params: Mapping[str, float]) -> Match:
    if block.kind == "mlp":
        raise SwapError(
            f"block {block.name!r} is an MLP: {name} needs a value path, which an MLP has not; "
            "make it a GLU first with gating='gated'"
        )
    return form_of(name, params)


def _of_mean(block: Block, act: Match | None) -> Match:
    form = own_form(block) if act is None else act
    if form.name == "other":
        raise SwapError(
            f"the activation of {block.name!r} is no form of the zoo; say with activation= "
            "which one the MLP is to have"
        )
    if form.joint:
        raise SwapError(
            f"{form.name} of {block.name!r} is no product of a gate and a value, so no mean "
            "can stand for its value path; swap to gating='swiglu' first"
        )
    _check_dense(block, MLP)
    return form


def _check_dense(block: Block, name: str) -> None:
    if name != MLP and any(tap.axis != -1 for tap in block.products):
        raise SwapError(
            f"the channels of {block.name!r} are on axis {block.products[0].axis}, not the "
            f"last, so no linear layer can be its value path; leave it out with blocks="
        )
    if block.experts:
        raise SwapError(
            f"{block.name!r} is a mixture of {block.experts} experts; gating={name!r} changes "
            "which matrices a block has, and is there for dense blocks. Choose others with "
            "blocks="
        )


def value_path(model: nn.Module, block: Block) -> nn.Linear:
    """Return a linear layer that is one whatever it is given: zero weight, bias one.

    No random number is drawn for it.
    """
    some = parameter_of(model, block)
    path = nn.Linear(block.d_model, block.d_ff, device="meta")  # not initialised
    path.weight = nn.Parameter(torch.zeros(block.d_ff, block.d_model).to(some))
    path.bias = nn.Parameter(torch.ones(block.d_ff).to(some))
    path.train(model.training)
    return path


def scale_down(model: nn.Module, block: Block, factors: Tensor, stack: ExitStack) -> None:
    """Multiply what the down projection makes of each hidden channel, until `stack` is closed.

    Raises:
        SwapError: the matrix is no view of one parameter.
    """
    path = read_matrix(model, block, "down").parameter
    held = dict(model.named_parameters(remove_duplicate=False)).get(path)
    if held is None:
        raise SwapError(
            f"the down projection of {block.name!r} is no view of one parameter (parametrized, "
            "or made while the model runs), so the mean cannot be folded into it"
        )
    put_parameter(model, held, held.detach().clone(), stack)
    view = read_matrix(model, block, "down").weight
    with torch.no_grad():
        view.mul_(factors.to(view.device, view.dtype))


def parameter_of(model: nn.Module, block: Block) -> Tensor:
    """Return a parameter of the block's first matrix: its dtype and device."""
    held = dict(model.named_parameters(remove_duplicate=False))
    path = block.projections["up"].path
    for name, parameter in held.items():
        if name.startswith(path) and parameter.is_floating_point():
            return parameter
    return next(iter(held.values()))
