"""Where along the gate an activation's error falls: negative tail, dip, origin, positive."""

import math

import numpy as np
import pandas as pd
from jaxtyping import Float64

from ffn_probe.attribution.attribution import Region
from ffn_probe.attribution.theory import GELU_DIP, SILU_DIP
from ffn_probe.sketches.bit_codes import infinity_code, sign_bit
from ffn_probe.sketches.histogram import representatives

CODE_BITS = 3
"""Mantissa bits of the gate's codes: bins are an eighth of an octave wide."""

EDGES: tuple[tuple[str, float, float], ...] = (
    ("negative tail", -math.inf, 2 * SILU_DIP),
    ("dip", 2 * SILU_DIP, GELU_DIP / 2),
    ("origin", GELU_DIP / 2, -GELU_DIP / 2),
    ("positive", -GELU_DIP / 2, math.inf),
)
"""Name, low and high end. The dip reaches from twice where SiLU is least (-1.278) to half of
where GELU is least (-0.752); the origin is as wide on both sides of zero."""


def gate_errors(rows: pd.DataFrame) -> Float64[np.ndarray, "4 bins"]:
    """Return gate, count, expected and observed error of the bins of `activation_error` rows.

    Bins of several rows (windows) stay apart; gates that are not finite are left out.
    """
    names = ("codes", "counts", "expected", "error")
    parts = [
        np.concatenate([np.asarray(x, np.float64) for x in rows[name]] or [np.zeros(0)])
        for name in names
    ]
    codes = parts[0].astype(np.int64)
    half = sign_bit(CODE_BITS)
    magnitude, negative = codes & (half - 1), (codes & half) != 0
    kept = magnitude < infinity_code(CODE_BITS)
    signed = np.where(negative, -magnitude, magnitude)[kept]
    gates = representatives(signed, CODE_BITS, exact=False)
    stacked: np.ndarray = np.stack([gates, *(part[kept] for part in parts[1:])])
    return stacked


def regions(rows: pd.DataFrame) -> tuple[Region, ...]:
    """Return the share of the observed error, and of the gate's values, of each region.

    None where there is no error or there are no rows.
    """
    gates, counts, _, error = gate_errors(rows)
    if not error.sum() > 0:
        return ()
    found = []
    for name, low, high in EDGES:
        inside = (gates >= low) & (gates < high)
        share = float(error[inside].sum() / error.sum())
        found.append(Region(name, low, high, share, float(counts[inside].sum() / counts.sum())))
    return tuple(found)
