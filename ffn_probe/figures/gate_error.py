"""Where an activation's error falls: the gate's histogram and the error over it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from ffn_probe.sketches.bit_codes import infinity_code, sign_bit
from ffn_probe.sketches.histogram import bin_edges

BITS = 3  # mantissa bits of the codes in the table `activation_error`
_TAIL = 5e-4  # of the gate's values left out at each end of the picture
_BINS = 72


@dataclass(frozen=True, slots=True)
class GateError:
    """The gate's values of one block in bins, with the activation's error of each bin.

    `left` and `right` are the edges of a bin in the unit of the gate, `counts` its values,
    `error` the observed and `expected` the theory's sum of squared differences; bins that
    hold nothing finite are left out.
    """

    layer: int
    block: str
    left: Float64[np.ndarray, " bins"]
    right: Float64[np.ndarray, " bins"]
    counts: Float64[np.ndarray, " bins"]
    error: Float64[np.ndarray, " bins"]
    expected: Float64[np.ndarray, " bins"]

    @classmethod
    def of(cls, *rows: Mapping[str, Any]) -> "GateError":
        """Return what rows of the table `activation_error` hold together, of one block.

        A mixture has a row an expert; bins that several rows share are kept apart.
        """
        codes = _joined(rows, "codes").astype(np.int64)
        magnitude = codes & (sign_bit(BITS) - 1)
        finite = magnitude < infinity_code(BITS)
        negative = (codes >= sign_bit(BITS))[finite]
        inner, outer = bin_edges(magnitude[finite], BITS)
        left, right = np.where(negative, -outer, inner), np.where(negative, -inner, outer)
        order = np.argsort(left, kind="stable")
        columns = (
            _joined(rows, name)[finite][order] for name in ("counts", "error", "expected")
        )
        layer, block = int(rows[0]["layer"]), str(rows[0]["block"])
        return cls(layer, block, left[order], right[order], *columns)

    @property
    def ends(self) -> tuple[float, float]:
        """The values between which all but a thousandth of the gate lies; (-1, 1) for none."""
        total = float(self.counts.sum())
        if not total:
            return -1.0, 1.0
        share = np.cumsum(self.counts) / total
        first = int(np.searchsorted(share, _TAIL))
        last = min(int(np.searchsorted(share, 1 - _TAIL)), self.counts.size - 1)
        low, high = float(self.left[first]), float(self.right[last])
        return (low, high) if low < high else (low - 1.0, high + 1.0)

    def densities(self) -> tuple[Float64[np.ndarray, " edges"], list[np.ndarray]]:
        """Return even edges over `ends`, and the densities of gate, error and expected error.

        A density is a share per unit of the gate; it is 0 where the whole is 0. The mass of
        a bin is spread evenly over it; what lies outside of the ends is left out.
        """
        edges = np.linspace(*self.ends, _BINS + 1)
        width = np.maximum(self.right - self.left, 1e-300)[:, None]
        over = np.minimum(self.right[:, None], edges[1:]) - np.maximum(
            self.left[:, None], edges[:-1]
        )
        part = np.clip(over, 0.0, None) / width
        atoms = self.right == self.left
        at = np.searchsorted(edges, self.left, side="right") - 1
        inside = atoms & (at >= 0) & (at < _BINS)
        part[inside, at[inside]] = 1.0
        found = [
            _density(values, part, edges) for values in (self.counts, self.error, self.expected)
        ]
        return edges, found


def _joined(rows: Sequence[Mapping[str, Any]], name: str) -> Float64[np.ndarray, " n"]:
    return np.concatenate([np.asarray(row[name], np.float64) for row in rows])


def _density(
    values: Float64[np.ndarray, " n"],
    part: Float64[np.ndarray, "n bins"],
    edges: Float64[np.ndarray, " edges"],
) -> Float64[np.ndarray, " bins"]:
    known = np.where(np.isfinite(values), values, 0.0)
    total = known.sum()
    mass = known @ part
    return mass / total / np.diff(edges) if total > 0 else np.zeros(edges.size - 1)
