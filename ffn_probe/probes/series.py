"""Series: the numbers of a window that go to a logger, by name, and never too many.

A sink is any callable that takes a step and a mapping of names to numbers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffn_probe.anatomy import ROLES
from ffn_probe.errors import UnknownName
from ffn_probe.runs import NUMBERS

Row = Mapping[str, Any]


Sink = Callable[[int, Mapping[str, float]], object]
"""Takes the numbers of a window, named; it is called once a window, with its last step."""


@dataclass(frozen=True, slots=True)
class Series:
    """Which numbers go to the sinks.

    Attributes:
        measures: quantiles ("q001" ... "q999") and measures, as in the table `trends`.
        roles: the roles whose sites are told; a gradient's begins with `grad_`.
        most: numbers a window. With more, a few layers stand for all: the first, the last and
            some between them.
        prefix: what the names begin with: `ffn/layers.3/hidden/absmax`.
    """

    measures: tuple[str, ...] = ("rms", "absmax", "dead_share", "branch_ratio")
    roles: tuple[str, ...] = ("resid", "hidden", "out")
    most: int = 256
    prefix: str = "ffn"

    def __post_init__(self) -> None:
        """Raise UnknownName for a measure or role that there is not."""
        for name in self.measures:
            if name not in NUMBERS:
                raise UnknownName.of("measure or quantile", name, NUMBERS)
        known = (*ROLES, *(f"grad_{role}" for role in ROLES))
        for role in self.roles:
            if role not in known:
                raise UnknownName.of("role", role, known)

    def of(self, rows: Iterable[Row]) -> dict[str, float]:
        """Return name -> number of a window, from its rows of `trends`.

        What does not apply at a site (the branch ratio of `hidden`) is left out.
        """
        chosen = [row for row in rows if row["role"] in self.roles]
        layers = sorted({row["layer"] for row in chosen})
        while True:
            found = {
                name: value
                for row in chosen
                if row["layer"] in layers
                for name, value in self._named(row)
            }
            if len(found) <= self.most or len(layers) < 2:
                return dict(list(found.items())[: self.most])
            fewer = max(1, min(len(layers) - 1, len(layers) * self.most // len(found)))
            kept = np.linspace(0, len(layers) - 1, fewer).round().astype(int)
            layers = [layers[i] for i in kept]

    def _named(self, row: Row) -> Iterable[tuple[str, float]]:
        expert = f"#{row['expert']}" if row["expert"] >= 0 else ""
        place = f"{self.prefix}/{row['block']}/{row['role']}{expert}"
        for name in self.measures:
            value = float(row[name])
            if not np.isnan(value):
                yield f"{place}/{name}", value
