"""Bug: one way to be wrong, as a change of a healthy block that predicts what it computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ffn_probe.anatomy import Block
from ffn_probe.replay.parts import NormPart, Parts
from ffn_probe.swaps.weights import Matrix

Change = Callable[[Parts], Parts | None]
"""What a bug makes of a healthy block; None where it does not apply."""


@dataclass(frozen=True, slots=True, eq=False)
class Bug:
    """A change of a block, its name, and the line that undoes it.

    `role` is where it acts ("normed": in the norm; "gate", "value", "hidden", "out": in the
    FFN). Bugs of one `slot` exclude each other. Of two that explain equally well the one of
    lower `rank` is told first. `benign` bugs are differences that no one need mend.
    `entering` changes the rows that enter the projections; what `rounds` values to few numbers
    has a floor of its own, since rounding errors of the block then decide which number it is.
    """

    name: str
    role: str
    change: Change
    fix: str
    variant: str = ""
    slot: str = ""
    rank: int = 1
    benign: bool = False
    entering: Callable[[Tensor], Tensor] | None = None
    rounds: bool = False

    @property
    def title(self) -> str:
        """The name, with the variant in brackets where there is one."""
        return f"{self.name} ({self.variant})" if self.variant else self.name


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What bugs are made from: the healthy block, and what is known of the candidate's.

    `matrices` are the candidate's own by the names "gate", "value", "down", those that could be
    read, and `norm` its norm; `others` the healthy blocks of other layers; `gains` the
    reference's other vectors that could be a norm's gain, by name.
    """

    block: Block
    parts: Parts
    candidate: Block
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    norm: NormPart | None = None
    others: Mapping[str, Parts] = field(default_factory=dict)
    gains: Mapping[str, Tensor] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)  # what is set -> the line's name


def both(first: Bug, second: Bug) -> Bug:
    """Return the two bugs together, as one."""

    def change(parts: Parts) -> Parts | None:
        once = first.change(parts)
        return None if once is None else second.change(once)

    enter = first.entering or second.entering
    return Bug(
        f"{first.title} + {second.title}", second.role, change, f"{first.fix}; {second.fix}",
        slot="both", rank=first.rank + second.rank + 5, entering=enter,
        benign=first.benign and second.benign, rounds=first.rounds or second.rounds,
    )  # fmt: skip
