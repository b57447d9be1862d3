"""Channels: which carry too much or nothing, over layers and from run to run."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from dash import html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, controls, select
from dashboard.components.page import Content, Numbers, Page, Query, nothing, page
from dashboard.components.table import table
from dashboard.data import Library
from dashboard.pages.channel_charts import (
    curves_part,
    heatmaps_part,
    kurtosis_part,
    weights_part,
)
from dashboard.pages.sides import Side, choice, crumbs, heading, sides_of, steps
from ffn_probe.anatomy import ROLE_TEXT
from ffn_probe.figures.channel_chart import SORTS
from ffn_probe.figures.channel_digest import ChannelDigest, channel_digest
from ffn_probe.figures.channel_list import (
    KINDS,
    LARGE,
    LARGE_LAYERS,
    OUTLIER,
    QUIET,
    SHARED,
    Match,
    matched,
)
from ffn_probe.figures.grid import ordered_roles
from ffn_probe.figures.numbers import number
from ffn_probe.figures.places import spans
from ffn_probe.runs.channel_map import CHANNEL_MEASURES, ChannelMap, channel_measure

_TITLE = "Channels"

_MEASURES: tuple[Option, ...] = tuple((m.name, m.label) for m in CHANNEL_MEASURES)

_SORTS: tuple[Option, ...] = (
    (SORTS[0], "by channel"),
    (SORTS[1], "what stands out first"),
)

_ROWS = 60

_MEANING = {
    "outlier": f"RMS above {OUTLIER:g} times the typical one of its layer",
    "large": f"|x| reaches {LARGE:g} in {LARGE_LAYERS:.0%} of the layers or more (LLM.int8, "
    "without its share of tokens, which is not recorded)",
    "never active": "zero in every sampled row",
    "quiet": f"never above {QUIET:g} of the typical RMS of its layer",
}


def channels(library: Library, query: Query) -> Page:
    """Return the channels of a role of the run `a`, beside the run `b` if one is given."""
    sides = sides_of(library, query)
    if not sides:
        return choice(library, "/channels", _TITLE)
    roles = _roles(sides)
    if not roles:
        return page(_TITLE, crumbs(sides), *heading(_TITLE, sides), _unrecorded(sides[0]))
    role = chosen(query, "role", [(r, r) for r in roles])
    measure = channel_measure(chosen(query, "measure", _MEASURES))
    sort = chosen(query, "sort", _SORTS)
    there = [side for side in sides if role in _roles([side])]
    held = [_digest(library, side, role) for side in there]
    layers = sorted({layer for one in held for layer in one.layers})
    options = [(str(layer), f"layer {layer}") for layer in layers]
    layer = int(chosen(query, "layer", options, str(held[0].loudest)))
    matches = _matches(there, held)
    maps = [one.maps[measure.name] for one in held]
    return page(
        _TITLE,
        crumbs(sides),
        *heading(f"{_TITLE} of {role}", sides),
        html.P([ROLE_TEXT.get(role, ""), ". ", _summed(there, held)]),
        *_missing(sides, there, role),
        *_loud(there, held),
        controls(
            select("Role", "role", [(r, r) for r in roles], role),
            select("Measure", "measure", _MEASURES, measure.name),
            select("Order", "sort", _SORTS, sort),
            select("Layer of the curves", "layer", options, str(layer)),
            steps("/channels", query, options, str(layer)),
        ),
        html.H2(f"{measure.label.capitalize()} of every channel"),
        *heatmaps_part(there, maps, sort),
        *_lists(matches, role, there),
        *curves_part(there, role, measure.name, layer),
        *kurtosis_part(there, held),
        *weights_part(there, role, layer),
        data=_frames(there, matches, maps, held),
        command=f"ffn-probe show {sides[0].run.path} --measure he_kurtosis",
    )


def _roles(sides: Sequence[Side]) -> list[str]:
    """Return the roles whose channels were recorded in a run, in the order of the data."""
    return list(
        ordered_roles({site.role for side in sides for site in side.run.load("channels")})
    )


def _digest(library: Library, side: Side, role: str) -> ChannelDigest:
    return library.once(f"channels {role}", [side.id], lambda: channel_digest(side.run, role))


def _matches(sides: Sequence[Side], held: Sequence[ChannelDigest]) -> list[Match]:
    """Return the unusual channels of both runs, or of the only one that has the role."""
    found = {side.letter: one.unusual for side, one in zip(sides, held, strict=True)}
    shared = held[0].role in SHARED
    return matched(found.get("a", ()), found.get("b", ()), shared=shared)


def _unrecorded(side: Side) -> Content:
    return nothing(
        "No channels were recorded",
        f"{side.id} holds no statistics by channel. A run of this version has them for every "
        "role that it watches:",
        command="ffn-probe record MODEL --data FILE --to RUN",
    )


def _missing(sides: Sequence[Side], there: Sequence[Side], role: str) -> list[Content]:
    lacking = [side for side in sides if side not in there]
    return [
        html.Div(f"{side.title} has no {role}, so it is not drawn.", className="note")
        for side in lacking
    ]


def _loud(sides: Sequence[Side], held: Sequence[ChannelDigest]) -> list[Content]:
    """Return that nearly every channel is large, which is why none is listed for it."""
    return [
        html.P(
            f"{one.large:,} channels of {side.title} reach |x| = {LARGE:g} in "
            f"{LARGE_LAYERS:.0%} of the layers: at this scale the absolute limit of LLM.int8 "
            "tells no channel from the others, and none is listed for it.",
            className="dim",
        )
        for side, one in zip(sides, held, strict=True)
        if one.large and not any(f.kind == "large" for f in one.unusual)
    ]


def _summed(sides: Sequence[Side], held: Sequence[ChannelDigest]) -> str:
    """Return how many channels of each kind there are, in a sentence."""
    said = []
    for side, one in zip(sides, held, strict=True):
        counts = {k: len({f.channel for f in one.unusual if f.kind == k}) for k in KINDS}
        parts = [f"{count:,} {kind}" for kind, count in counts.items() if count]
        said.append(f"{side.title}: {', '.join(parts) or 'no channel is unusual'}")
    return "; ".join(said) + "."


def _lists(matches: Sequence[Match], role: str, sides: Sequence[Side]) -> list[Content]:
    """Return the unusual channels, where they are, and in which of the runs."""
    alike = (
        "Channels of the residual stream are the same in every layer"
        if role in SHARED
        else "Neurons have nothing in common from layer to layer, so each layer is listed"
    )
    twice = (
        ". Between runs a number means the same channel only where one model was made of the "
        "other; models trained apart number theirs as chance has it"
        if len(sides) > 1
        else ""
    )
    head = [html.H2("Outliers and dead channels"), html.P(alike + twice + ".", className="dim")]
    if not matches:
        return [*head, html.P("No channel is an outlier, and none is dead.")]
    both = len(sides) > 1
    names = [side.letter.upper() for side in sides]
    top = ["channel", "what", *(["in"] if both else []), "layers"]
    for name in names:
        top += [f"{name}: largest", f"{name}: times typical", f"{name}: z"]
    rows = [_row(m, sides) for m in matches[:_ROWS]]
    left = len(matches) - len(rows)
    counts = {kind: sum(m.kind == kind for m in matches) for kind in KINDS}
    meant = "; ".join(f"{kind}: {_MEANING[kind]}" for kind, n in counts.items() if n)
    more = f" The first {_ROWS}; {left:,} more are in the data of this page." if left else ""
    return [
        *head,
        table(top, rows, right=range(len(top) - 3 * len(names), len(top)),
              caption=f"{meant}.{more}"),
    ]  # fmt: skip


def _row(m: Match, sides: Sequence[Side]) -> list[Content]:
    by_letter = {"a": m.a, "b": m.b}
    found = [by_letter[side.letter] for side in sides]
    layers = {layer for f in found if f is not None for layer in f.layers}
    cells: list[Content] = [str(m.channel), m.kind]
    if len(sides) > 1:
        cells.append(m.where)
    cells.append(spans(layers))
    for f in found:
        cells += ["-", "-", "-"] if f is None else [
            number(f.largest), number(f.times) + "\u00d7", number(f.z)
        ]  # fmt: skip
    return cells


def _frames(
    sides: Sequence[Side],
    matches: Sequence[Match],
    maps: Sequence[ChannelMap],
    held: Sequence[ChannelDigest],
) -> dict[str, Numbers]:
    return {
        "unusual": lambda: _unusual_frame(matches),
        "channels": lambda: pd.concat(
            [_map_frame(side, found) for side, found in zip(sides, maps, strict=True)],
            ignore_index=True,
        ),
        "layers": lambda: pd.concat(
            [
                pd.DataFrame({
                    "side": side.letter, "run": side.id, "role": one.role,
                    "layer": one.layers, "he_kurtosis": one.kurtosis,
                    "typical_rms": one.typical,
                })
                for side, one in zip(sides, held, strict=True)
            ],
            ignore_index=True,
        ),
    }  # fmt: skip


def _unusual_frame(matches: Sequence[Match]) -> pd.DataFrame:
    listed = [
        {"side": letter, "kind": m.kind, "channel": m.channel, "in": m.where,
         "layers": " ".join(map(str, f.layers)), "largest": f.largest, "times_typical": f.times,
         "robust_z": f.z}
        for m in matches for letter, f in (("a", m.a), ("b", m.b)) if f is not None
    ]  # fmt: skip
    columns = (
        "side",
        "kind",
        "channel",
        "in",
        "layers",
        "largest",
        "times_typical",
        "robust_z",
    )
    return pd.DataFrame(listed, columns=list(columns))


def _map_frame(side: Side, found: ChannelMap) -> pd.DataFrame:
    rows, at = np.nonzero(found.channels >= 0)
    return pd.DataFrame({
        "side": side.letter, "run": side.id, "role": found.role,
        "layer": np.array(found.layers)[rows], "block": np.array(found.blocks)[rows],
        "channel": found.channels[rows, at], found.measure.name: found.values[rows, at],
    })  # fmt: skip
