"""The axis of values that the charts of one site share."""

from collections.abc import Mapping

import plotly.graph_objects as go

from ffn_probe.figures.density import Axis, Density

_TITLES: Mapping[Axis, str] = {
    "asinh": "value, in the unit of the tensor (asinh axis)",
    "log": "value, in the unit of the tensor (log of |x| on both sides of 0)",
}


def value_axis(figure: go.Figure, density: Density, axis: Axis = "asinh") -> None:
    """Give a chart the places, the ticks and the range of a density's axis."""
    figure.update_xaxes(
        tickvals=[place for place, _ in density.ticks],
        ticktext=[text for _, text in density.ticks],
        title=_TITLES[axis], zeroline=False,
        range=[float(density.edges[0]), float(density.edges[-1])],
    )  # fmt: skip
