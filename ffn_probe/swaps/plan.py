"""A plan: what will be changed in a model, and every reason why it must not be."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from ffn_probe.errors import SwapError
from ffn_probe.swaps.stream import Reading
from ffn_probe.zoo.norms import NORMS

KINDS = {form.name: form.kind for form in NORMS}
"""Name of a form of norm -> "layernorm", "rmsnorm" or "other"."""

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

    def check(self, what: str, model: str) -> None:
        """Raise SwapError with the reasons, if there are any."""
        if not self.reasons:
            return
        reasons = list(dict.fromkeys(self.reasons))
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        raise SwapError(
            f"{what} cannot be exact in {model}: {'; '.join(reasons[:_SHOWN])}{more}. Nothing "
            "was changed; how='matched' comes near."
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
