"""Summary: everything that is kept of one site over one window."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Num

from ffn_probe.sketches.channels import Channels
from ffn_probe.sketches.extremes import Extremes
from ffn_probe.sketches.histogram import BitHistogram
from ffn_probe.sketches.joint import Joint
from ffn_probe.sketches.moments import Moments
from ffn_probe.sketches.quant_noise import QuantNoise

_PARTS = ("moments", "histogram", "channels", "extremes", "quant")


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The product of all sketches of a site.

    `seen_rows` fed extremes and the channels' absmax; `sampled_rows` of them fed the rest.
    `dtype` is that of the tensors, "mixed" when parts differ, "" when none was seen. The
    product has the laws of its parts: `empty(channels)` is the identity of `merge`.
    `joint` is None where there is no gate and value to relate.
    """

    seen_rows: int
    sampled_rows: int
    moments: Moments
    histogram: BitHistogram
    channels: Channels
    extremes: Extremes
    joint: Joint | None
    quant: QuantNoise
    dtype: str = ""

    @classmethod
    def empty(cls, channels: int, *, k: int = 16) -> "Summary":
        """Return the summary of no rows of `channels` channels, the identity of `merge`."""
        return cls(
            0,
            0,
            Moments.empty(),
            BitHistogram.empty(),
            Channels.empty(channels),
            Extremes.empty(k),
            None,
            QuantNoise.empty(),
        )

    @classmethod
    def of(
        cls,
        values: Num[np.ndarray, "rows channels"],
        *,
        dtype: str | None = None,
        bits: int = 7,
        k: int = 16,
        joint: Joint | None = None,
        quant: QuantNoise | None = None,
    ) -> "Summary":
        """Return the summary of rows that were all sampled; `dtype` defaults to theirs."""
        rows = values.shape[0]
        return cls(
            rows,
            rows,
            Moments.of(values),
            BitHistogram.of(values, bits),
            Channels.of(values),
            Extremes.of(values, k),
            joint,
            quant or QuantNoise.empty(),
            dtype or str(values.dtype),
        )

    def merge(self, other: "Summary") -> "Summary":
        """Return the summary of both streams of rows.

        Raises:
            SketchError: the numbers of channels differ.
        """
        return Summary(
            self.seen_rows + other.seen_rows,
            self.sampled_rows + other.sampled_rows,
            self.moments.merge(other.moments),
            self.histogram.merge(other.histogram),
            self.channels.merge(other.channels),
            self.extremes.merge(other.extremes),
            _merged_joint(self.joint, other.joint),
            self.quant.merge(other.quant),
            merged_dtype(self.dtype, other.dtype),
        )

    def to_row(self) -> dict[str, object]:
        """Return every part's columns as "part.column", and the row counts and dtype."""
        row: dict[str, object] = {
            "seen_rows": self.seen_rows,
            "sampled_rows": self.sampled_rows,
            "dtype": self.dtype,
        }
        parts = _PARTS if self.joint is None else (*_PARTS, "joint")
        for part in parts:
            row |= {f"{part}.{name}": x for name, x in getattr(self, part).to_row().items()}
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Summary":
        """Return the summary that `to_row` came from; other columns are ignored."""
        joint = Joint.from_row(_part(row, "joint")) if "joint.count" in row else None
        return cls(
            int(row["seen_rows"]),  # type: ignore[call-overload]
            int(row["sampled_rows"]),  # type: ignore[call-overload]
            Moments.from_row(_part(row, "moments")),
            BitHistogram.from_row(_part(row, "histogram")),
            Channels.from_row(_part(row, "channels")),
            Extremes.from_row(_part(row, "extremes")),
            joint,
            QuantNoise.from_row(_part(row, "quant")),
            str(row["dtype"]),
        )

    def equals(self, other: "Summary") -> bool:
        """Return whether every part is the same."""
        own = (self.seen_rows, self.sampled_rows, self.dtype)
        if own != (other.seen_rows, other.sampled_rows, other.dtype):
            return False
        if self.joint is None or other.joint is None:
            joint = self.joint is other.joint
        else:
            joint = self.joint.equals(other.joint)
        return joint and all(
            getattr(self, part).equals(getattr(other, part)) for part in _PARTS
        )


def merged_dtype(a: str, b: str) -> str:
    """Return the common dtype name, "mixed" when they differ; "" is the identity."""
    if a == b or not b:
        return a
    return b if not a else "mixed"


def _merged_joint(a: Joint | None, b: Joint | None) -> Joint | None:
    if a is None or b is None:
        return b if a is None else a
    return a.merge(b)


def _part(row: Mapping[str, object], part: str) -> dict[str, object]:
    prefix = f"{part}."
    return {k.removeprefix(prefix): x for k, x in row.items() if k.startswith(prefix)}
