"""PairSums: what two tensors of one site add to the paired measures, by fold of sequences.

Sums only, in float64: they merge by adding. Values that are not finite in either tensor are
counted and left out of the sums.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ffn_probe.runs import FOLDS, WHOLE

CKA_ROWS = 256
"""Rows of a batch that a CKA is taken of: its cost grows with the square."""

_SUMS = (
    "rows", "count", "nonfinite_a", "nonfinite_b", "energy_a", "energy_b", "error", "dot",
    "cross", "max_abs", "ulps", "cosines", "cosine_rows", "hsic_ab", "hsic_aa", "hsic_bb",
)  # fmt: skip
_COUNTS = {"rows", "count", "nonfinite_a", "nonfinite_b", "ulps", "cosine_rows"}
_CHANNELS = ("sum_a", "sum_b", "sum_aa", "sum_bb", "sum_ab")


@dataclass(slots=True)
class PairSums:
    """The running sums of one site in one view; `reason` says why values are not paired."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    channels: dict[str, Tensor] = field(default_factory=dict)
    reason: str = ""

    def add(self, a: Tensor, b: Tensor, folds: Tensor, *, full: bool = True) -> None:
        """Add rows [rows, channels] of reference and candidate, paired value by value.

        Args:
            a: of the reference.
            b: of the candidate; moved to the device of `a`.
            folds: the fold of each row, int64 [rows].
            full: also the sums by channel, and the kernels of a CKA.
        """
        coarse = _coarser(a.dtype, b.dtype)
        b = b.to(a.device)
        x, y = a.double(), b.double()
        rows = {
            "rows": torch.ones_like(folds),
            "count": torch.full_like(folds, a.shape[1]),
            "energy_a": x.square().sum(1),
            "energy_b": y.square().sum(1),
        }
        differ = a.to(coarse) != b.to(coarse)
        if not bool((rows["energy_a"] + rows["energy_b"]).isfinite().all()):
            bad_a, bad_b = ~x.isfinite(), ~y.isfinite()
            bad = bad_a | bad_b
            x, y, differ = x.masked_fill(bad, 0), y.masked_fill(bad, 0), differ & ~bad
            rows |= {
                "count": a.shape[1] - bad.sum(1),
                "nonfinite_a": bad_a.sum(1), "nonfinite_b": bad_b.sum(1),
                "energy_a": x.square().sum(1), "energy_b": y.square().sum(1),
            }  # fmt: skip
        apart = y - x
        rows |= {
            "error": apart.square().sum(1),
            "dot": (x * y).sum(1),
            "ulps": differ.sum(1),
        }
        scale = (rows["energy_a"] * rows["energy_b"]).sqrt()
        rows["cosines"] = torch.where(scale > 0, rows["dot"] / scale.clamp(min=1e-300), 0)
        rows["cosine_rows"] = (scale > 0).long()
        for name, values in rows.items():
            self._sum(name, values, folds)
        if apart.numel():
            self._most(apart.abs().amax(1), folds)
        if full:
            self._channel_sums(x, y)
            self.add_kernels(x, y, folds)

    def add_cross(self, cross: Tensor, folds: Tensor) -> None:
        """Add local times inherited error of each row."""
        self._sum("cross", cross, folds)

    def add_kernels(self, a: Tensor, b: Tensor, folds: Tensor) -> None:
        """Add the unbiased HSIC of some rows (Song et al. 2012; Nguyen et al. 2021, eq. 3)."""
        step = max(1, a.shape[0] // CKA_ROWS)
        x, y = a[::step][:CKA_ROWS].double(), b[::step][:CKA_ROWS].double().to(a.device)
        if x.shape[0] < 4 or not bool(x.isfinite().all() & y.isfinite().all()):
            return
        k, l = (_kernel(rows - rows.mean(0)) for rows in (x, y))  # noqa: E741 - Song's name
        first = folds[:1]
        for name, one, two in (("ab", k, l), ("aa", k, k), ("bb", l, l)):
            self._sum(f"hsic_{name}", _hsic(one, two).reshape(1), first)

    def add_unpaired(self, a: Tensor, b: Tensor, folds: Tensor, reason: str) -> None:
        """Add rows of the same tokens in other bases: their kernels only."""
        self.reason = reason
        if a.shape[0] == b.shape[0] == folds.shape[0]:
            self._sum("rows", torch.ones_like(folds), folds)
            self.add_kernels(a, b, folds)

    def _sum(self, name: str, values: Tensor, folds: Tensor) -> None:
        kind = torch.int64 if name in _COUNTS else torch.float64
        held = self.sums.get(name)
        if held is None:
            held = self.sums[name] = torch.zeros(FOLDS, dtype=kind, device=folds.device)
        held.index_add_(0, folds, values.to(kind))

    def _most(self, values: Tensor, folds: Tensor) -> None:
        held = self.sums.get("max_abs")
        if held is None:
            held = torch.zeros(FOLDS, dtype=torch.float64, device=folds.device)
        self.sums["max_abs"] = held.scatter_reduce(0, folds, values, "amax")

    def _channel_sums(self, x: Tensor, y: Tensor) -> None:
        new = {
            "count": torch.full((x.shape[1],), x.shape[0], device=x.device),
            "sum_a": x.sum(0), "sum_b": y.sum(0), "sum_aa": x.square().sum(0),
            "sum_bb": y.square().sum(0), "sum_ab": (x * y).sum(0),
        }  # fmt: skip
        for name, values in new.items():
            old = self.channels.get(name)
            self.channels[name] = values if old is None else old + values

    # Reading

    def fold_rows(self) -> list[dict[str, Any]]:
        """Return the columns of the table `paired`, one row a fold that saw rows."""
        host = {name: self.sums[name].cpu().tolist() for name in self.sums}
        seen = host.get("rows", [0] * FOLDS)
        return [
            {"fold": fold, "reason": self.reason}
            | {
                name: host.get(name, [0] * FOLDS)[fold] * (1 if name in _COUNTS else 1.0)
                for name in _SUMS
            }
            for fold in range(FOLDS)
            if seen[fold] or (self.reason and fold == 0)
        ]

    def channel_rows(self) -> list[dict[str, Any]]:
        """Return the columns of the table `paired_channels`: one row, or none."""
        if not self.channels:
            return []
        return [{"fold": WHOLE, **{k: v.cpu().numpy() for k, v in self.channels.items()}}]


def _coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    return max((a, b), key=lambda kind: torch.finfo(kind).eps)


def _kernel(x: Tensor) -> Tensor:
    kernel = x @ x.t()
    return kernel - torch.diag(kernel.diagonal())


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    n = k.shape[0]
    ones = k.sum() * l.sum() / ((n - 1) * (n - 2))
    cross = 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
    return ((k * l).sum() + ones - cross) / (n * (n - 3))
