"""How gate, activation and value move together, on the model's device (a Joint's twin)."""

from typing import Any

import torch
from torch import Tensor

from ffn_probe.probes import fused, kernels
from ffn_probe.sketches.joint import JOINT_BINS, Joint

PAIR_ROWS = 64
_SUMS = ("n", "g", "u", "a", "h", "gg", "uu", "gu", "aa", "au")


class Pairs:
    """Co-moments of gate, value and gate_act per neuron and expert, and the pooled grid."""

    def __init__(self, neurons: int, experts: tuple[int, ...], device: torch.device) -> None:
        self.neurons = neurons
        self.experts = experts
        self.device = device
        self._fresh()

    @torch.inference_mode(mode=False)
    def _fresh(self) -> None:
        g, n = len(self.experts), self.neurons
        f8 = torch.float64
        self.used = False
        self.sums = torch.zeros(g, len(_SUMS), n, dtype=f8, device=self.device)
        self.pivot = torch.zeros(g, 3, n, dtype=f8, device=self.device)
        self.grid = torch.zeros(g, JOINT_BINS**2, dtype=torch.int64, device=self.device)

    @property
    def bytes(self) -> int:
        """Device memory of the state."""
        held = (self.sums, self.pivot, self.grid)
        return sum(v.numel() * v.element_size() for v in held)

    @torch.no_grad()
    def add(self, gate: Tensor, value: Tensor, act: Tensor, labels: Tensor | None) -> None:
        """Fold rows of the three tensors [rows, neurons] into the state."""
        if gate.shape[0] == 0:
            return
        if labels is None and len(self.experts) == 1 and fused.usable(self.device):
            self._add_compiled(gate, value, act)
            return
        g, u, a = (x.double() for x in (gate, value, act))
        kept = (g.isfinite() & u.isfinite() & a.isfinite()) & (a * u).isfinite()
        g, u, a = (torch.where(kept, x, 0.0) for x in (g, u, a))
        n = kept.double()
        if not self.used:
            self.used = True
            count = self._total(n, labels).clamp(min=1)
            means = [self._total(x, labels) / count for x in (g, u, a)]
            self.pivot += torch.stack(means, 1)
        pivot = self.pivot
        if labels is not None:
            pivot = torch.cat([pivot, torch.zeros_like(pivot[:1])])[labels]
        dg, du, da = ((x - pivot[:, i]) * n for i, x in enumerate((g, u, a)))
        terms = (n, dg, du, da, a * u, dg * dg, du * du, dg * du, da * da, da * du)
        for i, term in enumerate(terms):
            self.sums[:, i] += self._total(term, labels)
        cell = _bin(gate) * JOINT_BINS + _bin(value)
        size = JOINT_BINS**2
        groups = len(self.experts)
        offset = 0 if labels is None else labels[:, None] * size
        index = torch.where(kept, cell + offset, groups * size).flatten()
        counts = torch.zeros((groups + 1) * size, dtype=torch.int64, device=self.device)
        counts.index_add_(0, index, torch.ones_like(index))
        self.grid += counts[: groups * size].view(groups, size)

    def _add_compiled(self, gate: Tensor, value: Tensor, act: Tensor) -> None:
        three = [x.float().contiguous() for x in (gate, value, act)]
        if not self.used:
            self.used = True
            self.pivot[0] = torch.stack(
                [x.double().nan_to_num(0.0, 0.0, 0.0).mean(0) for x in three]
            )
        arrays = [x.numpy() for x in (*three, self.pivot[0], self.sums[0], self.grid[0])]
        kernels.joined(*arrays)

    def _total(self, values: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            return values.sum(0, keepdim=True)
        out = torch.zeros(len(self.experts) + 1, *values.shape[1:], dtype=values.dtype)
        return out.to(self.device).index_add_(0, labels, values)[:-1]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row an expert with data, and start afresh."""
        sums, pivot, grid = (x.cpu().numpy() for x in (self.sums, self.pivot, self.grid))
        found = []
        for i, expert in enumerate(self.experts):
            of = dict(zip(_SUMS, sums[i], strict=True))
            if not of["n"].any():
                continue
            n = of["n"].clip(min=1)
            sketch = Joint(
                count=of["n"].astype("int64"),
                mean_gate=pivot[i, 0] + of["g"] / n,
                mean_value=pivot[i, 1] + of["u"] / n,
                mean_act=pivot[i, 2] + of["a"] / n,
                mean_hidden=of["h"] / n,
                c_gg=(of["gg"] - of["g"] ** 2 / n).clip(min=0),
                c_uu=(of["uu"] - of["u"] ** 2 / n).clip(min=0),
                c_gu=of["gu"] - of["g"] * of["u"] / n,
                c_aa=(of["aa"] - of["a"] ** 2 / n).clip(min=0),
                c_au=of["au"] - of["a"] * of["u"] / n,
                grid=grid[i],
            )
            found.append({"expert": expert, "fold": -1, **sketch.to_row()})
        self._fresh()
        return found


def _bin(values: Tensor) -> Tensor:
    """Return the bin of JOINT_EDGES of each value, from its exponent (NaN: some bin)."""
    bits = values.float().view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    below = (bits < 0) & (magnitude > 0)
    # The edges belong to the bin above them, so a negative power of two counts as smaller.
    exponent = ((magnitude - below.int()) >> 23) - 127
    exponent = exponent.clamp(-13, 10)
    return torch.where(below, 10 - exponent, 37 + exponent).long()
