"""Gate x value: how gate and value of a block meet, in one run or two."""

from collections.abc import Sequence

from dash import dcc, html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, chips, controls, select
from dashboard.components.page import Content, Page, Query, href, nothing, page
from dashboard.data import Library
from dashboard.pages.gate_charts import densities_part, neurons_part, pairs_part
from dashboard.pages.gate_inside import (
    Inside,
    expert_options,
    experts_of,
    frames_of,
    insides_of,
)
from dashboard.pages.sides import (
    Side,
    block_of,
    block_options,
    choice,
    crumbs,
    heading,
    sides_of,
    steps,
)
from ffn_probe.figures.gate_facts import told

_TITLE = "Gate \u00d7 value"

_VIEWS: tuple[Option, ...] = (("both", "side by side"), ("difference", "difference"))

_PER: tuple[Option, ...] = (
    ("octave", "share of the pairs, a cell"),
    ("unit", "share per unit of gate and value"),
)


def gate(library: Library, query: Query) -> Page:
    """Return gate and value of a block of the run `a`, beside the run `b` if one is given."""
    sides = sides_of(library, query)
    if not sides:
        return choice(library, "/gate", _TITLE)
    blocks = [block for block in sides[0].run.blocks if experts_of(sides[0], block)]
    if not blocks:
        return page(_TITLE, crumbs(sides), *heading(_TITLE, sides), _unrecorded(sides[0]))
    block, layer = block_of(blocks, query)
    experts = expert_options(sides[0], block)
    expert = chosen(query, "expert", experts)
    found = insides_of(library, sides, block, int(expert))
    both = len(found) > 1 and all(x.joint is not None for x in found)
    view = chosen(query, "view", _VIEWS) if both else "both"
    per = chosen(query, "per", _PER)
    return page(
        _TITLE,
        crumbs(sides),
        *heading(f"{_TITLE}, layer {block.layer}", sides),
        *(html.P(f"{x.title}: {told(x.facts, x.block.activation)}") for x in found),
        *_lost(sides, found),
        controls(
            select("Layer", "layer", block_options(blocks), layer),
            select("Expert", "expert", experts, expert) if len(experts) > 1 else None,
            select("A cell's colour", "per", _PER, per) if view == "both" else None,
            chips("Two runs", "view", _VIEWS, view, "/gate", query) if both else None,
            steps("/gate", query, block_options(blocks), layer),
        ),
        *pairs_part(library, found, view, per),
        *densities_part(found),
        *neurons_part(found),
        html.P(["Over all layers: ", *_elsewhere(sides)], className="dim"),
        data=frames_of(found),
        command=f"ffn-probe show {sides[0].run.path} --measure hidden_ratio",
    )


def _elsewhere(sides: Sequence[Side]) -> list[Content]:
    """Return links to the maps of the gate's measures over all layers."""
    links: list[Content] = []
    for side in sides:
        for name in ("hidden_ratio", "corr_gate_value", "gate_open", "silu_dip"):
            links += [", "] if links else []
            where = href("/run", run=side.id, measure=name)
            links.append(dcc.Link(f"{name} of {side.title}", href=where))
    return [*links, "."]


def _unrecorded(side: Side) -> Content:
    return nothing(
        "No gate was recorded",
        f"{side.id} holds no pre-activation of any block. Record the run with the roles of the "
        "inside of a block:",
        command="ffn-probe record MODEL --data FILE --to RUN --roles gate,value,hidden",
    )


def _lost(sides: Sequence[Side], found: Sequence[Inside]) -> list[Content]:
    """Return notes on what cannot be set side by side, and why."""
    notes = []
    if len(sides) > len(found):
        notes.append(f"{sides[1].title} has no gate that this block could be compared with.")
    for x in found:
        if x.joint is None and x.block.kind == "mlp":
            notes.append(
                f"{x.side.title} is a plain MLP here ({x.block.activation}): it has no value "
                "that its gate could meet. Shown is its pre-activation, which is called gate."
            )
        elif x.joint is None:
            notes.append(
                f"{x.side.title} holds no pairs of gate and value; they are recorded with the "
                "roles gate, gate_act and value together."
            )
    return [html.Div(text, className="note") for text in notes]
