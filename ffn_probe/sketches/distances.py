"""Distances between the finite values of two histograms, from the counts alone.

The first argument is the reference. Both are taken to the coarser resolution of the two;
every function is NaN when either has no finite values. Non-finite values have no place on
the axis: compare their counts. For many histograms at once, `dense_counts` lays them on
one support, `dense_cdf` turns counts into shares, and `ks_rows`, `w1_rows` compare rows.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from ffn_probe.sketches.histogram import BitHistogram, representatives

SHARE_FLOOR = 1e-4
"""Least share of a bin in PSI: an empty bin costs a finite amount, whatever the counts."""


def ks(a: BitHistogram, b: BitHistogram) -> float:
    """Return the Kolmogorov-Smirnov statistic max |F_a - F_b|, 0..1.

    Equals the statistic of the raw values when both are `exact`; otherwise it is lower by
    at most the largest share of either in one bin.
    """
    _, cdf = dense_cdf((a, b))
    return float(ks_rows(cdf[0], cdf[1]))


def w1(a: BitHistogram, b: BitHistogram) -> float:
    """Return the Wasserstein-1 distance, in the unit of the values.

    Exact when both histograms are; otherwise off by at most 2^-(bits+1) times the sum of
    the two means of |x|.
    """
    points, cdf = dense_cdf((a, b))
    return float(w1_rows(points, cdf[0], cdf[1]))


def w1_asinh(a: BitHistogram, b: BitHistogram, scale: float | None = None) -> float:
    """Return the Wasserstein-1 distance of asinh(x / scale), without unit.

    Linear within the scale and logarithmic beyond it, so that a few massive values cannot
    hide, or make, a change of the bulk. `scale` defaults to the robust sigma of `a`,
    or of `b` where a's is 0; 0 when both hold nothing but zeros.
    """
    size = a.robust_sigma() or b.robust_sigma() if scale is None else scale
    points, cdf = dense_cdf((a, b))
    if not size > 0:
        return 0.0 if a.count and b.count else math.nan
    return float(w1_rows(np.arcsinh(points / size), cdf[0], cdf[1]))


def psi(a: BitHistogram, b: BitHistogram, bins: int = 20) -> float:
    """Return the population stability index, nats, on the reference's quantile bins.

    sum (q - p) ln(q / p), with shares of at least 1e-4. Exact zeros, and every histogram bin
    that holds more than 1/bins of the reference, are bins of their own.
    """
    p, q = binned_shares(a, b, bins)
    p, q = np.maximum(p, SHARE_FLOOR), np.maximum(q, SHARE_FLOOR)
    return float(((q - p) * np.log(q / p)).sum())


def js(a: BitHistogram, b: BitHistogram, bins: int = 20) -> float:
    """Return the Jensen-Shannon divergence, bits, 0..1, on the bins of `psi`."""
    p, q = binned_shares(a, b, bins)
    return float(_entropy((p + q) / 2) - _entropy(p) / 2 - _entropy(q) / 2)


def tail_log_ratio(a: BitHistogram, b: BitHistogram, q: float) -> float:
    """Return log2 of the quantile q of |x| in `b` over that in `a`, octaves.

    0 when both are zero, +-Inf when one is.
    """
    left, right = float(a.abs_quantile(q)), float(b.abs_quantile(q))
    if left == right:
        return 0.0
    if left == 0 or right == 0:
        return math.inf if left == 0 else -math.inf
    return math.log2(right) - math.log2(left)


def binned_shares(
    a: BitHistogram, b: BitHistogram, bins: int = 20
) -> tuple[Float64[np.ndarray, " bins"], Float64[np.ndarray, " bins"]]:
    """Return the shares of `a` and `b` in bins cut at the quantiles of `a`, atoms apart.

    At most `bins` quantile bins, and two more for each atom: zero, and every point with
    more than 1/bins of `a`.
    """
    bits = min(a.bits, b.bits)
    positions, counts = _signed_counts((a.coarsen(bits), b.coarsen(bits)))
    shares = _shares(counts)
    bin_of = np.searchsorted(_cuts(positions, counts[0], bins), positions, side="left")
    size = int(bin_of[-1]) + 1 if bin_of.size else 1
    p, q = (np.bincount(bin_of, weights=row, minlength=size) for row in shares)
    if not counts[0].any() or not counts[1].any():
        return np.full(size, np.nan), np.full(size, np.nan)
    return p, q


# ---- many histograms at once ------------------------------------------------------------


def dense_counts(
    histograms: Sequence[BitHistogram], bits: int | None = None
) -> tuple[Float64[np.ndarray, " points"], Int64[np.ndarray, "histograms points"]]:
    """Return the union of the supports, ascending values, and each histogram's counts on it.

    Taken to `bits` mantissa bits, by default the fewest of all. The counts of a union of
    folds are the sum of their rows, so splits and resamples are products with this matrix.
    """
    least = min((h.bits for h in histograms), default=7) if bits is None else bits
    coarse = [h.coarsen(least) for h in histograms]
    positions, counts = _signed_counts(coarse)
    exact = all(h.exact for h in coarse)
    return representatives(positions, least, exact=exact), counts


def dense_cdf(
    histograms: Sequence[BitHistogram], bits: int | None = None
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, "histograms points"]]:
    """Return the union of the supports, ascending values, and each cumulative share on it.

    The row of a histogram without finite values is NaN.
    """
    points, counts = dense_counts(histograms, bits)
    return points, cumulative_shares(counts)


def cumulative_shares(
    counts: Int64[np.ndarray, "*rows points"] | Float64[np.ndarray, "*rows points"],
) -> Float64[np.ndarray, "*rows points"]:
    """Return cumulative shares along the last axis; NaN where there are no counts."""
    ends = np.cumsum(counts, axis=-1)
    total = (
        ends[..., -1:].astype(np.float64) if ends.shape[-1] else np.zeros((*ends.shape[:-1], 1))
    )
    cdf: np.ndarray = ends / np.where(total > 0, total, np.nan)
    return cdf


def ks_rows(
    cdf_a: Float64[np.ndarray, "*#rows points"], cdf_b: Float64[np.ndarray, "*#rows points"]
) -> Float64[np.ndarray, "..."]:
    """Return max |F_a - F_b| along the last axis; NaN without points."""
    if cdf_a.shape[-1] == 0:
        return np.full(cdf_a.shape[:-1], np.nan)
    gap: np.ndarray = np.asarray(np.abs(cdf_a - cdf_b).max(axis=-1))
    return gap


def w1_rows(
    points: Float64[np.ndarray, " points"],
    cdf_a: Float64[np.ndarray, "*#rows points"],
    cdf_b: Float64[np.ndarray, "*#rows points"],
) -> Float64[np.ndarray, "..."]:
    """Return the integral of |F_a - F_b| along the last axis, in the unit of `points`.

    For W1 on another axis give the points there, as asinh(points / scale).
    """
    if points.size == 0:
        return np.full(cdf_a.shape[:-1], np.nan)
    gap = np.abs(cdf_a - cdf_b)
    area: np.ndarray = np.asarray(gap[..., :-1] @ np.diff(points) + 0.0 * gap[..., -1])
    return area


# ---- parts ------------------------------------------------------------------------------


def _signed_counts(
    histograms: Sequence[BitHistogram],
) -> tuple[Int64[np.ndarray, " points"], Int64[np.ndarray, "histograms points"]]:
    """Return the union of the signed magnitude codes, ascending, and counts on it.

    All histograms have the same bits.
    """
    ordered = [h.ordered() for h in histograms]
    if not ordered:
        return np.zeros(0, np.int64), np.zeros((0, 0), np.int64)
    codes = np.concatenate([signed for signed, _ in ordered])
    positions, column = np.unique(codes, return_inverse=True)
    row = np.repeat(np.arange(len(ordered)), [signed.size for signed, _ in ordered])
    counts = np.zeros((len(ordered), positions.size), np.int64)
    counts[row, column] = np.concatenate([weight for _, weight in ordered])
    return positions, counts


def _shares(counts: Int64[np.ndarray, "rows points"]) -> Float64[np.ndarray, "rows points"]:
    total = counts.sum(axis=1, keepdims=True)
    shares: np.ndarray = counts / np.maximum(total, 1)
    return shares


def _cuts(
    positions: Int64[np.ndarray, " points"], counts: Int64[np.ndarray, " points"], bins: int
) -> Int64[np.ndarray, " cuts"]:
    """Return the last position of every bin but the open last one."""
    total = int(counts.sum())
    atoms = np.union1d(positions[counts * bins > total], np.zeros(1, np.int64))
    bulk = np.where(np.isin(positions, atoms), 0, counts)
    ends = np.cumsum(bulk)
    if total == 0 or ends[-1] == 0:
        return np.union1d(atoms, atoms - 1)
    ranks = np.arange(1, bins) / bins * ends[-1]
    quantiles = positions[np.searchsorted(ends, ranks, side="left")]
    return np.union1d(np.union1d(atoms, atoms - 1), quantiles)


def _entropy(p: Float64[np.ndarray, " bins"]) -> float:
    """Return the entropy in bits; NaN for NaN shares."""
    return float(-(p * np.log2(np.where(p > 0, p, np.where(np.isnan(p), np.nan, 1.0)))).sum())
