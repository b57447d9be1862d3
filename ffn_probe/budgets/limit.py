"""Limit: one measure of some sites of a pair, and the values it may have."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ffn_probe.anatomy import ROLES
from ffn_probe.attribution.pair_measures import PAIR_MEASURES
from ffn_probe.errors import BudgetError, UnknownName

VIEWS: tuple[str, ...] = ("end", "local", "stage", "inherited")
"""How the candidate was fed: end to end, its block or its stage by the reference, ..."""

LOGITS = "logits"
"""The role of the model's output."""

OF_OUTPUT: tuple[str, ...] = ("sqnr_db", "kl", "top1", "loss_difference")
"""The measures of the model's output; all but the first are of nothing else."""

_KEYS: Mapping[str, tuple[type, ...]] = {
    "measure": (str,), "role": (str,), "block": (str, int), "view": (str,),
    "min": (int, float), "max": (int, float),
}  # fmt: skip
_GLOB = set("*?[")
_BOUND = re.compile(r"\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """A measure may not be under `minimum` or over `maximum`, in the measure's unit.

    `role` and `block` are globs; `block` also takes a layer (-1: the last). The model's output
    is the role "logits". `where` says where the limit was written.

    >>> Limit.parse("layers.3.*/out.sqnr_db", ">= 40").text
    'layers.3.*/out.sqnr_db >= 40'

    Raises:
        UnknownName: no measure, role or view has that name.
        BudgetError: there is no bound, or nothing is between the bounds.
    """

    measure: str
    role: str = "*"
    block: str | int = "*"
    view: str = "end"
    minimum: float = -math.inf
    maximum: float = math.inf
    where: str = ""

    def __post_init__(self) -> None:
        """Refuse a limit that means nothing."""
        hint = f"(in {self.where})" if self.where else ""
        if self.measure not in PAIR_MEASURES:
            raise UnknownName.of("measure", self.measure, PAIR_MEASURES, hint)
        if not _GLOB & set(self.role) and self.role not in (*ROLES, LOGITS):
            raise UnknownName.of("role", self.role, (*ROLES, LOGITS), hint)
        if self.view not in VIEWS:
            raise UnknownName.of("view", self.view, VIEWS, hint)
        bounds = (self.minimum, self.maximum)
        if any(math.isnan(bound) for bound in bounds) or bounds == (-math.inf, math.inf):
            raise BudgetError(
                f"{self._place}{self.name} has no bound: give min, max or both, as numbers"
            )
        if self.minimum > self.maximum:
            raise BudgetError(
                f"{self._place}{self.name}: nothing is both >= {self.minimum:g} and "
                f"<= {self.maximum:g}"
            )

    @classmethod
    def parse(cls, key: str, bounds: object, where: str = "") -> "Limit":
        """Return the limit of the short form: "out.sqnr_db" with ">= 40".

        Args:
            key: [block/]role.measure; block and role are globs.
            bounds: ">= number", "<= number", or both with a comma between.
            where: where it was written, for messages.

        Raises:
            BudgetError: the key or the bounds are not of this form.
            UnknownName: no measure or role has that name.
        """
        at = f"{where}: " if where else ""
        block, slash, site = key.rpartition("/")
        role, dot, measure = site.rpartition(".")
        if not measure or (dot and not role) or (slash and not block):
            raise BudgetError(f"{at}{key!r} is no [block/]role.measure")
        ends = {">=": -math.inf, "<=": math.inf}
        for part in bounds.split(",") if isinstance(bounds, str) else ():
            found = _BOUND.fullmatch(part)
            value = None if found is None else _number(found[2])
            if found is None or value is None:
                raise BudgetError(f"{at}{key} is {bounds!r}; {_FORM}")
            ends[found[1]] = value
        if not isinstance(bounds, str):
            raise BudgetError(f"{at}{key} is {bounds!r}; {_FORM}")
        return cls(
            measure, role or "*", _block(block or "*"), "end", ends[">="], ends["<="], where
        )

    @classmethod
    def from_table(cls, data: Mapping[str, Any], where: str = "") -> "Limit":
        """Return the limit of a table with the keys measure, role, block, view, min, max.

        Raises:
            BudgetError: a key is missing or of another type.
            UnknownName: there is no such key, measure, role or view.
        """
        at = f"{where}: " if where else ""
        for key, value in data.items():
            if key not in _KEYS:
                raise UnknownName.of("key of a limit", str(key), _KEYS, f"({where})")
            if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
                kind = "a number" if float in _KEYS[key] else "text"
                raise BudgetError(f"{at}{key} is {value!r}; expected {kind}")
        if "measure" not in data:
            raise BudgetError(f"{at}a limit needs a measure: one of {', '.join(PAIR_MEASURES)}")
        return cls(
            data["measure"], data.get("role", "*"), _block(data.get("block", "*")),
            data.get("view", "end"), float(data.get("min", -math.inf)),
            float(data.get("max", math.inf)), where,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """What is limited: "layers.3.*/out.sqnr_db (local)"."""
        block = "" if self.block == "*" else f"{self.block}/"
        view = "" if self.view == "end" else f" ({self.view})"
        return f"{block}{self.role}.{self.measure}{view}"

    @property
    def text(self) -> str:
        """The limit in a line, as the short form writes it."""
        bounds = []
        if self.minimum > -math.inf:
            bounds.append(f">= {self.minimum:g}")
        if self.maximum < math.inf:
            bounds.append(f"<= {self.maximum:g}")
        return f"{self.name} {', '.join(bounds)}"

    @property
    def _place(self) -> str:
        return f"{self.where}: " if self.where else ""

    def holds(self, value: float) -> bool:
        """Return whether a value is within the bounds; NaN is not."""
        return self.minimum <= value <= self.maximum

    def meets(self, role: str) -> bool:
        """Return whether the limit is about a role, and its measure of that role."""
        return fnmatchcase(role, self.role) and self.measures(role)

    def measures(self, role: str) -> bool:
        """Return whether sites of a role have this measure."""
        if role == LOGITS:
            return self.measure in OF_OUTPUT
        return self.measure not in OF_OUTPUT[1:]


_FORM = 'expected ">= number", "<= number", or both with a comma between'


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _block(block: str | int) -> str | int:
    """Return a layer as a number, also when it was written as text."""
    text = str(block)
    return int(text) if text.lstrip("-").isdecimal() else block
