"""The panel: every statistic of pairs of parts of runs, many pairs at once.

A part is a row: the whole of a run, half of its folds, or a mixture of two runs. The same
functions give the values (whole against whole) and the floors (half against half).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ffn_probe.compare.support import Support
from ffn_probe.sketches.distances import SHARE_FLOOR

NEAR_ZERO = 0.01
"""A value is near zero when |x| is at most this times the RMS."""

PSI_BINS = 20

_QUANTILES = {"p99": 0.99, "p99_9": 0.999, "p99_99": 0.9999}
RATIOS = (*_QUANTILES, "rms", "crest", "absmax")
"""Levels that are compared as log2 of their ratio."""
SHARES = ("zero_share", "near_zero_share", "gate_open")
"""Levels that are compared by their difference."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Rows of cumulative shares on a support, and the scalar statistics of each row."""

    cdf: Float64[np.ndarray, "rows points"]
    mean: Float64[np.ndarray, " rows"]
    rms: Float64[np.ndarray, " rows"]
    absmax: Float64[np.ndarray, " rows"]

    def take(self, rows: slice) -> "Parts":
        """Return some of the rows."""
        return Parts(self.cdf[rows], self.mean[rows], self.rms[rows], self.absmax[rows])


@dataclass(frozen=True, slots=True)
class Reference:
    """What distances are measured in: the reference's robust sigma and its deviation."""

    scale: float
    std: float
    gate: bool


def levels(support: Support, parts: Parts, *, gate: bool) -> dict[str, np.ndarray]:
    """Return name -> one number a row."""
    folded = support.folded(parts.cdf)
    found = {name: _quantile(support, folded, q) for name, q in _QUANTILES.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        crest = parts.absmax / parts.rms
    found |= {
        "rms": parts.rms,
        "mean": parts.mean,
        "absmax": parts.absmax,
        "crest": crest,
        "zero_share": folded[:, 0],
        "near_zero_share": _share_within(support, folded, NEAR_ZERO * parts.rms),
    }
    if gate:
        found["gate_open"] = 1.0 - parts.cdf[:, support.zero]
    return found


def distances(
    support: Support, left: Parts, right: Parts, reference: Reference
) -> dict[str, np.ndarray]:
    """Return KS, W1 of asinh and PSI between the rows of `left` and `right`."""
    gap = right.cdf - left.cdf
    np.abs(gap, out=gap)
    found = {"ks": gap.max(axis=1), "psi": _psi(left.cdf, right.cdf, support.zero)}
    if reference.scale > 0:
        steps = np.diff(np.arcsinh(support.points / reference.scale))
        found["w1_asinh"] = gap[:, :-1] @ steps
    else:
        found["w1_asinh"] = np.zeros(gap.shape[0])
    return found


def differences(
    left: dict[str, np.ndarray], right: dict[str, np.ndarray], reference: Reference
) -> dict[str, np.ndarray]:
    """Return the signed changes from the levels of `left` to those of `right`."""
    found = {name: log2_ratio(left[name], right[name]) for name in RATIOS}
    found |= {name: right[name] - left[name] for name in SHARES if name in left}
    shift = right["mean"] - left["mean"]
    std = reference.std if reference.std > 0 else np.inf
    found["mean"] = shift / std
    return found


def log2_ratio(
    a: Float64[np.ndarray, " rows"], b: Float64[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """Return log2(b / a); 0 where they are equal, +-inf where one is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(b) - np.log2(a)
    return np.where(a == b, 0.0, ratio)


def _quantile(
    support: Support, folded: Float64[np.ndarray, "rows magnitudes"], q: float
) -> Float64[np.ndarray, " rows"]:
    """Return the quantile of |x| of each row, linear inside a bin."""
    index = np.minimum(np.count_nonzero(folded < q, axis=1), support.inner.size - 1)
    rows = np.arange(index.size)
    before = np.where(index > 0, folded[rows, index - 1], 0.0)
    own = folded[rows, index] - before
    part = np.where(own > 0, (q - before) / np.where(own > 0, own, 1.0), 1.0)
    inner, outer = support.inner[index], support.outer[index]
    value: np.ndarray = inner + np.clip(part, 0.0, 1.0) * (outer - inner)
    return value


def _share_within(
    support: Support,
    folded: Float64[np.ndarray, "rows magnitudes"],
    limit: Float64[np.ndarray, " rows"],
) -> Float64[np.ndarray, " rows"]:
    """Return the share of |x| at or below the limit of each row, linear inside a bin."""
    # The first bin above zero begins at zero too: exact zeros come before it.
    index = np.searchsorted(support.inner[1:], limit, side="right")
    rows = np.arange(index.size)
    before = np.where(index > 0, folded[rows, index - 1], 0.0)
    inner, outer = support.inner[index], support.outer[index]
    width = outer - inner
    part = np.where(width > 0, (limit - inner) / np.where(width > 0, width, 1.0), 1.0)
    share: np.ndarray = before + np.clip(part, 0.0, 1.0) * (folded[rows, index] - before)
    return share


def _psi(
    left: Float64[np.ndarray, "rows points"],
    right: Float64[np.ndarray, "rows points"],
    zero: int,
) -> Float64[np.ndarray, " rows"]:
    """Return PSI on the quantile bins of all of `left` together, atoms apart."""
    ends = _bin_ends(left.mean(axis=0), zero)
    p, q = (np.diff(cdf[:, ends], axis=1, prepend=0.0) for cdf in (left, right))
    p, q = np.maximum(p, SHARE_FLOOR), np.maximum(q, SHARE_FLOOR)
    found: np.ndarray = ((q - p) * np.log(q / p)).sum(axis=1)
    return found


def _bin_ends(cdf: Float64[np.ndarray, " points"], zero: int) -> Int64[np.ndarray, " bins"]:
    """Return the last point of every bin: quantiles of the shares, atoms of their own."""
    shares = np.diff(cdf, prepend=0.0)
    atom = shares * PSI_BINS > 1.0
    atom[zero] = True
    own = np.where(atom, 0.0, shares)
    ends = np.cumsum(own)
    total = ends[-1]
    # A point belongs to the bin in which its share begins, as in sketches.distances.
    number = np.floor((ends - own) * (PSI_BINS / total)) if total > 0 else np.zeros(own.size)
    number = np.minimum(number, PSI_BINS - 1)  # what lies beyond the reference's last value
    last = atom.copy()
    last[:-1] |= atom[1:] | (number[1:] != number[:-1])
    last[-1] = True
    return np.flatnonzero(last)
