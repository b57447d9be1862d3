"""A training over its steps: alarms, percentile bands, a measure and the metrics, aligned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float64

from ffn_probe.alarms import KINDS, Alarm
from ffn_probe.figures.history import History, thinned
from ffn_probe.figures.numbers import number
from ffn_probe.figures.theme import FONT, RUNS
from ffn_probe.measures import measure
from ffn_probe.runs import QUANTILES

BANDS = (("q01", "q99", 0.10), ("q05", "q95", 0.14), ("q25", "q75", 0.22))
"""Lower and upper edge of a band, and how dark it is alone; they lie over each other."""

MARGIN = {"l": 76, "r": 80, "t": 10, "b": 46}
_LEGEND = 34  # px
_LANE, _FAN, _LINE, _METRIC, _GAP = 20, 250, 150, 104, 16  # px
_WIDE = 100.0  # largest over smallest; a log scale beyond
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of the column: its height in px and the title of its axis."""

    name: str
    height: int
    title: str


@dataclass(frozen=True, slots=True)
class Asinh:
    """An axis that is linear below `scale` and logarithmic beyond; scale 0 is linear."""

    scale: float

    def place(self, values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """Return where values are drawn."""
        found: np.ndarray = np.arcsinh(values / self.scale) if self.scale else values
        return found

    def ticks(self, low: float, high: float) -> tuple[list[float], list[str]]:
        """Return places and texts of powers of ten between two values, and of zero."""
        powers = [10.0**k for k in range(-44, 39) if 10.0**k >= self.scale]
        powers = [p for p in powers if p <= max(abs(low), abs(high))]
        powers = powers[:: -max(1, math.ceil(len(powers) / 3))][::-1]
        values = [*(-p for p in reversed(powers) if -p >= low), 0.0]
        values += [p for p in powers if p <= high]
        places = self.place(np.array(values)).tolist()
        return places, [number(v) for v in values]


def training_chart(
    histories: Sequence[History],
    lines: Sequence[pd.DataFrame],
    name: str,
    *,
    metrics: Sequence[str] = (),
) -> go.Figure:
    """Return one figure on one axis of steps, so that what happens together stands together.

    From above: the alarms of all runs, a lane a kind; the percentile bands of the values at
    a site; a measure there; each of the metrics. Every run has a colour and dash of its own.

    Args:
        histories: one a run.
        lines: of each run the windows of the site (`site_lines`), empty where it has no such.
        name: the measure.
        metrics: which metrics; the first six by default.
    """
    panels = _panels(name, metrics or _metrics(histories))
    figure = go.Figure()
    _lay_out(figure, panels)
    _fan(figure, panels, histories, lines)
    for i, (history, line) in enumerate(zip(histories, lines, strict=True)):
        _measure_line(figure, panels, history, line, name, i)
        for panel in panels[3:]:
            _metric_line(figure, panels, history, panel.name, i)
        _ticks(figure, panels, history, i)
    _scale_axes(figure, panels)
    figure.update_xaxes(range=step_range(histories))
    return figure


def step_range(histories: Sequence[History]) -> list[int]:
    """Return the first and the last step of several runs: the range of an axis for all."""
    known = [one for one in histories if one.windows]
    if not known:
        return [0, 1]
    return [min(int(one.first.min()) for one in known),
            max(int(one.last.max()) for one in known) + 1]  # fmt: skip


def _metrics(histories: Sequence[History]) -> tuple[str, ...]:
    found = dict.fromkeys(name for history in histories for name in history.metric_names)
    return tuple(found)[:6]


# ---- the panels -------------------------------------------------------------------------


def _panels(name: str, metrics: Sequence[str]) -> list[Panel]:
    entry = measure(name)
    unit = "" if entry.unit in {"1", ""} else f"<br>[{escape(entry.unit)}]"
    return [
        Panel("alarms", _LANE * len(KINDS), ""),
        Panel("fan", _FAN, "values<br>[unit of the tensor]"),
        Panel("measure", _LINE, escape(entry.label) + unit),
        *(Panel(metric, _METRIC, escape(metric[:24])) for metric in metrics),
    ]


def _lay_out(figure: go.Figure, panels: Sequence[Panel]) -> None:
    whole = sum(panel.height + _GAP for panel in panels) - _GAP
    top = whole
    for i, panel in enumerate(panels):
        domain = [max(0.0, (top - panel.height) / whole), min(1.0, top / whole)]
        top -= panel.height + _GAP
        figure.update_layout({_axis(i, "yaxis"): {
            "domain": domain, "title": {"text": panel.title, "font": {"size": 11}},
            "fixedrange": True, "zeroline": False, "gridcolor": "rgba(128,128,128,0.18)",
            "nticks": 5, "automargin": False, "tickfont": {"size": 11}, "anchor": "x",
        }})  # fmt: skip
    figure.update_layout({_axis(0, "yaxis"): {
        "type": "category", "categoryorder": "array", "categoryarray": list(KINDS)[::-1],
        "range": [-0.6, len(KINDS) - 0.4], "showgrid": True,
    }})  # fmt: skip
    figure.update_layout(
        height=whole + _LEGEND + MARGIN["b"], margin=MARGIN | {"t": _LEGEND}, font=FONT,
        plot_bgcolor="rgba(0,0,0,0)", paper_bgcolor="rgba(0,0,0,0)",
        hovermode="x", hoversubplots="axis", hoverlabel={"namelength": 24},
        legend={"orientation": "h", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom"},
        xaxis={
            "title": "step", "anchor": f"y{len(panels)}", "showgrid": False, "zeroline": False,
            "showspikes": True, "spikemode": "across", "spikesnap": "cursor",
            "spikethickness": 1, "spikedash": "solid", "spikecolor": "rgba(128,128,128,0.7)",
        },
    )  # fmt: skip


def _axis(i: int, name: str) -> str:
    return name + (str(i + 1) if i else "")


def _place(panels: Sequence[Panel], name: str) -> str:
    return _axis([panel.name for panel in panels].index(name), "y")


def _f4(values: Float64[np.ndarray, "..."]) -> np.ndarray:
    """Return float32, which travels in little; what is not finite is a gap."""
    kept = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), np.nan)
    return kept.astype(np.float32)


def _fade(color: str, alpha: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


# ---- what is in them --------------------------------------------------------------------


def _fan(
    figure: go.Figure,
    panels: Sequence[Panel],
    histories: Sequence[History],
    lines: Sequence[pd.DataFrame],
) -> None:
    """Draw the bands and the median of every run, on an axis that fits them all."""
    axis = _fan_axis(lines)
    shown = BANDS if len(histories) < 3 else BANDS[1:2]
    for i, (history, line) in enumerate(zip(histories, lines, strict=True)):
        color, dash = RUNS[i % len(RUNS)]
        x = line["last_step"].to_numpy(np.int64)
        for low, high, alpha in shown:
            edge = 0.7 if low == shown[0][0] else 0.0  # where the bands of two runs overlap
            for name, fill in ((low, None), (high, "tonexty")):
                figure.add_scatter(
                    x=x, y=_f4(axis.place(line[name].to_numpy(np.float64))), mode="lines",
                    line={"width": edge, "color": color, "dash": dash}, fill=fill,
                    fillcolor=_fade(color, alpha),
                    hoverinfo="skip", showlegend=False, yaxis=_place(panels, "fan"),
                    legendgroup=escape(history.name),
                )  # fmt: skip
        figure.add_scatter(
            x=x, y=_f4(axis.place(line["q50"].to_numpy(np.float64))), mode="lines",
            line={"color": color, "dash": dash, "width": 2}, yaxis=_place(panels, "fan"),
            name=escape(history.name), legendgroup=escape(history.name),
            text=[_said(row) for row in line[list(QUANTILES)].itertuples(index=False)],
            hovertemplate="%{text}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    ends = [line[name] for line in lines for name in ("q01", "q99") if len(line)]
    known = pd.concat(ends).to_numpy(np.float64) if ends else np.zeros(0)
    known = known[np.isfinite(known)]
    if axis.scale and known.size:
        places, texts = axis.ticks(float(known.min()), float(known.max()))
        figure.update_layout({_axis(1, "yaxis"): {"tickvals": places, "ticktext": texts}})


def _said(row: Sequence[float]) -> str:
    """Return the quantiles of a window in words."""
    named = dict(zip(QUANTILES, row, strict=True))
    q = {name: number(float(value)) for name, value in named.items()}
    lines = [f"median {q['q50']}"]
    pairs = (("25-75", "q25", "q75"), ("5-95", "q05", "q95"), ("1-99", "q01", "q99"))
    return "<br>".join([*lines, *(f"{n} %: {q[low]} to {q[top]}" for n, low, top in pairs)])


def _fan_axis(lines: Sequence[pd.DataFrame]) -> Asinh:
    """Return a linear axis, or one that shows small bands beside great ones."""
    widths = np.concatenate([
        (line["q99"] - line["q01"]).to_numpy(np.float64) for line in lines
    ] or [np.zeros(0)])  # fmt: skip
    known = widths[np.isfinite(widths) & (widths > 0)]
    if not known.size or known.max() / known.min() <= _WIDE / 4:
        return Asinh(0.0)
    return Asinh(float(known.min()) / 6)


def _measure_line(
    figure: go.Figure,
    panels: Sequence[Panel],
    history: History,
    line: pd.DataFrame,
    name: str,
    i: int,
) -> None:
    _line(
        figure, history, i,
        x=line["last_step"].to_numpy(np.int64), y=line[name].to_numpy(np.float64),
        axis=_place(panels, "measure"), said=escape(measure(name).label),
    )  # fmt: skip


def _metric_line(
    figure: go.Figure, panels: Sequence[Panel], history: History, name: str, i: int
) -> None:
    steps, values = thinned(*history.metric(name))
    _line(figure, history, i, x=steps, y=values, axis=_place(panels, name), said=escape(name))


def _line(
    figure: go.Figure,
    history: History,
    i: int,
    *,
    x: np.ndarray,
    y: Float64[np.ndarray, " n"],
    axis: str,
    said: str,
) -> None:
    color, dash = RUNS[i % len(RUNS)]
    known = np.r_[False, np.isfinite(y), False]
    alone = known[1:-1] & ~known[:-2] & ~known[2:]  # a line does not show such a value
    figure.add_scatter(
        x=x, y=_f4(y), mode="lines+markers" if alone.any() else "lines", yaxis=axis,
        line={"color": color, "dash": dash, "width": 1.5}, marker={"color": color, "size": 5},
        name=escape(history.name), showlegend=False,
        legendgroup=escape(history.name),
        hovertemplate=f"{said} %{{y:.4g}}<extra>%{{fullData.name}}</extra>",
    )  # fmt: skip


def _scale_axes(figure: go.Figure, panels: Sequence[Panel]) -> None:
    """Draw what spans decades on a log scale."""
    for i, panel in enumerate(panels[2:], 2):
        key = _axis(i, "y")
        parts = [trace.y for trace in figure.data if trace.yaxis == key]
        values = np.concatenate([np.asarray(p, np.float64) for p in parts] or [np.zeros(0)])
        known = values[np.isfinite(values)]
        if known.size and known.min() > 0 and known.max() / known.min() > _WIDE:
            powers = range(
                math.ceil(math.log10(known.min())), math.ceil(math.log10(known.max()))
            )
            chosen = [10.0**k for k in powers][:: max(1, math.ceil(len(powers) / 4))]
            figure.update_layout({_axis(i, "yaxis"): {
                "type": "log", "tickvals": chosen, "ticktext": [number(p) for p in chosen],
                "title": {"text": panel.title + "<br>(log)"},
            }})  # fmt: skip


# ---- alarms -----------------------------------------------------------------------------


def _ticks(figure: go.Figure, panels: Sequence[Panel], history: History, i: int) -> None:
    """Draw the alarms of a run: a tick a step and kind, in the lane of its kind."""
    grouped: dict[tuple[str, int], list[Alarm]] = {}
    for alarm in history.alarms:
        grouped.setdefault((alarm.kind, alarm.step), []).append(alarm)
    color, _ = RUNS[i % len(RUNS)]
    line = {"width": 2.5, "color": color}
    figure.add_scatter(
        x=[step for _, step in grouped], y=[kind for kind, _ in grouped], mode="markers",
        marker={"symbol": "line-ns-open", "size": 14 - 2 * i, "color": color, "line": line},
        yaxis=_place(panels, "alarms"), showlegend=False, name=escape(history.name),
        legendgroup=escape(history.name), text=[_told(listed) for listed in grouped.values()],
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )  # fmt: skip


def _told(listed: Sequence[Alarm]) -> str:
    first = listed[0]
    where = escape(first.where) + (f" and {len(listed) - 1} more" if len(listed) > 1 else "")
    return f"{first.kind}: {where}"
