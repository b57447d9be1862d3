"""Finding: what one stage of one block shows."""

from dataclasses import dataclass

from ffn_probe.attribution.attribution import Hypothesis


@dataclass(frozen=True, slots=True)
class Finding:
    """What one stage of one block shows.

    `status` is "floor" (no difference above it), "noise" (none, but a bug was found inside the
    rounding), "harmless", "bug" or "unexplained". `hypotheses` are the bugs that explain it
    (`reached`), the best first, and then the nearest of those that do not; `excluded` holds the
    names of all of the latter with the dB that each leaves. `experts` are the experts of a
    mixture that show the same.
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
