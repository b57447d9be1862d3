"""The neurons of a GLU: how their weights are turned, and how gate and value move."""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int64

from ffn_probe.figures.canvas import FAINT, INK, framed
from ffn_probe.runs import WeightGeometry
from ffn_probe.sketches import Channels, Joint

MOST = 4000
"""Neurons that are drawn one by one: those of the largest hidden RMS. The rest is counted."""

_CELLS = 48


@dataclass(frozen=True, slots=True, eq=False)
class Neurons:
    """One entry a neuron: cosine of its weights, correlation of gate and value, its hidden.

    `cosine` is empty where the weights were not recorded; `hidden_rms` is NaN where the
    hidden site was not. `aligned` is the |cosine| beyond which a neuron is called aligned.
    """

    cosine: Float[np.ndarray, " known"]
    correlation: Float[np.ndarray, " neurons"]
    hidden_rms: Float[np.ndarray, " neurons"]
    hidden_mean: Float[np.ndarray, " neurons"]
    gate_std: Float[np.ndarray, " neurons"]
    aligned: float

    @property
    def ranked(self) -> Int64[np.ndarray, " neurons"]:
        """The neurons by hidden RMS, the largest first; unknown ones last."""
        size = np.nan_to_num(self.hidden_rms, nan=-1.0)
        return np.asarray(np.argsort(-size, kind="stable"), np.int64)

    @property
    def known(self) -> Bool[np.ndarray, " neurons"]:
        """Which neurons have both a cosine and a correlation."""
        if not self.cosine.size:
            return np.zeros(self.correlation.size, bool)
        return np.asarray(np.isfinite(self.cosine) & np.isfinite(self.correlation))

    def outliers(self) -> Int64[np.ndarray, " n"]:
        """Return the aligned neurons, by |cosine|; without weights those that correlate most.

        Without weights a neuron is listed from |correlation| 0.5 on.
        """
        if self.cosine.size:
            size, limit = np.abs(np.nan_to_num(self.cosine)), self.aligned
        else:
            size, limit = np.abs(np.nan_to_num(self.correlation)), 0.5
        found = np.argsort(-size, kind="stable")
        return np.asarray(found[size[found] > limit], np.int64)


def neurons_of(
    joint: Joint, hidden: Channels | None = None, weights: WeightGeometry | None = None
) -> Neurons:
    """Return the neurons of a block; weights of another width are left out."""
    size = joint.count.size
    with np.errstate(all="ignore"):
        std = np.sqrt(joint.c_gg / joint.count)
    rms = hidden.rms if hidden is not None and hidden.count.size == size else None
    fits = weights is not None and weights.cos_gate_up.size == size
    return Neurons(
        cosine=weights.cos_gate_up.astype(np.float64) if fits and weights else np.zeros(0),
        correlation=joint.corr_gate_value,
        hidden_rms=np.full(size, np.nan) if rms is None else rms,
        hidden_mean=np.where(joint.count > 0, joint.mean_hidden, np.nan),
        gate_std=np.where(joint.count > 0, std, np.nan),
        aligned=weights.aligned if weights is not None else np.inf,
    )


def neuron_chart(
    neurons: Neurons, color: str, *, reach: tuple[float, float] = (1.0, 1.0)
) -> go.Figure:
    """Return the cosine of the weights against the correlation of gate and value.

    On the dotted line, where both are equal, are neurons whose inputs are white. Marks grow
    with the hidden RMS; of more than MOST neurons the others are counted in the grey cells.
    `reach` is how far the axes go from zero, the same for charts that are compared.
    """
    chosen = neurons.ranked[neurons.known[neurons.ranked]]
    shown, rest = chosen[:MOST], chosen[MOST:]
    far, high = reach
    figure = go.Figure()
    if rest.size:
        across, up = (np.linspace(-end, end, _CELLS + 1) for end in reach)
        counts, _, _ = np.histogram2d(
            neurons.correlation[rest], neurons.cosine[rest], bins=(up, across)
        )
        x, y = ((edges[1:] + edges[:-1]) / 2 for edges in (across, up))
        figure.add_heatmap(
            z=np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan).astype(np.float32),
            x=x.astype(np.float32), y=y.astype(np.float32), showscale=False,
            colorscale=[[0, FAINT], [1, "rgba(128,128,128,0.75)"]],
            customdata=counts.astype(np.float32), hoverongaps=False,
            hovertemplate="%{customdata:,} smaller neurons<extra></extra>",
        )  # fmt: skip
    rms = np.nan_to_num(neurons.hidden_rms[shown], nan=0.0)
    largest = rms.max(initial=0.0)
    size = 4 + 10 * np.sqrt(rms / largest) if largest > 0 else np.full(shown.size, 6.0)
    figure.add_scatter(
        x=neurons.cosine[shown].astype(np.float32),
        y=neurons.correlation[shown].astype(np.float32), mode="markers",
        marker={"size": size.astype(np.float32), "color": color, "opacity": 0.55,
                "line": {"width": 0}},
        customdata=np.stack(
            [shown, neurons.hidden_rms[shown], neurons.hidden_mean[shown]], axis=-1
        ).astype(np.float32),
        hovertemplate="neuron %{customdata[0]:d}<br>cos %{x:.3f}, corr %{y:.3f}<br>"
        "hidden RMS %{customdata[1]:.3g}, mean %{customdata[2]:.3g}<extra></extra>",
    )  # fmt: skip
    limits = [x for x in (-neurons.aligned, neurons.aligned) if abs(x) < far]
    end = min(reach)
    line = {"color": INK, "width": 1, "dash": "dot"}
    figure.layout.shapes = [
        {"type": "line", "x0": -end, "y0": -end, "x1": end, "y1": end, "line": line},
        *({"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1,
           "line": {**line, "dash": "dash"}} for x in limits),
    ]  # fmt: skip
    figure.update_xaxes(
        title="cosine of the gate's and the value's weights", range=[-1.04 * far, 1.04 * far]
    )
    figure.update_yaxes(
        title="correlation of gate and value", range=[-1.04 * high, 1.04 * high]
    )
    return framed(figure, height=440, legend=False)


def reach(*sides: Neurons) -> tuple[float, float]:
    """Return how far from zero cosines and correlations go, each rounded up, at most 1."""
    across = max((_far(side.cosine) for side in sides), default=0.0)
    up = max((_far(side.correlation) for side in sides), default=0.0)
    return _rounded(across), _rounded(up)


def _far(values: Float[np.ndarray, " n"]) -> float:
    return float(np.nanmax(np.abs(values), initial=0.0))


def _rounded(value: float) -> float:
    return next((step for step in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7) if value <= step), 1.0)


def correlation_chart(sides: list[tuple[str, str, Neurons]]) -> go.Figure:
    """Return how many neurons have which correlation of gate and value: name, colour, side.

    For runs without weights, where there is nothing to set it against.
    """
    figure = go.Figure()
    edges = np.linspace(-1, 1, 81)
    for i, (name, color, side) in enumerate(sides):
        known = side.correlation[np.isfinite(side.correlation)]
        counts, _ = np.histogram(known, bins=edges)
        share = counts / max(known.size, 1)
        figure.add_scatter(
            x=np.repeat(edges, 2)[1:-1].astype(np.float32),
            y=np.repeat(share, 2).astype(np.float32), mode="lines", name=name,
            line={"color": color, "width": 2, "dash": "dash" if i else "solid"},
            hovertemplate="%{x:.2f}: %{y:.1%} of the neurons<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="correlation of gate and value", range=[-1, 1])
    figure.update_yaxes(title="share of the neurons", tickformat=".0%", rangemode="tozero")
    return framed(figure, height=300, legend=len(sides) > 1)
