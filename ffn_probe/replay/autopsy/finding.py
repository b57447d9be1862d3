"""Finding: what one stage of one block shows."""

from dataclasses import dataclass

from ffn_probe.attribution.attribution import Hypothesis


@dataclass(frozen=True, slots=True)
class Finding:
    """What one stage of one block shows.

    `status` is "floor" (no difference above it), "noise" (none, but a bug was found inside the
    rounding), "harmless", "bug" or "unexplained". `excluded` holds the bugs that were tried and
    explain nothing, with the dB that each leaves, the best first. `experts` are the experts of
    a mixture that show the same.
    """

    layer: int
    block: str
    candidate: str
    stage: str  # "norm", "ffn", "block" (both together) or "layer"
    status: str
    measured_db: float
    floor_db: float
    sentence: str
    hypotheses: tuple[Hypothesis, ...] = ()
    excluded: tuple[tuple[str, float], ...] = ()
    experts: tuple[int, ...] = ()
