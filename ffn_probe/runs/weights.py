"""WeightGeometry: the directions and sizes of a block's weights, as they were at recording."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_NEURONS = ("cos_gate_up", "norm_gate", "norm_up", "norm_down")
_CHANNELS = ("in_gate", "in_up", "out_down", "gain")
NAMES = (*_NEURONS, *_CHANNELS)


@dataclass(frozen=True, slots=True, eq=False)
class WeightGeometry:
    """Per neuron and per channel of the residual stream, what the weights of a block are.

    Of a neuron: the cosine of its two rows in gate and up, and the norms of its rows in gate
    and up and of its column in down. Of a channel: the norms of its columns in gate and up
    (`in_`) and of its row in down (`out_`), and by what the norm before the block multiplies
    it. What there is not (the gate of a plain MLP, the gain of a norm without one) is empty.
    A weight of nothing but zeros has no direction: its cosine is NaN.
    """

    cos_gate_up: Float[np.ndarray, " gated"]
    norm_gate: Float[np.ndarray, " gated"]
    norm_up: Float[np.ndarray, " neurons"]
    norm_down: Float[np.ndarray, " neurons"]
    in_gate: Float[np.ndarray, " gated_channels"]
    in_up: Float[np.ndarray, " channels"]
    out_down: Float[np.ndarray, " channels"]
    gain: Float[np.ndarray, " gains"]

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "WeightGeometry":
        """Return the geometry that `to_row` came from; other columns are ignored.

        Raises:
            ValueError: lists that belong together have unlike lengths.
        """
        made = cls(*(np.asarray(row[name], np.float32) for name in NAMES))
        for name in _NEURONS:
            _check_length(made, name, made.norm_up.size)
        for name in _CHANNELS:
            _check_length(made, name, made.in_up.size)
        return made

    def to_row(self) -> dict[str, object]:
        """Return the fields as 1-D arrays, one list column each."""
        return {name: getattr(self, name) for name in NAMES}

    def merge(self, other: "WeightGeometry") -> "WeightGeometry":
        """Return the later of the two: weights do not add up."""
        return other

    @property
    def gated(self) -> bool:
        """Whether the block has a gate and a value whose weights can be compared."""
        return self.cos_gate_up.size > 0

    @property
    def random_cosine(self) -> float:
        """What |cosine| of two random directions is on average: sqrt(2 / (pi d_model))."""
        return float(np.sqrt(2 / (np.pi * max(self.in_up.size, 1))))

    @property
    def aligned(self) -> float:
        """The |cosine| beyond which gate and up are called aligned: 5 / sqrt(d_model)."""
        return float(5 / np.sqrt(max(self.in_up.size, 1)))


def _check_length(made: WeightGeometry, name: str, expected: int) -> None:
    size = getattr(made, name).size
    if size not in {0, expected}:
        raise ValueError(f"{name} has {size} entries, expected {expected}")
