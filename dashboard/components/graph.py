"""A plotly chart with a name for those who do not see it, and no button that uploads it."""

from typing import Any

from dash import dcc, html
from plotly.graph_objects import Figure

from dashboard.components.page import Content
from dashboard.ids import map_id

CONFIG: Any = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "displayModeBar": False,
}
"""Of every chart: nothing leaves this machine."""


def graph(figure: Figure, label: str, *, to: str = "") -> Content:
    """Return a chart; a click on a cell leads to the page at `to`, if given."""
    named: dict[str, Any] = {"id": map_id(to)} if to else {}
    spoken: dict[str, Any] = {"role": "img", "aria-label": label}
    style = {"height": f"{figure.layout.height}px"}
    chart = dcc.Graph(figure=figure, config=CONFIG, responsive=True, style=style, **named)
    return html.Div(chart, className="chart map" if to else "chart", **spoken)
