"""Judgement: which limits a pair keeps, site by site."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ffn_probe.budgets.limit import LOGITS, Limit


@dataclass(frozen=True, slots=True)
class Check:
    """One limit at one site: the value, and why it fails; `reason` is empty when it passes."""

    limit: Limit
    layer: int
    block: str
    role: str
    value: float
    unit: str
    floor: float
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is known and within the limit."""
        return not self.reason

    @property
    def place(self) -> str:
        """Where: "layer 3 out", or "output" for the model's."""
        return "output" if self.role == LOGITS else f"layer {self.layer} {self.role}"

    @property
    def excess(self) -> float:
        """How far the value is over the limit, in its unit; inf when it cannot be told."""
        if math.isnan(self.value):
            return math.inf
        return max(self.limit.minimum - self.value, self.value - self.limit.maximum)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Every limit at every site it is about."""

    name: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that fail, in the order of the budget and then of depth."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether every check passes."""
        return not self.failed

    @property
    def exit_code(self) -> int:
        """0 within the budget, 1 over it."""
        return 0 if self.passed else 1

    @property
    def by_limit(self) -> Mapping[Limit, tuple[Check, ...]]:
        """The checks of each limit, in the order of the budget."""
        found: dict[Limit, list[Check]] = {}
        for check in self.checks:
            found.setdefault(check.limit, []).append(check)
        return {limit: tuple(checks) for limit, checks in found.items()}

    @property
    def sentence(self) -> str:
        """The judgement in a sentence."""
        limits = self.by_limit
        over = [limit for limit, checks in limits.items() if not all(c.passed for c in checks)]
        if not over:
            return f"Within {self.name}: {len(limits)} limits at {len(self.checks)} sites."
        first = self.failed[0]
        return (
            f"Over {self.name}: {len(over)} of {len(limits)} limits, at {len(self.failed)} of "
            f"{len(self.checks)} sites; the first is {first.place}, {first.limit.measure}: "
            f"{first.reason}."
        )

    def table(self) -> pd.DataFrame:
        """Return one row a check."""
        return pd.DataFrame(_row(check) for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; numbers that are not finite are their names."""
        checks = [
            {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v
             for k, v in _row(check).items()}
            for check in self.checks
        ]  # fmt: skip
        return {
            "budget": self.name, "passed": self.passed, "sentence": self.sentence,
            "checks": checks,
        }  # fmt: skip

    def to_json(self) -> str:
        """Return readable JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def _row(check: Check) -> dict[str, Any]:
    return {
        "passed": check.passed, "limit": check.limit.text, "layer": check.layer,
        "block": check.block, "role": check.role, "view": check.limit.view,
        "measure": check.limit.measure, "value": check.value, "unit": check.unit,
        "min": check.limit.minimum, "max": check.limit.maximum, "floor": check.floor,
        "reason": check.reason,
    }  # fmt: skip
