"""Whether channels are large because the weights before them are, in plotly."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Float64, Int64

from ffn_probe.figures.canvas import framed
from ffn_probe.runs import WeightGeometry

MOST = 4000
"""Channels that are drawn: the largest by RMS."""

BEFORE: Mapping[str, tuple[tuple[str, ...], str]] = {
    "normed": (("gain",), "|gain of the norm|"),
    "gate": (("norm_gate", "norm_up"), "norm of the gate's row"),
    "value": (("norm_up",), "norm of the value's row"),
    "out": (("out_down",), "norm of the down projection's row"),
}
"""Of a role, which of the weights make its channels: the first that there is."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightRms:
    """Of every channel of a site the size of the weights before it, and its RMS.

    `spearman` is their rank correlation; `top` and `both` say of how many largest channels by
    RMS how many are among as many largest by weight. NaN and 0 for fewer than three channels.
    """

    label: str
    channels: Int64[np.ndarray, " n"]
    weight: Float64[np.ndarray, " n"]
    rms: Float64[np.ndarray, " n"]
    spearman: float
    top: int
    both: int


def weight_rms(
    role: str, weights: WeightGeometry | None, rms: Float[np.ndarray, " channels"]
) -> WeightRms | None:
    """Return weights beside channels; None where none make this role, or none are known."""
    if weights is None or role not in BEFORE:
        return None
    names, label = BEFORE[role]
    size = next((x for n in names if (x := getattr(weights, n)).size == rms.size), np.zeros(0))
    if not size.size:
        return None
    size = np.abs(size.astype(np.float64))
    kept = np.flatnonzero(np.isfinite(size) & np.isfinite(rms) & (size > 0) & (rms > 0))
    weight, root = size[kept], np.asarray(rms[kept], np.float64)
    if kept.size < 3 or np.ptp(weight) == 0 or np.ptp(root) == 0:
        return WeightRms(label, kept, weight, root, np.nan, 0, 0)
    top = max(1, min(10, kept.size // 10))
    largest = (set(np.argsort(-x, kind="stable")[:top].tolist()) for x in (weight, root))
    both = len(set.intersection(*largest))
    spearman = float(np.corrcoef(_ranks(weight), _ranks(root))[0, 1])
    return WeightRms(label, kept, weight, root, spearman, top, both)


def _ranks(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return the rank of each value, equal ones sharing theirs, without loading scipy.stats."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def weight_chart(found: WeightRms, color: str) -> go.Figure:
    """Return the RMS of every channel over the size of its weights, both axes logarithmic."""
    order = np.argsort(-found.rms, kind="stable")[:MOST]
    figure = go.Figure()
    figure.add_scatter(
        x=found.weight[order].astype(np.float32), y=found.rms[order].astype(np.float32),
        mode="markers", customdata=found.channels[order].astype(np.int32),
        marker={"color": color, "size": 6, "opacity": 0.6, "line": {"width": 0}},
        hovertemplate="channel %{customdata:d}<br>weight %{x:.3g}, RMS %{y:.3g}<extra></extra>",
    )  # fmt: skip
    log = {"type": "log", "nticks": 6, "exponentformat": "power"}
    figure.update_xaxes(title=f"{found.label} (log scale)", **log)
    figure.update_yaxes(title="RMS of the channel, its unit (log scale)", **log)
    return framed(figure, height=340, legend=False)
