"""A report as one HTML file whose charts answer to the pointer: with plotly in it, offline.

The charts of plain SVG stay in the page: they are seen until a script has drawn, where
scripts are off, and on paper.
"""

import base64
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from ffn_probe.report.document import POLICY, document
from ffn_probe.report.html import pieces
from ffn_probe.report.paper import Paper
from ffn_probe.report.section import Chart, Section
from ffn_probe.report.words import shortened

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONFIG = {
    "displaylogo": False, "showSendToCloud": False, "plotlyServerURL": "", "responsive": True,
    "modeBarButtonsToRemove": ["sendDataToCloud", "lasso2d", "select2d"],
}  # fmt: skip
"""Plotly's configuration: nothing that leads out of the page."""

_DRAW = """
(() => {
  const config = CONFIG;
  const GREY = 'rgba(128, 128, 128, 0.3)';
  const draw = div => {
    const figure = JSON.parse(document.getElementById(div.id + '-data').textContent);
    const layout = figure.layout;
    layout.autosize = true;
    layout.font = {...layout.font, color: getComputedStyle(div).color};
    for (const key of Object.keys(layout).filter(key => /^[xy]axis/.test(key)))
      layout[key] = {...layout[key], gridcolor: GREY, zerolinecolor: GREY};
    Plotly.newPlot(div, figure.data, layout, config).then(
      () => { div.previousElementSibling.hidden = true; });
  };
  const seen = new IntersectionObserver(entries => entries.forEach(entry => {
    if (!entry.isIntersecting) return;
    seen.unobserve(entry.target);
    draw(entry.target);
  }), {rootMargin: '400px'});
  document.querySelectorAll('.plot').forEach(div => seen.observe(div));
})();
""".replace("CONFIG", json.dumps(CONFIG, sort_keys=True))


def to_interactive(paper: Paper) -> str:
    """Return the report as one HTML document with plotly in it (about 5 MB)."""
    from plotly.offline import get_plotlyjs

    marked, charts = _numbered(paper)
    scripts = [get_plotlyjs(), _DRAW]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = f"{POLICY}; img-src data: blob:; script-src {hashes}"
    data = [_data(place, chart.draw()) for place, chart in charts if chart.draw]
    inside = [f"<script>{script}</script>" for script in scripts]
    return document(
        shortened(paper.title), pieces(marked), policy=policy, after=[*data, *inside]
    )


def _numbered(paper: Paper) -> tuple[Paper, list[tuple[str, Chart]]]:
    """Return the report with a place for every chart that can be drawn, and these charts."""
    found: list[tuple[str, Chart]] = []

    def chart(one: Chart) -> Chart:
        if one.draw is None:
            return one
        found.append((f"plot-{len(found) + 1}", one))
        return replace(one, plot=found[-1][0])

    def section(one: Section) -> Section:
        return replace(one, charts=tuple(map(chart, one.charts)))

    def whole(one: Paper) -> Paper:
        sections = tuple(map(section, one.sections))
        return replace(one, sections=sections, parts=tuple(map(whole, one.parts)))

    return whole(paper), found


def _data(place: str, figure: "go.Figure") -> str:
    """Return a figure as data beside its place; no text of it ends the element."""
    text = str(figure.to_json()).replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<script type="application/json" id="{place}-data">{text}</script>'


def _digest(script: str) -> str:
    """Return the hash by which a policy allows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
