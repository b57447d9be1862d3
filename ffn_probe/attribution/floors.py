"""Noise floors: above which SQNR two tensors are the same but for rounding.

The floor of a site is that of the reference against itself, but never better than what another
order of the same sums would make of it: a run that repeats itself to the bit says nothing about
how another implementation rounds.
"""

import math
from collections.abc import Iterable, Mapping

from ffn_probe.attribution.attribution import INDISTINGUISHABLE

MARGIN_DB = 3.0
"""A drift has at least twice the floor's power: it is more than 3 dB below it."""

DRIFT = "drift"

_ONE_ROUNDING: Mapping[str, float] = {
    "float64": 300.0,
    "float32": 131.0,
    "float16": 73.7,
    "bfloat16": 55.6,
}
"""SQNR in dB of one rounding (13.46 + 6.02 dB a mantissa bit); of float32 and float64 less
20 dB for sums of hundreds of terms in another order (half formats accumulate in float32)."""

_ROUNDINGS: Mapping[str, int] = {
    "resid": 1, "normed": 3, "gate": 5, "value": 5, "gate_act": 7, "hidden": 11, "out": 13,
    "logits": 13,
}  # fmt: skip
"""Roundings between two implementations, up to each role. At `normed` one implementation casts
before the gain and one after it: 51 dB in bfloat16, 25.7 % of values one ulp apart."""


def rounding_floor(dtypes: Iterable[str], role: str, *, blocks: int = 1) -> float:
    """Return the SQNR in dB at which two right implementations of a role may stand.

    Args:
        dtypes: of both models; the coarsest counts, and an unknown one counts as float32.
        role: a role of a block, or "logits".
        blocks: how many blocks lie before the role ("logits": all).

    >>> round(rounding_floor(["bfloat16"], "normed"), 1)
    50.8
    """
    names = [name.strip() for listed in dtypes for name in listed.split(",")]
    one = min((_ONE_ROUNDING.get(name, 131.0) for name in names), default=131.0)
    return one - 10 * math.log10(_ROUNDINGS.get(role, 13) * max(blocks, 1))


def sqnr_db(signal: float, error: float) -> float:
    """Return 10 log10(signal / error): inf where they are equal, NaN without a signal.

    >>> sqnr_db(100.0, 1.0), sqnr_db(1.0, 0.0), sqnr_db(0.0, 0.0)
    (20.0, inf, nan)
    """
    if not (math.isfinite(signal) and math.isfinite(error)) or signal < 0 or error < 0:
        return math.nan
    if error == 0:
        return math.inf if signal > 0 else math.nan
    return 10 * math.log10(signal / error) if signal > 0 else -math.inf


def above(sqnr: float, floor: float) -> bool:
    """Return whether a drift of that SQNR is told from the floor, both in dB.

    What is NaN is not told; without a floor (NaN) everything but equality is.
    """
    if math.isnan(sqnr):
        return False
    return sqnr < math.inf if math.isnan(floor) else sqnr < floor - MARGIN_DB


def status(sqnr: float, floor: float) -> str:
    """Return "drift" or "indistinguishable"."""
    return DRIFT if above(sqnr, floor) else INDISTINGUISHABLE
