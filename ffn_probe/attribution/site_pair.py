"""SitePair: one site of two models in one view, as sums by fold, and the measures of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from ffn_probe.attribution.floors import sqnr_db

SUMS: tuple[str, ...] = (
    "rows", "count", "nonfinite_a", "nonfinite_b", "energy_a", "energy_b", "error", "dot",
    "cross", "ulps", "cosines", "cosine_rows", "hsic_ab", "hsic_aa", "hsic_bb",
)  # fmt: skip
"""Columns that merge by adding; `max_abs` merges by the larger."""


def positions(frame: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[str, ...], np.ndarray]:
    """Return the values of some columns of text -> where the rows with them stand."""
    if frame.empty:
        return {}
    groups: dict[Any, Any] = frame.groupby(list(keys), sort=False).indices
    return {tuple(map(str, key)): np.asarray(rows) for key, rows in groups.items()}


def summed_by_fold(
    folds: Int[np.ndarray, " rows"], values: Float64[np.ndarray, "rows columns"]
) -> tuple[tuple[int, ...], Float64[np.ndarray, "folds columns"]]:
    """Return the folds of some rows, ascending, and the sums of their values, one row a fold.

    Rows of whole runs (fold below 0) are read only where there are no others. A value that is
    not a number makes its sum none: it is not passed over.
    """
    single = folds >= 0
    used = single if single.any() else ~single
    found, where = np.unique(folds[used], return_inverse=True)
    sums = np.zeros((found.size, values.shape[1]))
    with np.errstate(invalid="ignore"):
        np.add.at(sums, where, values[used])
    return tuple(found.tolist()), sums


@dataclass(frozen=True, slots=True, eq=False)
class SitePair:
    """The sums of reference (a) and candidate (b) at one site in one view.

    Energies are in the unit of the tensor squared; `sums` has one row a fold. `reason` is not
    empty when values could not be paired one by one: then the HSICs alone are set.
    """

    role: str
    view: str
    folds: tuple[int, ...]
    sums: Float64[np.ndarray, "folds columns"]
    max_abs: float = math.nan
    reason: str = ""

    @classmethod
    def every(cls, frame: pd.DataFrame) -> dict[tuple[str, str, str], "SitePair"]:
        """Return (block, role, view) -> pair of a table `paired`, windows and experts added."""
        folds = frame["fold"].to_numpy(np.int64)
        values = frame[list(SUMS)].to_numpy(np.float64)
        largest = frame["max_abs"].to_numpy(np.float64)
        reasons = frame["reason"].to_numpy(object)
        found = {}
        for (block, role, view), rows in positions(frame, ("block", "role", "view")).items():
            said = [text for text in reasons[rows] if text]
            found[block, role, view] = cls(
                role, view, *summed_by_fold(folds[rows], values[rows]),
                float(np.max(largest[rows])), str(said[0]) if said else "",
            )  # fmt: skip
        return found

    def by_fold(self, name: str) -> Float64[np.ndarray, " folds"]:
        """Return one column."""
        column: np.ndarray = self.sums[:, SUMS.index(name)]
        return column

    def total(self, name: str) -> float:
        """Return the sum of one column over all folds."""
        return float(self.by_fold(name).sum())

    # Measures; NaN where there is nothing to measure

    @property
    def paired(self) -> bool:
        """Whether there are values that were compared one by one."""
        return not self.reason and self.total("count") > 0

    @property
    def sqnr_db(self) -> float:
        """Signal over error in dB; inf: equal."""
        return sqnr_db(self.total("energy_a"), self.total("error")) if self.paired else math.nan

    @property
    def relative_l2(self) -> float:
        """Root of error over signal energy."""
        return _root(self.total("error"), self.total("energy_a")) if self.paired else math.nan

    @property
    def cosine(self) -> float:
        """Mean cosine of rows (tokens)."""
        rows = self.total("cosine_rows")
        return self.total("cosines") / rows if rows else math.nan

    @property
    def norm_ratio(self) -> float:
        """Norm of the candidate over the reference's."""
        if not self.paired:
            return math.nan
        return _root(self.total("energy_b"), self.total("energy_a"))

    @property
    def ulp_share(self) -> float:
        """Share of values that differ by one unit in the last place or more."""
        return self.total("ulps") / self.total("count") if self.paired else math.nan

    @property
    def cka(self) -> float:
        """Linear CKA of the rows, unbiased (it may be a little below 0 or above 1)."""
        scale = self.total("hsic_aa") * self.total("hsic_bb")
        return self.total("hsic_ab") / math.sqrt(scale) if scale > 0 else math.nan

    @property
    def nonfinite(self) -> tuple[int, int]:
        """How many values are not finite in the reference, and in the candidate."""
        return int(self.total("nonfinite_a")), int(self.total("nonfinite_b"))


def _root(top: float, bottom: float) -> float:
    return math.sqrt(top / bottom) if bottom > 0 and top >= 0 else math.nan
