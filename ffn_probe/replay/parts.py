"""Parts: one dense block as numbers, so that it can be run with a part of another model in it.

`parts_of` reads norm, matrices and activation of a block from its model; `Parts.run` computes
every role from the residual stream (or from any later role) in a dtype of choice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.errors import ModelError
from ffn_probe.swaps.weights import Matrix, read_matrix
from ffn_probe.zoo.fingerprint import Match, apply_match
from ffn_probe.zoo.gates import GATES
from ffn_probe.zoo.norms import NORMS, Normalise

Nonlinearity = Callable[[Tensor, Tensor | None], Tensor]

_CASTS = {
    "weight-then-cast": "rmsnorm_fp32",
    "fused": "rmsnorm_fp32",  # torch's own kernel multiplies before it casts
    "native": "rmsnorm_native",
}


@dataclass(frozen=True, slots=True, eq=False)
class NormPart:
    """A norm: the name of its form in the zoo ("none": the identity), gain, bias, eps.

    `function` computes it instead where its form is not in the zoo.
    """

    form: str
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 0.0
    function: Normalise | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Return the norm of rows, in the dtype of `x`."""
        function = self.function
        if function is None:
            if self.form == "none":
                return x
            function = next(n.function for n in NORMS if n.name == self.form)
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return function(x, weight, bias, self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A dense block as numbers.

    `gate` makes the pre-activation (in an MLP it is the up projection), `value` the linear path
    (None in an MLP). `meet` makes `hidden` of gate and value where it is no form of the zoo.
    """

    norm: NormPart
    gate: Matrix
    value: Matrix | None
    down: Matrix
    activation: Match
    meet: Nonlinearity | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def hidden(self, gate: Tensor, value: Tensor | None) -> Tensor:
        """Return what enters the down projection."""
        return (self.meet or self._meet)(gate, value)

    def _meet(self, gate: Tensor, value: Tensor | None) -> Tensor:
        return apply_match(self.activation, gate, value)

    def run(
        self,
        given: Mapping[str, Tensor],
        *,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return every role that follows from the given ones, the given ones included.

        Args:
            given: role -> tensor [..., channels]; at least one of resid, normed, gate (with
                value in a GLU) or hidden. A given role is not computed again.
            dtype: in which to compute; None: that of the first given tensor.
        """
        kind = dtype or next(iter(given.values())).dtype
        found = {role: tensor.to(kind) for role, tensor in given.items()}
        if "normed" not in found and "resid" in found:
            found["normed"] = self.norm.apply(found["resid"])
        for role, matrix in (("gate", self.gate), ("value", self.value)):
            if role not in found and matrix is not None and "normed" in found:
                found[role] = project(found["normed"], matrix)
        if "hidden" not in found:
            found["hidden"] = self.hidden(found["gate"], found.get("value"))
        if "out" not in found:
            found["out"] = project(found["hidden"], self.down)
        return found

    def with_(self, **changes: Any) -> "Parts":
        """Return a copy with these parts changed."""
        return replace(self, **changes)


def mapped(parts: Parts, function: Callable[[Tensor], Tensor]) -> Parts:
    """Return a block with a function applied to each of its tensors (a cast, a move)."""

    def some(x: Tensor | None) -> Tensor | None:
        return None if x is None else function(x)

    def matrix(m: Matrix) -> Matrix:
        return replace(m, weight=function(m.weight), bias=some(m.bias))

    norm = replace(parts.norm, weight=some(parts.norm.weight), bias=some(parts.norm.bias))
    value = None if parts.value is None else matrix(parts.value)
    return parts.with_(norm=norm, gate=matrix(parts.gate), value=value, down=matrix(parts.down))


def project(x: Tensor, matrix: Matrix) -> Tensor:
    """Return x @ weight.T + bias in the dtype of `x`."""
    bias = None if matrix.bias is None else matrix.bias.to(x.dtype)
    return torch.nn.functional.linear(x, matrix.weight.to(x.dtype), bias)


def parts_of(model: nn.Module, block: Block, *, expert: int = 0) -> Parts:
    """Return the parts of a block (of one expert, in a mixture), sharing memory with the model.

    Raises:
        ModelError: a part cannot be read as numbers; the message says which.
    """
    value = read_matrix(model, block, "up", expert=expert) if block.kind == "glu" else None
    first = "gate" if block.kind == "glu" else "up"
    return Parts(
        norm=norm_part(model, block),
        gate=read_matrix(model, block, first, expert=expert),
        value=value,
        down=read_matrix(model, block, "down", expert=expert),
        activation=_activation(block),
    )


def norm_part(model: nn.Module, block: Block) -> NormPart:
    """Return the norm before a block.

    Raises:
        ModelError: its form is not in the zoo, or it is no module of its own.
    """
    norm = block.norm
    if norm.kind == "none":
        return NormPart("none")
    if norm.module is None or norm.function not in {n.name for n in NORMS}:
        raise ModelError(f"the norm of {block.name!r} is no form of the zoo with a module")
    module = model.get_submodule(norm.module)
    vectors = {n: p for n, p in module.named_parameters() if p.numel() == block.d_model}
    names = [n for n in vectors if n.rsplit(".", 1)[-1] in {"bias", "beta", "b"}]
    bias = vectors[names[0]] if names and norm.bias else None
    gains = [p for n, p in vectors.items() if n not in names]
    weight = gains[0].reshape(-1) if gains and norm.gain is not None else None
    form = _with_cast(norm.function, norm.cast)
    return NormPart(form, weight, bias, norm.eps or 0.0)


def _with_cast(function: str, cast: str | None) -> str:
    """Return the form that also casts as the module does (a fingerprint cannot tell)."""
    if function == "rmsnorm":
        return _CASTS.get(cast or "", function)
    return function


def _activation(block: Block) -> Match:
    if block.activation == "other":
        raise ModelError(f"the activation of {block.name!r} is no form of the zoo")
    params = block.details.get("activation", {})
    joint = any(gate.name == block.activation for gate in GATES)
    return Match(block.activation, 0.0, dict(params), joint=joint)
