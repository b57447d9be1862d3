"""The panel: every statistic of pairs of parts of runs, many pairs at once.

A part is a row: the whole of a run, half of its folds, or a mixture of two runs. The same
functions give the values (whole against whole) and the floors (half against half).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ffn_probe.compare.support import Support
from ffn_probe.sketches.distances import SHARE_FLOOR, cumulative_shares, ks_rows, w1_rows

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
    """Rows of counts on a support, and the scalar statistics of each row."""

    counts: Float64[np.ndarray, "rows points"]
    mean: Float64[np.ndarray, " rows"]
    rms: Float64[np.ndarray, " rows"]
    absmax: Float64[np.ndarray, " rows"]

    def take(self, rows: slice) -> "Parts":
        """Return some of the rows."""
        return Parts(self.counts[rows], self.mean[rows], self.rms[rows], self.absmax[rows])


@dataclass(frozen=True, slots=True)
class Reference:
    """What distances are measured in: the reference's robust sigma and its deviation."""

    scale: float
    std: float
    gate: bool


def levels(support: Support, parts: Parts, *, gate: bool) -> dict[str, np.ndarray]:
    """Return name -> one number a row; NaN where there are no values.

    `int8_sqnr` (dB, one scale a tensor) takes the error as uniform above half a step, and
    as the value itself below.
    """
    folded = support.folded(parts.counts)
    total = folded.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.cumsum(folded, axis=1) / total[:, None]
        found = {
            name: _quantile(support, folded, shares, total, q) for name, q in _QUANTILES.items()
        }
        found |= {
            "rms": parts.rms,
            "mean": parts.mean,
            "absmax": np.where(total > 0, parts.absmax, np.nan),
            "crest": parts.absmax / parts.rms,
            "zero_share": folded[:, 0] / total,
            "near_zero_share": _share_within(support, shares, NEAR_ZERO * parts.rms),
            "int8_sqnr": _int8_sqnr(support, folded, shares, parts),
        }
        if gate:
            found["gate_open"] = parts.counts[:, support.zero + 1 :].sum(axis=1) / total
    return found


def distances(
    support: Support, left: Parts, right: Parts, reference: Reference
) -> dict[str, np.ndarray]:
    """Return KS, W1 of asinh and PSI between the rows of `left` and `right`."""
    a, b = cumulative_shares(left.counts), cumulative_shares(right.counts)
    found = {"ks": ks_rows(a, b), "psi": _psi(left.counts, right.counts, support.zero)}
    if reference.scale > 0:
        found["w1_asinh"] = w1_rows(np.arcsinh(support.points / reference.scale), a, b)
    else:
        found["w1_asinh"] = found["ks"] * 0.0
    return found


def differences(
    left: dict[str, np.ndarray], right: dict[str, np.ndarray], reference: Reference
) -> dict[str, np.ndarray]:
    """Return the signed changes from the levels of `left` to those of `right`."""
    found = {name: log2_ratio(left[name], right[name]) for name in RATIOS}
    found |= {name: right[name] - left[name] for name in SHARES if name in left}
    shift = right["mean"] - left["mean"]
    std = reference.std if reference.std > 0 else np.inf
    found["mean"] = np.where(shift == 0, 0.0, shift / std)
    with np.errstate(invalid="ignore"):
        drop = left["int8_sqnr"] - right["int8_sqnr"]
    found["int8_sqnr_drop"] = np.where(left["int8_sqnr"] == right["int8_sqnr"], 0.0, drop)
    return found


def log2_ratio(
    a: Float64[np.ndarray, " rows"], b: Float64[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """Return log2(b / a); 0 where they are equal, +-inf where one is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(b) - np.log2(a)
    return np.where(a == b, 0.0, ratio)


def _quantile(
    support: Support,
    folded: Float64[np.ndarray, "rows magnitudes"],
    shares: Float64[np.ndarray, "rows magnitudes"],
    total: Float64[np.ndarray, " rows"],
    q: float,
) -> Float64[np.ndarray, " rows"]:
    """Return the quantile of |x| of each row, linear inside a bin."""
    index = np.minimum((shares < q).sum(axis=1), support.inner.size - 1)
    rows = np.arange(index.size)
    own = folded[rows, index] / total
    part = np.where(own > 0, 1.0 - (shares[rows, index] - q) / own, 1.0)
    inner, outer = support.inner[index], support.outer[index]
    value = inner + np.clip(part, 0.0, 1.0) * (outer - inner)
    return np.where(total > 0, value, np.nan)


def _at(
    support: Support, limit: Float64[np.ndarray, " rows"]
) -> tuple[Int64[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """Return the last magnitude that begins at or below each limit, and the part below it."""
    known = np.nan_to_num(limit, nan=0.0, posinf=np.finfo(np.float64).max)
    # The first bin above zero starts at zero too: exact zeros come before it.
    index = np.maximum(np.searchsorted(support.inner[1:], known, side="right"), 0)
    inner, outer = support.inner[index], support.outer[index]
    width = outer - inner
    part = np.where(width > 0, (known - inner) / np.where(width > 0, width, 1.0), 1.0)
    return index, np.clip(part, 0.0, 1.0)


def _share_within(
    support: Support,
    shares: Float64[np.ndarray, "rows magnitudes"],
    limit: Float64[np.ndarray, " rows"],
) -> Float64[np.ndarray, " rows"]:
    """Return the share of |x| at or below the limit of each row."""
    index, part = _at(support, limit)
    rows = np.arange(index.size)
    before = np.where(index > 0, shares[rows, np.maximum(index - 1, 0)], 0.0)
    return np.where(np.isnan(limit), np.nan, before + part * (shares[rows, index] - before))


def _int8_sqnr(
    support: Support,
    folded: Float64[np.ndarray, "rows magnitudes"],
    shares: Float64[np.ndarray, "rows magnitudes"],
    parts: Parts,
) -> Float64[np.ndarray, " rows"]:
    step = parts.absmax / 127.0
    below = _share_within(support, shares, step / 2)
    squares = (support.inner**2 + support.inner * support.outer + support.outer**2) / 3
    small: Bool[np.ndarray, "rows magnitudes"] = support.outer <= step[:, None] / 2
    lost = (folded * np.where(small, squares, 0.0)).sum(axis=1) / folded.sum(axis=1)
    noise = lost + (1.0 - below) * step**2 / 12
    ratio: np.ndarray = 10.0 * np.log10(parts.rms**2 / noise)
    return ratio


def _psi(
    left: Float64[np.ndarray, "rows points"],
    right: Float64[np.ndarray, "rows points"],
    zero: int,
) -> Float64[np.ndarray, " rows"]:
    """Return PSI on the quantile bins of all of `left` together, atoms apart."""
    starts = _bin_starts(left.sum(axis=0), zero)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = (np.add.reduceat(c, starts, axis=1) for c in (left, right))
        p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    p, q = np.maximum(p, SHARE_FLOOR), np.maximum(q, SHARE_FLOOR)
    found: np.ndarray = ((q - p) * np.log(q / p)).sum(axis=1)
    return found


def _bin_starts(
    counts: Float64[np.ndarray, " points"], zero: int
) -> Int64[np.ndarray, " bins"]:
    """Return the first point of every bin: quantiles of the counts, atoms of their own."""
    atom = counts * PSI_BINS > counts.sum()
    atom[zero] = True
    bulk = np.cumsum(np.where(atom, 0.0, counts))
    total = bulk[-1]
    before = np.concatenate([[0.0], bulk[:-1]])
    number = np.floor(before / total * PSI_BINS) if total > 0 else np.zeros(counts.size)
    new = atom.copy()
    new[1:] |= atom[:-1] | (number[1:] != number[:-1])
    new[0] = True
    return np.flatnonzero(new)
