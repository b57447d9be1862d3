"""The charts and tables of the page of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from dash import html

from dashboard.components.graph import graph
from dashboard.components.page import Content
from dashboard.components.table import table
from dashboard.pages.sides import Side, roomy
from ffn_probe.figures.numbers import number, percent
from ffn_probe.figures.token_chart import by_layer, position_chart, size_chart, spike_chart
from ffn_probe.figures.tokens import (
    MASSIVE,
    MASSIVE_TIMES,
    SPIKES,
    SiteTokens,
    TopValue,
    sink,
    sink_told,
    size_map,
)

_ROWS = 40


@dataclass(frozen=True, slots=True)
class Shown:
    """A run and the tokens of its sites of one role; `chosen` are those of the layer."""

    side: Side
    sites: list[SiteTokens]
    chosen: list[SiteTokens]

    @property
    def top(self) -> list[TopValue]:
        """The largest values of the chosen sites, by |value|."""
        every = [t for x in self.chosen for t in x.top]
        return sorted(every, key=lambda t: -abs(t.value))


def spikes_part(shown: Sequence[Shown]) -> list[Content]:
    """Return by layer how many times the median token the largest one is."""
    sides = [(s.side.title, s.side.color, s.sites) for s in shown]
    worst = []
    for s in shown:
        best = max(s.sites, key=lambda x: np.nan_to_num(x.spike, nan=0.0))
        worst.append(f"{s.side.title}: {number(best.spike)} in layer {best.site.layer}")
    layers = sorted({x.site.layer for s in shown for x in s.sites})
    rows = [
        [str(layer), *(number(max((x.spike for x in s.sites if x.site.layer == layer),
                                  default=None)) for s in shown)]
        for layer in layers
    ]  # fmt: skip
    numbers = table(("layer", *(s.side.title for s in shown)), rows, right=range(3),
                    caption="Largest over median of the tokens' absmax")  # fmt: skip
    limits = "; ".join(f"from {level:g} on it {text}" for level, text in SPIKES)
    return [
        html.H2("How far the largest token stands out"),
        graph(spike_chart(sides), f"Spike ratio by layer. At most {'; '.join(worst)}",
              name="spike-ratio", numbers=numbers, to="/tokens", key="layer"),
        html.P(
            f"The largest over the median of the tokens' largest |x|: {limits} (limits of "
            "ours). One spiked token sets the scale of a whole tensor. A point leads to its "
            "layer.",
            className="dim",
        ),
    ]  # fmt: skip


def largest_part(shown: Sequence[Shown]) -> list[Content]:
    """Return the largest values with their tokens."""
    marked = ("massive",) if any(t.massive for s in shown for t in s.top) else ()
    head = ("run", "layer", "value", "times the median", "token", "id", "position", "sequence",
            "step", "channel", *marked)  # fmt: skip
    rows: list[list[Content]] = []
    for s in shown:
        letter = html.Span(s.side.letter.upper(), className=s.side.letter)
        for t in s.top[: _ROWS // len(shown)]:
            where = str(t.site.layer) + (f" #{t.site.expert}" if t.site.expert >= 0 else "")
            rows.append([
                letter, where, number(t.value, signed=True), number(t.times) + "\u00d7",
                html.Code(t.text) if t.text else "-",
                *(_known(v) for v in (t.token, t.position, t.sequence, t.step)),
                str(t.channel), *("massive" if t.massive else "" for _ in marked),
            ])  # fmt: skip
    total = sum(len(s.top) for s in shown)
    more = f" Of {total:,}; all are in the data of this page." if total > len(rows) else ""
    caption = (
        f"Massive: |x| > {MASSIVE:g} and {MASSIVE_TIMES:g} times the median |x| of the site "
        f"(Sun et al. 2024). A run keeps the 16 largest of a site.{more}"
    )
    return [
        html.H2("The largest values"),
        table(head, rows, right=(1, 2, 3, 5, 6, 7, 8, 9), caption=caption),
    ]


def _known(value: int) -> str:
    return "-" if value < 0 else f"{value:,}"


def places_part(shown: Sequence[Shown]) -> list[Content]:
    """Return where the largest values sit: positions, tokens, channels."""
    rows: list[list[Content]] = []
    for s in shown:
        found = sink(s.top)
        rows.append([
            html.Span(s.side.letter.upper(), className=s.side.letter), f"{found.total:,}",
            _most(found.positions), _most(found.texts), _most(found.channels),
        ])  # fmt: skip
    listed = table(
        ("run", "values", "at positions", "of tokens", "in channels"), rows, right=(1,),
        caption="What the largest values have in common: the most frequent ones, and how many",
        wrap=True,
    )  # fmt: skip
    placed = [(s.side.title, s.side.color, s.top) for s in shown]
    if not any(t.position >= 0 for _, _, top in placed for t in top):
        return [html.H2("Where they sit"), listed]
    label = "The largest values by position and layer. " + " ".join(
        f"{s.side.title}: {sink_told(sink(s.top))}" for s in shown
    )
    return [
        html.H2("Where they sit"),
        roomy(graph(position_chart(placed), label, name="positions")),
        html.P(
            "A sink is a column of marks: one position, mostly the first, that holds the "
            "largest values of many layers. A mark grows with the number of values there.",
            className="dim",
        ),
        listed,
    ]


def _most(counted: Sequence[tuple[str | int, int]]) -> Content:
    """Return what is most frequent, each with its count."""
    parts: list[Content] = []
    for what, count in counted:
        parts += [", "] if parts else []
        parts += [html.Code(what) if isinstance(what, str) else str(what), f" ({count})"]
    return parts or "-"


def sizes_part(shown: Sequence[Shown]) -> list[Content]:
    """Return the share of the tokens by their largest value, a row a layer."""
    bins = [size_map(s.sites)[0] for s in shown]
    held = [b for b in bins if b.size]
    if not held:
        return []
    low, high = min(int(b[0]) for b in held), max(int(b[-1]) + 1 for b in held)
    lines = [
        [html.Span(s.side.letter.upper(), className=s.side.letter), str(x.site.layer),
         f"{x.rows:,}", *(number(v) for v in x.absmax)]
        for s in shown for x in s.sites[:200]
    ]  # fmt: skip
    numbers = table(
        ("run", "layer", "tokens", "median", "p99", "largest"), lines, right=range(1, 6),
        caption="Largest |x| of a token, unit of the tensor: quantiles over tokens",
    )  # fmt: skip
    charts = []
    for s in shown:
        rows = sum(x.rows for x in s.sites)
        label = f"Largest |x| of {rows:,} tokens in {len(s.sites)} sites of {s.side.title}"
        figure = size_chart(s.sites, low=low, high=high)
        shown_chart = roomy(graph(figure, label, name=f"token-sizes-{s.side.letter}"))
        charts.append(html.Div([html.H3(s.side.title, className=s.side.letter), shown_chart]))
    return [
        html.H2("How large tokens are"),
        html.Div(charts, className="pictures"),
        html.P("A row is a layer; a cell is half an octave of a token's largest |x|.",
               className="dim"),
        html.Details([html.Summary("Numbers"), numbers], className="numbers"),
    ]  # fmt: skip


def ratios_part(shown: Sequence[Shown]) -> list[Content]:
    """Return |mean| / std of a token by layer: what LayerNorm takes out and RMSNorm keeps."""
    layers = [[x.site.layer for x in s.sites] for s in shown]
    lines = [(s.side.title, s.side.color, [x.ratio for x in s.sites]) for s in shown]
    rows = [
        [html.Span(s.side.letter.upper(), className=s.side.letter), str(x.site.layer),
         f"{x.rows:,}", number(x.median), number(x.spike), number(x.ratio),
         number(x.ratio_p99), percent(x.zeros)]
        for s in shown for x in s.sites[:200]
    ]  # fmt: skip
    numbers = table(
        ("run", "layer", "tokens", "median |x|", "spike ratio", "|mean|/std", "its p99",
         "tokens of zeros"),
        rows, right=range(1, 8), caption="Tokens of each site; |mean|/std: median over tokens",
    )  # fmt: skip
    return [
        html.H2("How far a token's mean is from zero"),
        graph(
            by_layer(layers, lines, "|mean| / std"),
            "Median over tokens of |mean| / std by layer",
            name="token-means",
            numbers=numbers,
        ),
        html.P(
            "LayerNorm takes a token's mean out, RMSNorm keeps it: with r = |mean| / std they "
            "differ by about r (an SQNR of \u221220 log10 r dB).",
            className="dim",
        ),
    ]
