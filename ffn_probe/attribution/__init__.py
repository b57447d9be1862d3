"""What made an output drift, from numbers alone: shares, intervals, theory. No torch."""

from ffn_probe.attribution.attribution import (
    Attribution,
    BlockAttribution,
    Cause,
    Factorial,
    Hypothesis,
    Interval,
    Output,
    Region,
    StageError,
    Theory,
)
from ffn_probe.attribution.explain import explain
from ffn_probe.attribution.pair_measures import PAIR_MEASURES, pair_measures

__all__ = [
    "PAIR_MEASURES",
    "Attribution",
    "BlockAttribution",
    "Cause",
    "Factorial",
    "Hypothesis",
    "Interval",
    "Output",
    "Region",
    "StageError",
    "Theory",
    "explain",
    "pair_measures",
]
