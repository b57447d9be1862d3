"""The charts of the page of channels."""

from collections.abc import Sequence

import numpy as np
from dash import html

from dashboard.components.graph import graph
from dashboard.components.page import Content
from dashboard.components.table import table
from dashboard.pages.sides import Side, roomy
from ffn_probe.figures.channel_chart import (
    LEVELS,
    channel_heatmap,
    channel_order,
    ends_of,
    kurtosis_curve,
    sorted_curves,
)
from ffn_probe.figures.channel_digest import ChannelDigest, layer_channels
from ffn_probe.figures.numbers import number
from ffn_probe.figures.weight_rms import WeightRms, weight_chart, weight_rms
from ffn_probe.runs.channel_map import ChannelMap, channel_measure


def heatmaps_part(
    sides: Sequence[Side], maps: Sequence[ChannelMap], sort: str
) -> list[Content]:
    """Return a map of the channels of each run, in the same colours."""
    ends = ends_of(maps)
    out: list[Content] = []
    same = len({m.values.shape[1] for m in maps}) == 1
    for side, found in zip(sides, maps, strict=True):
        order = channel_order(maps if same else [found], sort)
        top = _top(found)
        label = (
            f"{found.measure.label} of {found.width:,} channels of {found.role} in "
            f"{len(found.layers)} layers of {side.title}; {top}"
        )
        figure = channel_heatmap(found, order, ends)
        out += [
            html.H3(side.title, className=side.letter),
            roomy(
                graph(
                    figure, label, name=f"channels-{side.letter}", numbers=_layer_table(found)
                )
            ),
        ]
    if any(found.together > 1 for found in maps):
        few = max(found.together for found in maps)
        out.append(html.P(
            f"A column stands for {few} channels and shows the one that is farthest out; its "
            "number is in the hover.", className="dim",
        ))  # fmt: skip
    return out


def _top(found: ChannelMap) -> str:
    size = -found.values if found.measure.least else np.abs(found.values)
    if np.isnan(size).all():
        return "none is known"
    row, column = np.unravel_index(int(np.nanargmax(size)), size.shape)
    return (
        f"farthest out: channel {found.channels[row, column]} of layer {found.layers[row]}, "
        f"{number(float(found.values[row, column]))}"
    )


def _layer_table(found: ChannelMap) -> Content:
    """Return the farthest channel and the median of each layer."""
    rows = []
    for i, layer in enumerate(found.layers):
        line = found.values[i]
        if np.isnan(line).all():
            continue
        size = -line if found.measure.least else np.abs(line)
        at = int(np.nanargmax(size))
        middle = float(np.nanmedian(np.abs(line)))
        rows.append([str(layer), str(found.channels[i, at]), number(float(line[at])),
                     number(middle)])  # fmt: skip
    return table(
        ("layer", "channel", found.measure.name, "median of the columns"), rows,
        right=range(4), caption=f"Farthest out of each layer, {found.measure.unit}",
    )  # fmt: skip


def curves_part(sides: Sequence[Side], role: str, measure: str, layer: int) -> list[Content]:
    """Return the channels of one layer by rank."""
    entry = channel_measure(measure)
    lines = [
        (side.title, side.color, layer_channels(side.run, role, layer, measure))
        for side in sides if _has(side, role, layer)
    ]  # fmt: skip
    if not lines:
        return []
    zeros = ", ".join(f"{int((line == 0).sum()):,} of {line.size:,} in {name}"
                      for name, _, line in lines if (line == 0).any())  # fmt: skip
    rows = [[f"{q:g} %", *(number(float(np.quantile(np.abs(line), q / 100)))
                           for _, _, line in lines)]
            for q in (0, 1, 10, 50, 90, 99, 99.9, 100)]  # fmt: skip
    numbers = table(
        ("quantile over channels", *(name for name, _, _ in lines)), rows,
        right=range(len(lines) + 1), caption=f"|{entry.label}|, {entry.unit}",
    )  # fmt: skip
    figure = sorted_curves(lines, name=measure, unit=entry.unit, log=measure != "active")
    label = f"{entry.label} of the channels of {role}, layer {layer}, by rank"
    said = f"Zeros have no place on the axis: {zeros}." if zeros else ""
    return [
        html.H2(f"Channels of layer {layer}, sorted"),
        graph(figure, label, name="channels-sorted", numbers=numbers),
        html.P(said, className="dim"),
    ]


def _has(side: Side, role: str, layer: int) -> bool:
    return any(site.role == role and site.layer == layer for site in side.run.sites)


def kurtosis_part(sides: Sequence[Side], held: Sequence[ChannelDigest]) -> list[Content]:
    """Return how unlike the channels of each layer are, as one number a layer."""
    lines = [(side.title, side.color, one.layers, one.kurtosis.tolist())
             for side, one in zip(sides, held, strict=True)]  # fmt: skip
    most = "; ".join(
        f"{name}: at most {number(max(values))}" for name, _, _, values in lines
        if np.isfinite(values).all()
    )  # fmt: skip
    names = [name for name, *_ in lines]
    layers = sorted({layer for _, _, found, _ in lines for layer in found})
    rows = [
        [str(layer), *(number(values[found.index(layer)]) if layer in found else "-"
                       for _, _, found, values in lines)]
        for layer in layers
    ]  # fmt: skip
    numbers = table(("layer", *names), rows, right=range(len(names) + 1),
                    caption="Kurtosis of channel RMS")  # fmt: skip
    levels = " and ".join(f"{level:g}" for level, _ in LEVELS)
    return [
        html.H2("How unlike the channels are"),
        graph(kurtosis_curve(lines), f"Kurtosis of channel RMS by layer. {most}",
              name="channel-kurtosis", numbers=numbers, to="/channels", key="layer"),
        html.P(
            "mean(s^4) / mean(s^2)^2 over channels, s their RMS: 1 when all are alike, the "
            f"number of channels when one carries everything (He et al. 2024). {levels} are "
            "limits of ours; at 25.6 a model of 125 M parameters lost its int8 accuracy there. "
            "A point leads to its layer.",
            className="dim",
        ),
    ]  # fmt: skip


def weights_part(sides: Sequence[Side], role: str, layer: int) -> list[Content]:
    """Return whether large channels come from large weights, where weights were recorded."""
    charts = []
    for side in sides:
        found = _beside(side, role, layer)
        if found is None:
            continue
        said = f"{found.label} against RMS: rank correlation {number(found.spearman)}"
        if found.top:
            said += (
                f"; {found.both} of the {found.top} largest channels are among the {found.top} "
                "of the largest weights"
            )
        label = f"{side.title}, layer {layer}: {said}"
        shown = graph(weight_chart(found, side.color), label, name=f"weights-{side.letter}")
        charts.append(html.Div([html.H3(side.title, className=side.letter), html.P(said + "."),
                                shown]))  # fmt: skip
    if not charts:
        return []
    return [
        html.H2(f"Channels and the weights before them, layer {layer}"),
        html.Div(charts, className="pictures"),
    ]


def _beside(side: Side, role: str, layer: int) -> WeightRms | None:
    blocks = [block for block in side.run.blocks if block.layer == layer]
    if len(blocks) != 1 or blocks[0].experts or not _has(side, role, layer):
        return None
    weights = side.run.weights(blocks[0].name)
    return weight_rms(role, weights, layer_channels(side.run, role, layer, "rms"))
