"""Address: where the rows of one call come from."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Address:
    """Where the rows of a call come from; the tensors have one entry a row, or are None."""

    step: int
    fold: int
    sequence: Tensor | None = None
    position: Tensor | None = None
    token: Tensor | None = None
