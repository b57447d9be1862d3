"""Fake quantization: tensors and matrices of a block after a round trip through a format."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ffn_probe.anatomy import ROLES, Block, Tap
from ffn_probe.discover.trace import tracing
from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.formats import (
    GRANULARITIES,
    ROUNDINGS,
    FormatError,
    fake_quantize,
    number_format,
)
from ffn_probe.swaps.interpose import inputs, interpose, writers
from ffn_probe.swaps.swapped import Change
from ffn_probe.swaps.weights import put_parameter, read_matrix

WEIGHTS: Mapping[str, str] = {"w_gate": "gate", "w_up": "up", "w_down": "down"}
"""Name of a matrix in a swap -> the block's projection."""

NAMES: tuple[str, ...] = (*ROLES, *WEIGHTS)
"""What can be quantized."""


@dataclass(frozen=True, slots=True)
class Quantizer:
    """A format, the scope of its scales, and their constants."""

    form: str
    granularity: str | None = None
    group: int = 128
    rounding: str = "floor"

    @classmethod
    def parse(cls, text: str) -> "Quantizer":
        """Return the quantizer of "int8", "int8:token", "int4:group=32" or "mxfp8:block:ceil".

        Raises:
            UnknownName: the format, granularity or rounding is unknown.
            FormatError: they do not go together.
        """
        name, *rest = text.split(":")
        granularity, group, rounding = None, 128, "floor"
        for part in rest:
            key, _, number = part.partition("=")
            if key in ROUNDINGS:
                rounding = key
            elif key in GRANULARITIES:
                granularity = key
                group = _count(number) if number else group
            else:
                raise UnknownName.of("granularity", key, (*GRANULARITIES, *ROUNDINGS))
        form = number_format(name)
        if granularity is not None and granularity not in form.granularities:
            raise FormatError(
                f"{name} has no scale by {granularity}; choose from "
                f"{', '.join(form.granularities)}"
            )
        return cls(name, granularity, group, rounding)

    @property
    def text(self) -> str:
        """Return what `parse` understands."""
        scope = self.granularity or number_format(self.form).granularities[0]
        group = f"={self.group}" if scope == "group" else ""
        return f"{self.form}:{scope}{group}" + (":ceil" if self.rounding == "ceil" else "")

    def rounded(self, values: Tensor) -> Tensor:
        """Return the values [..., channels] after the round trip, each row a token.

        The gradient passes as if nothing had been rounded.
        """
        rows = values.detach().reshape(-1, values.shape[-1])
        stored = fake_quantize(
            rows.float().cpu().numpy(), self.form, granularity=self.granularity,
            group=self.group, rounding=self.rounding,
        )  # fmt: skip
        made = torch.from_numpy(np.ascontiguousarray(stored)).to(values.device, values.dtype)
        made = made.reshape(values.shape)
        if not (values.requires_grad and torch.is_grad_enabled()):
            return made
        return made + (values - values.detach()).nan_to_num(0.0)

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return a matrix [out, in] after the round trip; "channel": one scale an output."""
        scope = "token" if self.granularity == "channel" else self.granularity
        return replace(self, granularity=scope).rounded(weight.detach())


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise FormatError(f"a group is a count of channels, not {text!r}; write group=128")
    return int(text)


@dataclass(slots=True, eq=False)
class Rounding:
    """What stands at one role of a block. Discovery sees through it: no structure changes."""

    quantizer: Quantizer
    fired: int = 0

    def __call__(self, block: Block, tap: Tap, tensor: Tensor) -> Tensor | None:
        """Return the tensor as the format holds it."""
        if tracing() or not tensor.numel():
            return None
        self.fired += 1
        try:
            return self.quantizer.rounded(tensor)
        except FormatError as error:
            raise FormatError(f"{block.name}/{tap.role}: {error}") from error


def quantize_role(
    model: nn.Module, block: Block, role: str, quantizer: Quantizer, stack: ExitStack
) -> tuple[Change, Rounding]:
    """Round the tensor of a role on its way, until `stack` is closed.

    Raises:
        SwapError: the block has no such role.
    """
    entries = inputs(block) if role == "normed" else writers(block, role)
    if not entries:
        raise SwapError(
            f"block {block.name!r} has no role {role!r}; it has {', '.join(block.roles)}"
        )
    rounding = Rounding(quantizer)
    interpose(model, entries, rounding, stack)
    where = entries[0][1].path
    note = f"{len(entries)} places" if len(entries) > 1 else ""
    return Change("quantize", block.name, where, role, quantizer.text, note), rounding


def quantize_weight(
    model: nn.Module, block: Block, name: str, quantizer: Quantizer, stack: ExitStack
) -> Change:
    """Round one matrix of a block (of every expert), until `stack` is closed.

    Raises:
        SwapError: the block has no such matrix, or it is no view of a parameter.
    """
    projection = WEIGHTS[name]
    if projection not in block.projections:
        had = ", ".join(f"w_{p}" for p in block.projections)
        raise SwapError(f"block {block.name!r} has no {name}; it has {had}")
    path = ""
    fresh: dict[int, Tensor] = {}
    for expert in range(max(block.experts, 1)):
        path = read_matrix(model, block, projection, expert=expert).parameter
        held = dict(model.named_parameters(remove_duplicate=False)).get(path)
        if held is None:
            raise SwapError(
                f"{name} of {block.name!r} is no view of one parameter (parametrized, or made "
                "while the model runs), so it cannot be rounded in place"
            )
        if id(held) not in fresh:
            new = put_parameter(model, held, held.detach().clone(), stack)
            fresh[id(new)] = new
        view = read_matrix(model, block, projection, expert=expert).weight
        with torch.no_grad():
            view.copy_(quantizer.of_weight(view))
    note = f"{block.experts} experts" if block.experts else ""
    return Change("quantize", block.name, path, name, quantizer.text, note)
