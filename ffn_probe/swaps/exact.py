"""Turn LayerNorms into RMSNorms (or back) without changing what the model computes.

A LayerNorm of a tensor without mean is an RMSNorm. Every writer into the residual stream is
centred (its mean over the stream's channels subtracted), which no LayerNorm can see; then the
norm modules are replaced, and their biases are added to the biases of the matrices behind them
(Jiang et al. 2023, arXiv 2305.14858).
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.swaps.agreement import gap_between, outputs_of
from ffn_probe.swaps.exact_plan import planned
from ffn_probe.swaps.gains import effective_gain, vectors_of
from ffn_probe.swaps.norms import FormNorm, stand_for
from ffn_probe.swaps.plan import WAYS, Plan, held_tensor
from ffn_probe.swaps.stream import Reading
from ffn_probe.swaps.weights import put_parameter
from ffn_probe.zoo.norms import NORMS

TARGETS = tuple(WAYS)
"""The forms that a norm can become exactly."""

_FORMS = {form.name: form for form in NORMS}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What an exact conversion did, and how exact it was on the example.

    `left` are norms that read a stream and stay what they were. `centred` names the parameters
    whose mean was taken out, `biases` those that took a norm's bias (`added`: new ones),
    `folded` the weights that took a norm's gain. At the model's outputs `max_abs` is the
    largest difference in their unit, `max_relative` the same over the largest output, and
    `sqnr_db` the energy over that of the difference (inf: equal bit for bit).
    """

    target: str
    norms: tuple[str, ...]
    left: tuple[str, ...]
    centred: tuple[str, ...]
    biases: tuple[str, ...]
    added: tuple[str, ...]
    folded: tuple[str, ...]
    max_abs: float
    max_relative: float
    sqnr_db: float

    @property
    def text(self) -> str:
        """One sentence for people."""
        return (
            f"norms turned into {self.target}: {len(self.norms)}; parameters centred: "
            f"{len(self.centred)}; biases that took a norm's bias: {len(self.biases)}; the "
            f"outputs differ by {self.max_relative:.1e} of the largest at most "
            f"({self.sqnr_db:.0f} dB)"
        )


@contextmanager
def exactly(
    model: nn.Module,
    example: Any,
    *,
    target: str = "rmsnorm",
    only: Collection[str] | None = None,
    fold_gain: bool = False,
) -> Iterator[Conversion]:
    """Convert as `exact_norm` does while the body runs; afterwards all is as it was."""
    with ExitStack() as stack:
        yield exact_norm(model, example, stack, target=target, only=only, fold_gain=fold_gain)


def exact_norm(
    model: nn.Module,
    example: Any,
    stack: ExitStack,
    *,
    target: str = "rmsnorm",
    only: Collection[str] | None = None,
    fold_gain: bool = False,
) -> Conversion:
    """Replace the norms that read a residual stream; the model computes what it did.

    Towards an RMSNorm every LayerNorm is converted; towards "layernorm" every RMSNorm, which is
    exact only where the stream has no mean already; towards "layernorm_nobias" every LayerNorm
    that has a bias, which moves into the matrices behind it. It holds in evaluation mode
    (dropout does not keep the mean), and for the code that the example runs.

    Args:
        model: the model; its parameters and norm modules are replaced until `stack` is closed.
        example: what `discover` takes.
        stack: closing it puts the very objects back that were there.
        target: the form that the norms get, one of `TARGETS`.
        only: paths of the norm modules to convert; None: all that read a stream.
        fold_gain: whether the gain goes into the matrices behind the norm, leaving ones.

    Raises:
        SwapError: it cannot be done exactly (the message says why), or applies to nothing.
            Nothing was changed.
        UnknownName: `target` is no form that can be exact, or a path of `only` no norm.
    """
    if target not in TARGETS:
        raise UnknownName.of("exact norm", target, TARGETS)
    plan = planned(model, example, target, only, fold_gain=fold_gain)
    before = outputs_of(model, example)
    with ExitStack() as undo:
        carry_out(plan, model, undo)
        gap = gap_between(before, outputs_of(model, example))
        if not gap.is_rounding:
            raise SwapError(
                f"the conversion to {target} left {gap.sqnr_db:.1f} dB at the outputs, where "
                f"rounding leaves {gap.rounding_db:.0f} dB: something reads the stream's mean "
                "that one pass does not show. Nothing was changed; use how='matched'."
            )
        stack.push(undo.pop_all())
    added = tuple(".".join(slot) for slot in plan.added)
    return Conversion(
        target=target,
        norms=tuple(n.path for n in plan.norms),
        left=tuple(plan.left),
        centred=tuple(plan.centred),
        biases=(*plan.biases, *added),
        added=added,
        folded=tuple(plan.folded),
        max_abs=gap.max_abs,
        max_relative=gap.max_relative,
        sqnr_db=gap.sqnr_db,
    )


# ---- doing it ---------------------------------------------------------------------------


def carry_out(plan: Plan, model: nn.Module, undo: ExitStack) -> None:
    """Make the edits of a plan, add its biases and replace its norms, until `undo` closes."""
    with torch.no_grad():
        for name, changes in plan.edits.items():
            old = held_tensor(name, model)
            if old is None:
                raise SwapError(f"{name} is no parameter or buffer of a module")
            values = old.detach().double()
            for change in changes:
                values = change(values)
            _put(model, old, values.to(old.dtype), undo)
        for (path, leaf), values in plan.added.items():
            _add_parameter(model.get_submodule(path), leaf, values, undo)
        for reading in plan.norms:
            old_norm = model.get_submodule(reading.path)
            stand_for(model, old_norm, _new_norm(old_norm, reading, plan), undo)


def _put(model: nn.Module, old: Tensor, values: Tensor, undo: ExitStack) -> None:
    if isinstance(old, nn.Parameter):
        put_parameter(model, old, values, undo)
        return
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is old:
                undo.callback(module._buffers.__setitem__, name, buffer)
                module._buffers[name] = values


def _add_parameter(module: nn.Module, leaf: str, values: Tensor, undo: ExitStack) -> None:
    like = next(module.parameters())
    undo.callback(module._parameters.__setitem__, leaf, module._parameters[leaf])
    module._parameters[leaf] = nn.Parameter(
        values.to(like.device, like.dtype), requires_grad=like.requires_grad
    )


def _new_norm(module: nn.Module, reading: Reading, plan: Plan) -> FormNorm:
    gain, _ = vectors_of(module, reading.passes[0][1].shape[-1])
    name, weight = "weight", None
    if gain is not None:
        name = next(n for n, p in module.named_parameters() if p is gain).replace(".", "_")
        weight = _stored_gain(gain, reading, plan)
    vectors = ((name, weight), ("bias", None))
    return FormNorm(_FORMS[WAYS[plan.target].form], reading.norm.eps or 0.0, vectors)


def _stored_gain(gain: nn.Parameter, reading: Reading, plan: Plan) -> nn.Parameter:
    """Return the parameter of the new norm: the very one of the old where it means the same."""
    plus_one = _FORMS[WAYS[plan.target].form].gain == "1+w"
    folded = reading.path in plan.folded.values()
    if (reading.norm.gain == "1+w") == plus_one and gain.dim() == 1 and not folded:
        return gain
    effective = effective_gain(gain, reading)
    values = torch.ones_like(effective) if folded else effective
    stored = values - 1 if plus_one else values
    return nn.Parameter(stored.clone(), requires_grad=gain.requires_grad)
