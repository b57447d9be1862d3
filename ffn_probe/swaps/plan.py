"""A plan: what will be changed in a model, and every reason why it must not be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ffn_probe.errors import SwapError
from ffn_probe.swaps.stream import Reading


@dataclass(frozen=True, slots=True)
class Way:
    """How norms of the kind `turned` become the zoo's `form`.

    `mean` says what is done about the mean of the stream that they read: "taken out" of what
    writes into it, "checked" to be zero, or "kept".
    """

    form: str
    turned: str
    mean: str


WAYS: Mapping[str, Way] = {
    "rmsnorm": Way("rmsnorm", "layernorm", "taken out"),
    "rmsnorm_fp32": Way("rmsnorm_fp32", "layernorm", "taken out"),
    "rmsnorm_1p": Way("rmsnorm_1p", "layernorm", "taken out"),
    "rmsnorm_native": Way("rmsnorm_native", "layernorm", "taken out"),
    "layernorm": Way("layernorm", "rmsnorm", "checked"),
    "layernorm_nobias": Way("layernorm", "layernorm", "kept"),
}
"""What a norm can become exactly, by its name in a swap."""

_SHOWN = 3
"""Reasons in one message."""


@dataclass(slots=True)
class Plan:
    """What will be done; `edits` are made in float64, in their order."""

    target: str
    norms: list[Reading] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    edits: dict[str, list[Callable[[Tensor], Tensor]]] = field(default_factory=dict)
    added: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    centred: dict[str, int] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)  # bias -> the norm it takes from
    folded: dict[str, str] = field(default_factory=dict)  # weight -> likewise
    reasons: list[str] = field(default_factory=list)

    def check(self, what: str, model: str, advice: str = "") -> None:
        """Raise SwapError with the reasons, if there are any, and the advice."""
        if not self.reasons:
            return
        reasons = list(dict.fromkeys(self.reasons))
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        raise SwapError(
            f"{what} cannot be exact in {model}: {'; '.join(reasons[:_SHOWN])}{more}. Nothing "
            f"was changed{advice}."
        )

    def edit(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        """Add an edit of a parameter."""
        self.edits.setdefault(name, []).append(change)


def held_tensor(name: str, model: nn.Module) -> Tensor | None:
    """Return the parameter or buffer of that name, None when a module holds it otherwise."""
    path, _, leaf = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    if module is None:
        return None
    parameter: Tensor | None = module._parameters.get(leaf)
    return parameter if parameter is not None else module._buffers.get(leaf)
