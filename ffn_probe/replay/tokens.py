"""Which sequence, and so which fold, the rows of a tensor belong to."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ffn_probe.discover.calling import call_arguments
from ffn_probe.probes.inputs import grids_of
from ffn_probe.runs import FOLDS


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one batch: sequences, length, the fold of each sequence, what is padding.

    `real` is [sequences, length] or None; `known` is False when the batch has no token grid
    (then a row's fold is that of its first axis, or the batch's).
    """

    sequences: int
    length: int
    folds: Tensor
    real: Tensor | None
    known: bool = True

    @classmethod
    def of(cls, batch: Any, first: int) -> "Tokens":
        """Return the tokens of a batch whose first sequence has the ordinal `first`."""
        args, kwargs = call_arguments(batch)
        grids = grids_of(args, kwargs)
        if not grids:
            leading = next((v.shape[0] for v in (*args, *kwargs.values()) if _is_batched(v)), 1)
            return cls(leading, 1, _folds(first, leading), None, known=False)
        grid = grids[0]
        real = None if grid.real is None else grid.real.view(grid.sequences, grid.length)
        return cls(grid.sequences, grid.length, _folds(first, grid.sequences), real)

    @property
    def count(self) -> int:
        """Number of tokens, padding left out."""
        return self.sequences * self.length if self.real is None else int(self.real.sum())

    def rows(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return (rows [rows, channels] without padding, the fold of each row)."""
        flat = value.reshape(-1, value.shape[-1])
        if value.dim() >= 3 and value.shape[0] == self.sequences:
            each = flat.shape[0] // max(self.sequences, 1)
            folds = self.folds.repeat_interleave(each)
        elif value.dim() >= 3 and value.shape[1] == self.sequences:
            folds = self.folds.repeat(flat.shape[0] // max(self.sequences, 1))
        elif flat.shape[0] == self.sequences * self.length:
            folds = self.folds.repeat_interleave(self.length)
        else:  # rows of experts: whose they are is not known
            folds = self.folds[:1].expand(flat.shape[0])
        folds = folds.to(flat.device)
        if self.real is not None and value.shape[:2] == self.real.shape:
            keep = self.real.reshape(-1).to(flat.device)
            return flat[keep], folds[keep]
        return flat, folds


def _is_batched(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2


def _folds(first: int, count: int) -> Tensor:
    return (torch.arange(count) + first) % FOLDS
