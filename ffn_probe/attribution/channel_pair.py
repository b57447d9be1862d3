"""What two tensors of one site say of each other channel by channel."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

CHANNEL_SUMS = ("count", "sum_a", "sum_b", "sum_aa", "sum_bb", "sum_ab")
"""Columns of the table, in the order of `sums`."""

TOP_SHARE = 0.01
"""Share of channels (at least one of 16) that a standardised cosine leaves out: those with the
most energy in the reference. One channel may hold nearly all of a raw cosine."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelPair:
    """Sums of reference (a) and candidate (b) over rows, one a channel."""

    sums: Float64[np.ndarray, "6 channels"]

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray], rows: np.ndarray) -> "ChannelPair":
        """Return the pair of some rows of `paired_channels`, windows and experts added.

        `columns` holds the lists of CHANNEL_SUMS by name, one a row. Rows of another width than
        the first are passed over.
        """
        stacks = [
            np.array([np.asarray(columns[name][row], np.float64) for name in CHANNEL_SUMS])
            for row in rows
        ]
        width = stacks[0].shape[1]
        return cls(np.sum([s for s in stacks if s.shape[1] == width], axis=0))

    @property
    def gain_slopes(self) -> Float64[np.ndarray, " kept"]:
        """The factor of each channel by regression of candidate on reference, through zero.

        Channels that are zero in the reference are left out. A gain that is doubled in one
        channel shows here and not in a cosine.
        """
        *_, sum_aa, _, sum_ab = self.sums
        kept = sum_aa > 0
        slopes: np.ndarray = sum_ab[kept] / sum_aa[kept]
        return slopes

    @property
    def cosine_standardised(self) -> float:
        """The cosine after each channel was shifted and scaled as the reference's asks.

        Channels become (x - mean_a) / std_a in both; those with the most energy (1 %, at least
        one from 16 channels on) and those that are constant in the reference are left out.
        NaN when nothing is left.
        """
        count, sum_a, sum_b, sum_aa, sum_bb, sum_ab = self.sums
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(count > 0, sum_a / count, 0.0)
            spread = sum_aa - mean * sum_a
        kept = spread > 1e-12 * np.maximum(sum_aa, 1e-300)
        if count.size >= 16:
            top = max(1, round(TOP_SHARE * count.size))
            kept[np.argpartition(sum_aa, -top)[-top:]] = False
        if not kept.any():
            return math.nan
        joint = (sum_ab - mean * sum_b)[kept] / spread[kept]
        other = (sum_bb - 2 * mean * sum_b + count * mean * mean)[kept] / spread[kept]
        size = math.sqrt(float(kept.sum()) * max(float(other.sum()), 0.0))
        return float(joint.sum()) / size if size > 0 else math.nan
