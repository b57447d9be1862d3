"""Joint: how the gate, its activation and the value of a GLU move together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num

from ffn_probe.errors import SketchError
from ffn_probe.sketches.channels import centre, pair_weight, pooled_mean
from ffn_probe.sketches.widen import widen

_POWERS = 2.0 ** np.arange(-12, 12)

JOINT_EDGES: Float64[np.ndarray, " edges"] = np.concatenate([-_POWERS[::-1], [0.0], _POWERS])
"""The 49 edges of the grid's 48 bins: 0 and +-2^-12 .. +-2^11; beyond, the outermost bins."""

JOINT_BINS = JOINT_EDGES.size - 1

_MEANS = ("mean_gate", "mean_value", "mean_act", "mean_hidden")
_PRODUCTS = ("c_gg", "c_uu", "c_gu", "c_aa", "c_au")


@dataclass(frozen=True, slots=True)
class JointTotals:
    """Ratios over all neurons pooled into one population; NaN without (finite) spread.

    `hidden_ratio` is 2 E[h] / (s_g s_u), which equals corr(g, u) for a SwiGLU, GEGLU or
    ReGLU of centred Gaussians (Stein's identity), and s are standard deviations.
    """

    count: int
    corr_gate_value: float
    corr_act_value: float
    hidden_ratio: float


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """Per neuron co-moments of gate (g), value (u) and gate_act (a), and a grid of (g, u).

    `c_xy` are sums of products of deviations from the means, in the unit of x times y.
    `grid` counts (gate bin, value bin) over all neurons, flattened row by row. Rows
    where any of a neuron's tensors is not finite are left out for that neuron.
    `empty(channels)` is the identity of `merge`, which is commutative, and
    associative up to float64 rounding; neither operand changes.
    """

    count: Int64[np.ndarray, " neurons"]
    mean_gate: Float64[np.ndarray, " neurons"]
    mean_value: Float64[np.ndarray, " neurons"]
    mean_act: Float64[np.ndarray, " neurons"]
    mean_hidden: Float64[np.ndarray, " neurons"]
    c_gg: Float64[np.ndarray, " neurons"]
    c_uu: Float64[np.ndarray, " neurons"]
    c_gu: Float64[np.ndarray, " neurons"]
    c_aa: Float64[np.ndarray, " neurons"]
    c_au: Float64[np.ndarray, " neurons"]
    grid: Int64[np.ndarray, " cells"]

    @classmethod
    def empty(cls, channels: int) -> "Joint":
        """Return the sketch of no rows of `channels` neurons, the identity of `merge`."""
        reals = {name: np.zeros(channels) for name in (*_MEANS, *_PRODUCTS)}
        grid = np.zeros(JOINT_BINS * JOINT_BINS, np.int64)
        return cls(count=np.zeros(channels, np.int64), grid=grid, **reals)

    @classmethod
    def of(
        cls,
        gate: Num[np.ndarray, "rows neurons"],
        value: Num[np.ndarray, "rows neurons"],
        act: Num[np.ndarray, "rows neurons"],
        *,
        hidden: Num[np.ndarray, "rows neurons"] | None = None,
    ) -> "Joint":
        """Return the sketch of rows of the three tensors; `hidden` defaults to act * value."""
        g, u, a = (widen(x) for x in (gate, value, act))
        if g.shape[0] == 0:
            return cls.empty(g.shape[1])
        with np.errstate(all="ignore"):
            h = a * u if hidden is None else widen(hidden)
            kept = np.isfinite(g) & np.isfinite(u) & np.isfinite(a) & np.isfinite(h)
            (mean_g, dg), (mean_u, du), (mean_a, da) = (centre(x, kept) for x in (g, u, a))
            mean_h, _ = centre(h, kept)
            means = dict(zip(_MEANS, (mean_g, mean_u, mean_a, mean_h), strict=True))
            pairs = ((dg, dg), (du, du), (dg, du), (da, da), (da, du))
            sums = {p: (x * y).sum(axis=0) for p, (x, y) in zip(_PRODUCTS, pairs, strict=True)}
        count = kept.sum(axis=0, dtype=np.int64)
        grid = grid_counts(g, u, kept)
        return cls(count=count, grid=grid, **means, **sums)

    def merge(self, other: "Joint") -> "Joint":
        """Return the sketch of both streams of rows (Chan 1983, for products).

        Raises:
            SketchError: the numbers of neurons differ.
        """
        if self.count.shape != other.count.shape:
            raise SketchError(
                f"cannot merge sketches of {self.count.size} and {other.count.size} neurons"
            )
        with np.errstate(all="ignore"):
            weight = pair_weight(self.count, other.count)
            means = {
                m: pooled_mean(self.count, other.count, getattr(self, m), getattr(other, m))
                for m in _MEANS
            }
            delta = {
                "g": other.mean_gate - self.mean_gate,
                "u": other.mean_value - self.mean_value,
                "a": other.mean_act - self.mean_act,
            }
            products = {
                p: getattr(self, p)
                + getattr(other, p)
                + np.where(weight > 0, weight * delta[p[2]] * delta[p[3]], 0.0)
                for p in _PRODUCTS
            }
        grid = self.grid + other.grid
        return Joint(count=self.count + other.count, **means, **products, grid=grid)

    def to_row(self) -> dict[str, object]:
        """Return the fields as 1-D arrays, one list column each."""
        return {name: getattr(self, name) for name in ("count", *_MEANS, *_PRODUCTS, "grid")}

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Joint":
        """Return the sketch that `to_row` came from; other columns are ignored."""
        count, grid = (np.asarray(row[name], np.int64) for name in ("count", "grid"))
        reals = {name: np.asarray(row[name], np.float64) for name in (*_MEANS, *_PRODUCTS)}
        return cls(count=count, grid=grid, **reals)

    def equals(self, other: "Joint") -> bool:
        """Return whether every field is the same, NaN being equal to NaN."""
        pairs = zip(self.to_row().values(), other.to_row().values(), strict=True)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)  # type: ignore[arg-type]

    @property
    def corr_gate_value(self) -> Float64[np.ndarray, " neurons"]:
        """Pearson correlation of gate and value of each neuron; NaN without spread."""
        return _correlation(self.c_gu, self.c_gg, self.c_uu)

    @property
    def corr_act_value(self) -> Float64[np.ndarray, " neurons"]:
        """Pearson correlation of gate_act and value of each neuron; NaN without spread."""
        return _correlation(self.c_au, self.c_aa, self.c_uu)

    def pooled(self) -> JointTotals:
        """Return the ratios of all neurons as one population (between-neuron terms in)."""
        count = int(self.count.sum())
        if count == 0:
            return JointTotals(0, math.nan, math.nan, math.nan)
        weights = self.count / count
        means = (self.mean_gate, self.mean_value, self.mean_act)
        offset = {k: m - weights @ m for k, m in zip("gua", means, strict=True)}
        total = {
            p: float(getattr(self, p).sum() + (self.count * offset[p[2]]) @ offset[p[3]])
            for p in _PRODUCTS
        }
        spread = math.sqrt(total["c_gg"]) * math.sqrt(total["c_uu"]) / count
        hidden = float(weights @ self.mean_hidden)
        return JointTotals(
            count,
            _ratio(total["c_gu"], total["c_gg"], total["c_uu"]),
            _ratio(total["c_au"], total["c_aa"], total["c_uu"]),
            2 * hidden / spread if 0 < spread < math.inf else math.nan,
        )


def grid_counts(
    gate: Float64[np.ndarray, "rows neurons"],
    value: Float64[np.ndarray, "rows neurons"],
    kept: Bool[np.ndarray, "rows neurons"],
) -> Int64[np.ndarray, " cells"]:
    """Return the kept pairs counted on the fixed grid, flattened row by row."""
    rows, columns = (
        np.clip(np.searchsorted(JOINT_EDGES, x[kept], side="right") - 1, 0, JOINT_BINS - 1)
        for x in (gate, value)
    )
    flat = np.bincount(rows * JOINT_BINS + columns, minlength=JOINT_BINS * JOINT_BINS)
    return flat.astype(np.int64)


def _correlation(
    product: Float64[np.ndarray, " n"],
    left: Float64[np.ndarray, " n"],
    right: Float64[np.ndarray, " n"],
) -> Float64[np.ndarray, " n"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: np.ndarray = product / (np.sqrt(left) * np.sqrt(right))
    return np.where((left > 0) & (right > 0), np.clip(ratio, -1.0, 1.0), np.nan)


def _ratio(product: float, left: float, right: float) -> float:
    return float(_correlation(np.array([product]), np.array([left]), np.array([right]))[0])
