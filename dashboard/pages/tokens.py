"""Tokens: which of them hold the largest values, and where these sit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from dash import html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, controls, select
from dashboard.components.graph import graph
from dashboard.components.page import Content, Numbers, Page, Query, nothing, page
from dashboard.components.table import table
from dashboard.data import Library
from dashboard.pages.sides import Side, choice, crumbs, heading, roomy, sides_of, steps
from ffn_probe.anatomy import ROLE_TEXT
from ffn_probe.figures.grid import ordered_roles
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
    site_tokens,
    size_map,
)

_TITLE = "Tokens"
_ROWS = 40
_ALL: Option = ("all", "all layers")


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


def tokens(library: Library, query: Query) -> Page:
    """Return the tokens of a role of the run `a`, beside the run `b` if one is given."""
    sides = sides_of(library, query)
    if not sides:
        return choice(library, "/tokens", _TITLE)
    roles = ordered_roles({s.role for side in sides for s in side.run.load("extremes")})
    if not roles:
        return page(_TITLE, crumbs(sides), *heading(_TITLE, sides), _unrecorded(sides[0]))
    role = chosen(query, "role", [(r, r) for r in roles], "hidden" if "hidden" in roles else "")
    held = {side.id: _held(library, side, role) for side in sides}
    layers = sorted({x.site.layer for found in held.values() for x in found})
    options = [_ALL, *((str(layer), f"layer {layer}") for layer in layers)]
    layer = chosen(query, "layer", options)
    shown = [
        Shown(side, held[side.id],
              [x for x in held[side.id] if layer in {"all", str(x.site.layer)}])
        for side in sides if held[side.id]
    ]  # fmt: skip
    return page(
        _TITLE,
        crumbs(sides),
        *heading(f"{_TITLE} of {role}", sides),
        html.P(ROLE_TEXT.get(role, "") + "."),
        *(html.P(f"{s.side.title}: {sink_told(sink(s.top))}") for s in shown),
        *_notes(sides, shown, role),
        controls(
            select("Role", "role", [(r, r) for r in roles], role),
            select("Layer", "layer", options, layer),
            steps("/tokens", query, options, layer),
        ),
        *_spikes(shown),
        *_largest(shown),
        *_places(shown),
        *_sizes(shown),
        *_ratios(shown),
        data=_frames(shown),
        command=f"ffn-probe show {sides[0].run.path} --measure spike_ratio",
    )


# ---- what is there ----------------------------------------------------------------------


def _held(library: Library, side: Side, role: str) -> list[SiteTokens]:
    return library.once(f"tokens {role}", [side.id], lambda: site_tokens(side.run, role))


def _unrecorded(side: Side) -> Content:
    return nothing(
        "No tokens were recorded",
        f"{side.id} holds no largest values. A run of this version has them for every role "
        "that it watches:",
        command="ffn-probe record MODEL --data FILE --to RUN",
    )


def _notes(sides: Sequence[Side], shown: Sequence[Shown], role: str) -> list[Content]:
    """Return what is not known of the tokens, and how to record it."""
    notes = [
        f"{side.title} has no {role}, so it is not drawn."
        for side in sides if all(s.side is not side for s in shown)
    ]  # fmt: skip
    for s in shown:
        top = [t for x in s.sites for t in x.top]
        if top and all(t.token < 0 for t in top):
            notes.append(
                f"{s.side.title} was recorded without token ids: its batches carry none. Give "
                "the model its ids as input_ids (or as its only argument) to have them."
            )
        elif top and not s.side.run.manifest.vocabulary:
            notes.append(
                f"{s.side.title} holds the ids of tokens and not their texts. ffn-probe record "
                "with a text file as --data keeps them, and so does vocabulary=tokenizer in "
                "Python."
            )
        if top and all(t.position < 0 for t in top):
            notes.append(
                f"{s.side.title} does not know positions: the inputs of its model did not say "
                "how rows lie in sequences."
            )
    return [html.Div(text, className="note") for text in notes]


# ---- charts -----------------------------------------------------------------------------


def _spikes(shown: Sequence[Shown]) -> list[Content]:
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
              name="spike-ratio", numbers=numbers),
        html.P(
            f"The largest over the median of the tokens' largest |x|: {limits} (limits of "
            "ours). One spiked token sets the scale of a whole tensor.", className="dim",
        ),
    ]  # fmt: skip


def _largest(shown: Sequence[Shown]) -> list[Content]:
    """Return the largest values with their tokens."""
    marked = ("massive",) if any(t.massive for s in shown for t in s.top) else ()
    head = ("run", "layer", "value", "times the median", "token", "id", "position", "sequence",
            "step", "channel", *marked)  # fmt: skip
    rows: list[list[Content]] = []
    several = any(t.site.expert >= 0 for s in shown for t in s.top)
    for s in shown:
        letter = html.Span(s.side.letter.upper(), className=s.side.letter)
        for t in s.top[: _ROWS // len(shown)]:
            where = str(t.site.layer) + (f" #{t.site.expert}" if several else "")
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


def _places(shown: Sequence[Shown]) -> list[Content]:
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


def _sizes(shown: Sequence[Shown]) -> list[Content]:
    """Return the share of the tokens by their largest value, a row a layer."""
    bins = [size_map(s.sites)[0] for s in shown]
    held = [b for b in bins if b.size]
    if not held:
        return []
    low, high = min(int(b[0]) for b in held), max(int(b[-1]) + 1 for b in held)
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
    ]  # fmt: skip


def _ratios(shown: Sequence[Shown]) -> list[Content]:
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


# ---- the twin ---------------------------------------------------------------------------


def _frames(shown: Sequence[Shown]) -> dict[str, Numbers]:
    """Return the tables, which are made when they are asked for."""
    return {"largest": lambda: _top_frame(shown), "sites": lambda: _site_frame(shown)}


def _top_frame(shown: Sequence[Shown]) -> pd.DataFrame:
    return pd.DataFrame([
        {"side": s.side.letter, "run": s.side.id, "layer": t.site.layer, "block": t.site.block,
         "role": t.site.role, "expert": t.site.expert, "value": t.value,
         "times_median": t.times, "text": t.text, "token": t.token, "position": t.position,
         "sequence": t.sequence, "step": t.step, "channel": t.channel, "massive": t.massive}
        for s in shown for t in s.top
    ])  # fmt: skip


def _site_frame(shown: Sequence[Shown]) -> pd.DataFrame:
    return pd.DataFrame([
        {"side": s.side.letter, "run": s.side.id, "layer": x.site.layer, "block": x.site.block,
         "role": x.site.role, "expert": x.site.expert, "tokens": x.rows,
         "median_abs": x.median, "spike_ratio": x.spike, "mean_over_std": x.ratio,
         "mean_over_std_p99": x.ratio_p99, "zero_tokens": x.zeros}
        for s in shown for x in s.sites
    ])  # fmt: skip
