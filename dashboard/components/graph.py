"""A plotly chart with a name for those who do not see it, its numbers, and its file."""

from typing import Any

from dash import dcc, html
from plotly.graph_objects import Figure

from dashboard.components.page import Content, attrs
from dashboard.ids import map_id

CONFIG: Any = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "displayModeBar": False,
}
"""Of every chart: nothing leaves this machine."""


def graph(
    figure: Figure,
    label: str,
    *,
    to: str = "",
    key: str = "site",
    name: str = "chart",
    numbers: Content = None,
) -> Content:
    """Return a chart, with buttons that save it.

    Args:
        figure: what to draw, of a stated height.
        label: what it shows, as a sentence for those who do not see it.
        to: the page that a click on a cell or point with a text as customdata leads to.
        key: the part of the address that becomes that text.
        name: of the file it is saved as (assets/charts.js).
        numbers: its numbers as a table, folded away beneath; None where they stand beside it.
    """
    named: dict[str, Any] = {"id": map_id(to, key, name)} if to else {}
    style = {"height": f"{figure.layout.height or 450}px"}
    chart = dcc.Graph(figure=figure, config=CONFIG, responsive=True, style=style, **named)
    save = [
        html.Button(kind.upper(), title=f"Save this chart as {kind.upper()}",
                    **attrs(data_save=kind, data_name=name))
        for kind in ("svg", "png")
    ]  # fmt: skip
    folded = (
        [html.Details([html.Summary("Numbers"), numbers], className="numbers")]
        if numbers is not None
        else []
    )
    return html.Div(
        [
            html.Div(
                chart,
                className="chart map" if to else "chart",
                role="img",
                **attrs(aria_label=label),
            ),
            html.Div([*folded, html.Span(save, className="save")], className="beneath"),
        ],
        className="figure",
    )
