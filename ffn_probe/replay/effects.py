"""Effects: additive numbers of a replay by fold, and the rows they are stored as."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ffn_probe.runs import FOLDS


@dataclass(frozen=True, slots=True, order=True)
class EffectKey:
    """What a number belongs to; layer -1 and block "" stand for the whole model."""

    layer: int
    block: str
    role: str
    analysis: str
    part: str
    metric: str


@dataclass(slots=True)
class Effects:
    """Sums and counts by key and fold."""

    sums: dict[EffectKey, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def add(self, key: EffectKey, values: Tensor, folds: Tensor, count: int = 1) -> None:
        """Add one value a row, of `count` terms each, to the folds of the rows."""
        if key not in self.sums:
            zeros = torch.zeros(FOLDS, dtype=torch.float64)
            self.sums[key] = (zeros, torch.zeros(FOLDS, dtype=torch.int64))
        total, number = self.sums[key]
        where = folds.cpu()
        total.index_add_(0, where, values.detach().double().cpu())
        number.index_add_(0, where, torch.full_like(where, count))

    def put(self, key: EffectKey, fold: int, value: float, count: int) -> None:
        """Add one number to one fold."""
        self.add(key, torch.tensor([value], dtype=torch.float64), torch.tensor([fold]), count)

    def rows(self, window: int) -> list[dict[str, Any]]:
        """Return the rows of the table `effects`, in order."""
        return [
            {
                "window": window, "fold": fold, "layer": key.layer, "block": key.block,
                "role": key.role, "expert": -1, "dp": 0, "tp": 0, "pp": 0, "ep": 0,
                "analysis": key.analysis, "part": key.part, "metric": key.metric,
                "value": float(total[fold]), "count": int(number[fold]),
            }
            for key, (total, number) in sorted(self.sums.items(), key=lambda item: item[0])
            for fold in range(FOLDS)
            if int(number[fold])
        ]  # fmt: skip
