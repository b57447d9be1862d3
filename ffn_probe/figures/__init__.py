"""Figures: pure functions from runs and drifts to what is drawn. No torch.

`density` and `grid` compute what a picture shows; `overlay` and `heatmap` draw it with plotly
for the dashboard, `ffn_probe.report.svg` as plain SVG for a file.
"""
