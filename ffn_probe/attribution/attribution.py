"""Attribution: what made the output of a candidate drift from its reference, as frozen values.

Energies are sums of squares, and shares are of energies, so that they add; dB are for reading
only. Every number that a claim rests on stands beside its interval and its noise floor.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

INDISTINGUISHABLE = "indistinguishable"
EXPECTED = "expected"
UNEXPLAINED = "unexplained"

STAGES: dict[str, str] = {
    "resid": "input",
    "normed": "norm",
    "gate": "gate",
    "value": "up",
    "gate_act": "activation",
    "hidden": "product",
    "out": "down",
}
"""Role -> the stage that makes it (in an MLP the `gate` stage is its up projection, and
`hidden` is made by the activation)."""


def stage_of(role: str, kind: str = "glu", *, split: bool = True) -> str:
    """Return the stage that makes a role in a block of a kind ("glu" or "mlp").

    `split`: whether the activation's result is seen by itself; else `hidden` is its stage.

    >>> stage_of("hidden"), stage_of("hidden", "mlp"), stage_of("gate", "mlp")
    ('product', 'activation', 'up')
    """
    if role == "hidden" and (kind == "mlp" or not split):
        return "activation"
    if role == "gate" and kind == "mlp":
        return "up"
    return STAGES.get(role, role)


PLAYERS: tuple[str, ...] = ("norm", "activation", "w_gate", "w_up", "w_down")
"""The parts of a block among which its own drift is shared (an MLP has no w_gate)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and its 95 % interval; low and high are NaN when there were too few folds."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class StageError:
    """The error at one role of a block, in dB of SQNR (inf: equal).

    `injected_db` is what the stage adds when it is fed by the reference, `accumulated_db` what
    stands there when the block is fed the reference's residual stream, `end_db` end to end.
    """

    role: str
    stage: str
    injected_db: float
    accumulated_db: float
    end_db: float
    floor_db: float
    status: str  # "indistinguishable" or "drift"


@dataclass(frozen=True, slots=True)
class Cause:
    """The share (0..1 of the block's own error energy) of one part of a block."""

    part: str
    share: Interval
    energy: float


@dataclass(frozen=True, slots=True)
class Theory:
    """What theory expects beside what was seen; `verdict` is one of the three words."""

    name: str
    expected: float
    observed: float
    unit: str
    tolerance: float
    verdict: str
    sentence: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Region:
    """The share of an activation's error that falls into one region of the gate."""

    name: str
    low: float
    high: float
    share: float
    gate_share: float  # of the gate's values, 0..1


@dataclass(frozen=True, slots=True)
class BlockAttribution:
    """The story of one pair of blocks.

    `local`, `inherited` and `cross` are shares of the error energy at `out`; they add to 1.
    `patched_back` is the share of the model's final error that goes away when the reference's
    output of this block is put into the candidate, `patched_in` the share that appears when the
    candidate's is put into the reference; None when they were not measured.
    """

    layer: int
    block: str
    candidate: str
    status: str  # "indistinguishable", "local", "inherited", "mixed", "unpaired"
    reason: str = ""  # why it is unpaired
    end_db: float = math.nan
    local_db: float = math.nan
    inherited_db: float = math.nan
    floor_db: float = math.nan
    energy: float = math.nan  # error energy at out, end to end
    signal: float = math.nan  # energy of the reference's out
    local: Interval = Interval(math.nan)
    inherited: Interval = Interval(math.nan)
    cross: Interval = Interval(math.nan)
    gain: float = math.nan  # norm of the candidate's out over the reference's
    cosine: float = math.nan
    cosine_standardised: float = math.nan
    cka: float = math.nan
    stages: tuple[StageError, ...] = ()
    causes: tuple[Cause, ...] = ()
    interaction: float = math.nan  # share of the total that no part alone explains
    separable: bool = True
    theory: tuple[Theory, ...] = ()
    norm_split: tuple[Cause, ...] = ()  # scale, mean_leakage, bias_loss of LayerNorm -> RMSNorm
    regions: tuple[Region, ...] = ()
    patched_back: Interval | None = None
    patched_in: Interval | None = None
    patched_parts: tuple[Cause, ...] = ()  # final error that goes when one part is put back


@dataclass(frozen=True, slots=True)
class Output:
    """The drift at the model's output; `floor` the same of the reference against itself."""

    tokens: int
    sqnr_db: float
    floor_db: float
    kl: Interval  # nats a token
    kl_floor: float
    top1: Interval  # share of tokens with the same first choice
    loss_difference: Interval  # nats a token, candidate less reference; NaN without labels
    status: str


@dataclass(frozen=True, slots=True)
class Factorial:
    """The 2 x 2 of two whole-model swaps on one additive metric.

    `main` holds the effect of each factor, `interaction` their interaction, `total` the effect
    of both together; main effects add to the total.
    """

    metric: str
    unit: str
    factors: tuple[str, str]
    cells: tuple[float, float, float, float]  # v00, v10, v01, v11
    main: tuple[Interval, Interval]
    interaction: Interval
    total: Interval
    separable: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One possible bug: what it predicts, what was measured, what the fix leaves (dB)."""

    name: str
    variant: str
    layer: int
    block: str
    stage: str
    predicted_db: float
    measured_db: float
    after_db: float
    floor_db: float
    reached: bool
    sentence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Attribution:
    """What `paired.explain()` returns; `verdict` is the story in one or two sentences.

    `status` is "indistinguishable" (nothing above the floor), "expected" (theory tells it),
    "bug" (a hypothesis reaches the floor), "drift" (told apart, no claim whether it should
    be) or "unexplained". `patched_all` is the share of the final error that goes away when
    every block's output is the reference's: what is left is made outside the blocks. `theory`
    is of the whole model, as that of the blocks is of each.
    """

    reference: str
    candidate: str
    status: str
    verdict: str
    output: Output | None
    blocks: tuple[BlockAttribution, ...]
    factorial: tuple[Factorial, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    first_bad: tuple[int, str, str] | None = None  # layer, block, stage
    notes: tuple[str, ...] = field(default=())
    patched_all: Interval | None = None
    theory: tuple[Theory, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return one row a block, without what is nested deeper."""
        rows = [
            {k: v for k, v in _flat(asdict(b)).items() if not isinstance(v, list | tuple)}
            for b in self.blocks
        ]
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types; numbers that are not finite stay so."""
        return asdict(self)

    def to_json(self) -> str:
        """Return readable JSON; numbers that are not finite are their names."""
        return json.dumps(_plain(self.to_dict()), indent=1, allow_nan=False)


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            found |= {key if k == "value" else f"{key}_{k}": v for k, v in value.items()}
        else:
            found[key] = value
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
