"""Swap a norm that is no module: computed anew from the stream, put in where it is read."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.calling import call_arguments, undisturbed
from ffn_probe.errors import SwapError
from ffn_probe.swaps.activations import Passing
from ffn_probe.swaps.interpose import interpose, interposed, readers, writers
from ffn_probe.swaps.norms import kept_vectors
from ffn_probe.swaps.places import Place, named_vectors
from ffn_probe.swaps.swapped import Change
from ffn_probe.swaps.target import Target
from ffn_probe.zoo.norms import NORMS

_TOLERANCE = 2e-2
"""Largest relative error of a norm computed anew, in any dtype (bfloat16 has 8 bits)."""


@dataclass(slots=True, eq=False)
class Normalising:
    """What stands in one block: reads the stream, puts in another norm of it."""

    place: Place
    wanted: Target
    fired: int = 0
    passing: Passing = field(default_factory=Passing)

    def __call__(self, block: Block, tap: Tap, tensor: Tensor) -> Tensor | None:
        """Keep the stream; return its norm."""
        held = self.passing.of
        if tap.role == "resid":
            held.clear()
            held["resid", None] = tensor
            return None
        stream = held.get(("resid", None))
        if stream is None or stream.numel() != tensor.numel():
            raise SwapError(
                f"the stream of {block.name!r} does not pass before its norm, row by row; "
                "its norm cannot be swapped"
            )
        self.fired += 1
        if ("made", None) not in held:
            held["made", None] = self._norm(stream)
        made = held["made", None]  # one tensor for all that read it
        return made if made.shape == tensor.shape else made.reshape(tensor.shape)

    def _norm(self, x: Tensor) -> Tensor:
        if self.wanted.form is None:
            return x
        weight, bias = kept_vectors(self.place, self.wanted)
        return self.wanted.form.function(x, weight, bias, self.place.constant(self.wanted))


def inline_place(model: nn.Module, block: Block) -> Place:
    """Return the norm of a block as a place, with the vectors that it must be using.

    Raises:
        SwapError: the block has no tap of its stream, or the vectors cannot be told.
    """
    tap = next((t for t in block.taps if t.role == "resid"), None)
    if tap is None or block.experts:
        raise SwapError(
            f"the norm of {block.name!r} is no module, and where its input passes is not known"
        )
    wanted = (block.norm.gain is not None) + block.norm.bias
    path = next(t.path for t in block.taps if t.role == "normed")
    while wanted:
        module = model.get_submodule(path)
        own = [
            n
            for n, p in module._parameters.items()
            if p is not None and p.dim() == 1 and p.numel() == block.d_model
        ]
        names = [named_vectors(own)[0], named_vectors(own)[1] if block.norm.bias else None]
        if sum(n is not None for n in names) == wanted and not isinstance(module, nn.Linear):
            gain, bias = ((n, None if n is None else module._parameters[n]) for n in names)
            vectors = (gain[0] or "weight", gain[1]), (bias[0] or "bias", bias[1])
            return Place(path, block.name, module, block.norm, *vectors)
        if not path:
            raise SwapError(
                f"the norm of {block.name!r} is computed inline, and no module around it holds "
                f"{wanted} vectors of {block.d_model}; make the norm a module first"
            )
        path = path.rpartition(".")[0]
    return Place(path, block.name, model, block.norm, ("weight", None), ("bias", None))


def swap_inline(
    model: nn.Module, block: Block, wanted: Target, stack: ExitStack, example: Any
) -> tuple[Change, Normalising]:
    """Put another norm in where a block reads its norm, until `stack` is closed.

    Raises:
        SwapError: as `inline_place`, or the norm computed anew is not what the block reads.
    """
    place = inline_place(model, block)
    entries = [*readers(block, ["resid"]), *writers(block, "normed")]
    _check(model, block, place, entries, example)
    standing = Normalising(place, wanted)
    interpose(model, entries, standing, stack)
    lost = place.bias[1] is not None and not wanted.with_bias
    note = "inline" + (", bias dropped" if lost else "")
    return Change("norm", block.name, place.path, place.form, wanted.name, note), standing


def _check(
    model: nn.Module, block: Block, place: Place, entries: list[tuple[Block, Tap]], example: Any
) -> None:
    """Raise SwapError unless the norm of before, computed anew, is what the block reads."""
    form = next((n for n in NORMS if n.name == place.norm.function), None)
    if form is None or example is None:
        why = "its form is not in the zoo" if form is None else "that is checked on example="
        raise SwapError(
            f"the norm of {block.name!r} is no module; it can be swapped where computing it "
            f"anew gives what the block reads, and {why}"
        )
    again = Normalising(place, Target(form.name, form, place.norm.bias, _constants(place)))
    worst: list[float] = []

    def compare(block: Block, tap: Tap, tensor: Tensor) -> None:
        made = again(block, tap, tensor)
        if made is not None:
            apart = (made - tensor).double().norm() / tensor.double().norm().clamp(min=1e-30)
            worst.append(float(apart))

    args, kwargs = call_arguments(example)
    with interposed(model, entries, compare), undisturbed(model), torch.no_grad():
        model(*args, **kwargs)
    if not worst or not max(worst) <= _TOLERANCE:
        raise SwapError(
            f"what enters {block.name!r} is not the {place.norm.function} of its stream (apart "
            f"by {max(worst, default=float('nan')):.2g}): something scales or mixes it in "
            "between, so its norm cannot be swapped"
        )


def _constants(place: Place) -> Mapping[str, float]:
    if place.norm.eps is None:
        return {}
    return {"alpha" if place.norm.function == "dyt" else "eps": place.norm.eps}
