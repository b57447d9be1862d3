"""Found: everything that the verdict on a paired run is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ffn_probe.attribution.attribution import (
    BlockAttribution,
    Factorial,
    Hypothesis,
    Interval,
    Output,
    Theory,
    stage_of,
)
from ffn_probe.attribution.floors import DRIFT, above
from ffn_probe.attribution.shares import Causes


@dataclass(frozen=True, slots=True)
class NotFinite:
    """The first site where values of one model only are not finite: how many of each."""

    layer: int
    block: str
    role: str
    stage: str
    reference: int
    candidate: int


@dataclass(frozen=True, slots=True)
class Found:
    """Everything a verdict is made of."""

    blocks: tuple[BlockAttribution, ...] = ()
    output: Output | None = None
    hypotheses: tuple[Hypothesis, ...] = ()
    factorial: tuple[Factorial, ...] = ()
    causes: Causes = field(default_factory=Causes)
    not_finite: NotFinite | None = None
    swap: Mapping[str, Any] | None = None
    patched_all: Interval | None = None
    farthest: tuple[int, str, float] | None = None  # layer, role, KS of unpaired values
    theory: tuple[Theory, ...] = ()  # of the whole model

    @property
    def own(self) -> tuple[BlockAttribution, ...]:
        """The blocks whose own error is above the floor."""
        return tuple(b for b in self.blocks if above(b.local_db, b.floor_db))


def first_stage(block: BlockAttribution) -> str:
    """Return the first stage at which the block's own error is above its floor.

    On the reference's residual stream; where that was not seen, the first stage that injects an
    error above its floor when it is fed by the reference.
    """
    standing = [s.stage for s in block.stages if above(s.accumulated_db, s.floor_db)]
    injecting = [s.stage for s in block.stages if s.status == DRIFT]
    return next(iter([*standing, *injecting]), stage_of("out"))


def told(hypothesis: Hypothesis) -> bool:
    """Return whether a hypothesis tells a difference that is above the floor."""
    return hypothesis.reached and above(hypothesis.measured_db, hypothesis.floor_db)
