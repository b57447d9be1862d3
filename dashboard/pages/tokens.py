"""Tokens: which of them hold the largest values, and where these sit."""

from collections.abc import Sequence

import pandas as pd
from dash import html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, controls, select
from dashboard.components.page import Content, Numbers, Page, Query, nothing, page
from dashboard.data import Library
from dashboard.pages.sides import Side, choice, crumbs, heading, sides_of, steps
from dashboard.pages.token_charts import (
    Shown,
    largest_part,
    places_part,
    ratios_part,
    sizes_part,
    spikes_part,
)
from ffn_probe.anatomy import ROLE_TEXT
from ffn_probe.figures.grid import ordered_roles
from ffn_probe.figures.tokens import SiteTokens, sink, sink_told, site_tokens

_TITLE = "Tokens"

_ALL: Option = ("all", "all layers")


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
        *spikes_part(shown),
        *largest_part(shown),
        *places_part(shown),
        *sizes_part(shown),
        *ratios_part(shown),
        data=_frames(shown),
        command=f"ffn-probe show {sides[0].run.path} --measure spike_ratio",
    )


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
