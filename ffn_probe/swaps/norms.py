"""Swap the norms of a model for another form of the zoo, with stored or refitted gains."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffn_probe.swaps.interpose import carry_over
from ffn_probe.swaps.places import Place
from ffn_probe.swaps.swapped import Change
from ffn_probe.swaps.target import NONE, Target
from ffn_probe.zoo.norms import NormForm

_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks",
    "_backward_pre_hooks",
)  # fmt: skip


class FormNorm(nn.Module):
    """A norm of the zoo as a module; its vectors keep the names that they had."""

    def __init__(
        self,
        form: NormForm | None,
        constant: float,
        vectors: tuple[tuple[str, nn.Parameter | None], tuple[str, nn.Parameter | None]],
    ) -> None:
        super().__init__()
        self.form = form
        self.eps = constant
        (self.gain_name, weight), (self.bias_name, bias) = vectors
        self.register_parameter(self.gain_name, weight)
        self.register_parameter(self.bias_name, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm of the last axis: [..., channels] to the same."""
        weight = self._parameters[self.gain_name]
        bias = self._parameters[self.bias_name]
        if self.form is None:
            y = x if weight is None else x * weight
            return y if bias is None else y + bias
        return self.form.function(x, weight, bias, self.eps)

    def extra_repr(self) -> str:
        """Return the form and its constant."""
        return f"{self.form.name if self.form else NONE}, eps={self.eps:g}"


# ---- doing it ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A gain (the factor itself) and a bias for a place, float64, and the SQNR they reach."""

    gain: Tensor
    bias: Tensor
    sqnr_db: float


def swap_norms(
    model: nn.Module,
    places: Iterable[Place],
    wanted: Target,
    stack: ExitStack,
    *,
    fits: Mapping[int, Fit] | None = None,
) -> list[Change]:
    """Put a norm of the wanted form in the place of each norm, until `stack` is closed.

    Without `fits` (id of the module -> Fit) the stored vectors are kept as they are: a `w`
    that was a gain is read as 1 + w by "rmsnorm_1p", and the other way round; the bias goes
    where the form has none.
    """
    changed: list[Change] = []
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    for place in places:
        fit = None if fits is None else fits[id(place.module)]
        vectors = _vectors(place, wanted, fit, like)
        new = FormNorm(wanted.form, place.constant(wanted), vectors)
        stand_for(model, place.module, new, stack)
        lost = place.bias[1] is not None and fit is None and not wanted.with_bias
        note = "gain and bias refitted" if fit else ("bias dropped" if lost else "")
        db = None if fit is None else fit.sqnr_db
        change = Change("norm", place.block, place.path, place.form, wanted.name, note, db)
        changed.append(change)
    return changed


def kept_vectors(
    place: Place, wanted: Target
) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """Return the gain and the bias that a hasty edit leaves in place."""
    gain = place.weight[1] if wanted.form is not None else None
    return gain, place.bias[1] if wanted.with_bias else None


def _vectors(
    place: Place, wanted: Target, fit: Fit | None, like: Tensor
) -> tuple[tuple[str, nn.Parameter | None], tuple[str, nn.Parameter | None]]:
    (gain_name, weight), (bias_name, bias) = place.weight, place.bias
    if fit is None:
        kept, kept_bias = kept_vectors(place, wanted)
        return (gain_name, kept), (bias_name, kept_bias)
    some = weight if weight is not None else bias
    minus = 1.0 if wanted.form is not None and wanted.form.gain == "1+w" else 0.0
    learned = True if some is None else some.requires_grad

    def made(values: Tensor) -> nn.Parameter:
        kind = like if some is None else some
        return nn.Parameter(values.to(kind.device, kind.dtype), requires_grad=learned)

    refitted = None if wanted.name == "layernorm_nobias" else made(fit.bias)
    return (gain_name, made(fit.gain - minus)), (bias_name, refitted)


def stand_for(model: nn.Module, old: nn.Module, new: nn.Module, stack: ExitStack) -> None:
    """Put `new` wherever the model holds `old`, until `stack` is closed.

    The two share their hooks, so a probe on the old one watches the new one. Plain attributes
    that other code may read (eps, normalized_shape) are copied.
    """
    for key, value in vars(old).items():
        if key not in vars(new) and isinstance(value, int | float | str | tuple):
            setattr(new, key, value)
    new.train(old.training)
    for name in _HOOKS:
        vars(new)[name] = vars(old)[name]
    carry_over(old, new)
    # A hook turns off fused fast paths that read the vectors and call no module.
    stack.callback(new.register_forward_pre_hook(_nothing).remove)
    stack.callback(_follow_mode, old, new)
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is old:
                stack.callback(module._modules.__setitem__, name, old)
                module._modules[name] = new


def _nothing(module: nn.Module, args: tuple[object, ...]) -> None:
    """Be there."""


def _follow_mode(old: nn.Module, new: nn.Module) -> None:
    old.training = new.training
