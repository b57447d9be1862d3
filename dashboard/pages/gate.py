"""Gate x value: how gate and value of a block meet, in one run or two."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from dash import html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, chips, controls, select
from dashboard.components.graph import graph
from dashboard.components.page import Content, Numbers, Page, Query, nothing, page
from dashboard.components.table import table
from dashboard.data import Library
from dashboard.pages.sides import (
    Side,
    block_of,
    block_options,
    choice,
    crumbs,
    heading,
    partner,
    roomy,
    sides_of,
    steps,
)
from ffn_probe.anatomy import Block, Site
from ffn_probe.figures.gate_density import GateSide, gate_density
from ffn_probe.figures.gate_facts import FACTS, gate_facts, told
from ffn_probe.figures.joint_chart import joint_chart, joint_difference
from ffn_probe.figures.joint_view import FLOOR, JointView, joint_view
from ffn_probe.figures.neurons import (
    MOST,
    Neurons,
    correlation_chart,
    neuron_chart,
    neurons_of,
    reach,
)
from ffn_probe.figures.numbers import number, percent
from ffn_probe.runs import Run
from ffn_probe.sketches import BitHistogram, Joint

_TITLE = "Gate \u00d7 value"
_VIEWS: tuple[Option, ...] = (("both", "side by side"), ("difference", "difference"))
_PER: tuple[Option, ...] = (
    ("octave", "share of the pairs, a cell"),
    ("unit", "share per unit of gate and value"),
)
_ROWS = 12
_HOW_CELLS = (
    "A cell is an octave of |gate| times an octave of |value|, so all cells are drawn equally "
    "large; the two innermost cells of an axis hold what is close to zero."
)


Held = tuple[BitHistogram, Joint | None, dict[str, float], Neurons | None]


@dataclass(frozen=True, slots=True, eq=False)
class Inside:
    """What a run holds of one block or expert; `neurons` is None without gate and value."""

    side: Side
    block: Block
    expert: int
    gate: BitHistogram
    joint: Joint | None
    facts: dict[str, float]
    neurons: Neurons | None


def gate(library: Library, query: Query) -> Page:
    """Return gate and value of a block of the run `a`, beside the run `b` if one is given."""
    sides = sides_of(library, query)
    if not sides:
        return choice(library, "/gate", _TITLE)
    blocks = [block for block in sides[0].run.blocks if _experts(sides[0], block)]
    if not blocks:
        return page(_TITLE, crumbs(sides), *heading(_TITLE, sides), _unrecorded(sides[0]))
    block, layer = block_of(blocks, query)
    experts = _expert_options(sides[0], block)
    expert = chosen(query, "expert", experts)
    found = _insides(library, sides, block, int(expert))
    both = len(found) > 1 and all(x.joint is not None for x in found)
    view = chosen(query, "view", _VIEWS) if both else "both"
    per = chosen(query, "per", _PER)
    return page(
        _TITLE,
        crumbs(sides),
        *heading(f"{_TITLE}, layer {block.layer}", sides),
        *(html.P(f"{x.side.title}: {told(x.facts, x.block.activation)}") for x in found),
        *_lost(sides, found),
        controls(
            select("Layer", "layer", block_options(blocks), layer),
            select("Expert", "expert", experts, expert) if len(experts) > 1 else None,
            select("A cell's colour", "per", _PER, per) if view == "both" else None,
            chips("Two runs", "view", _VIEWS, view, "/gate", query) if both else None,
            steps("/gate", query, block_options(blocks), layer),
        ),
        *_pairs(library, found, view, per),
        *_densities(found),
        *_neurons(found),
        data=_frames(found),
        command=f"ffn-probe show {sides[0].run.path} --measure hidden_ratio",
    )


# ---- what is there ----------------------------------------------------------------------


def _experts(side: Side, block: Block) -> list[int]:
    """Return the experts of a block whose gate was recorded; -1 for a dense block."""
    return [s.expert for s in side.run.sites if s.block == block.name and s.role == "gate"]


def _expert_options(side: Side, block: Block) -> list[Option]:
    """Return the experts, the one with the most tokens first."""
    found = _experts(side, block)
    if found == [-1]:
        return [("-1", "dense")]
    rows = {e: side.run.rows(Site(block.layer, block.name, "gate", e))[0] for e in found}
    return [(str(e), f"expert {e} ({rows[e]:,} tokens)")
            for e in sorted(found, key=lambda e: (-rows[e], e))]  # fmt: skip


def _insides(
    library: Library, sides: Sequence[Side], block: Block, expert: int
) -> list[Inside]:
    """Return what the sides hold of the block and of its partner, the first one always."""
    found = [_inside(library, sides[0], block, expert)]
    other = partner(library, sides, block)
    if other is not None:
        experts = _experts(sides[1], other)
        own = expert if expert in experts else next(iter(experts), None)
        if own is not None:
            found.append(_inside(library, sides[1], other, own))
    return found


def _inside(library: Library, side: Side, block: Block, expert: int) -> Inside:
    name = f"inside {block.name}#{expert}"
    held = library.once(name, [side.id], lambda: _held(side.run, block, expert))
    return Inside(side, block, expert, *held)


def _held(run: Run, block: Block, expert: int) -> Held:
    """Return the gate's values, the pairs, the numbers and the neurons of a block."""
    known = set(run.sites)
    gate, hidden = (Site(block.layer, block.name, r, expert) for r in ("gate", "hidden"))
    summary = run.summary(hidden) if hidden in known else None
    joint = summary.joint if summary is not None else None
    weights = run.weights(block.name, expert)
    values = run.histogram(gate)
    facts = gate_facts(
        values, joint=joint, weights=weights, activation=block.activation,
        hidden=run.histogram(hidden) if hidden in known else None,
    )  # fmt: skip
    channels = summary.channels if summary is not None else None
    neurons = None if joint is None else neurons_of(joint, channels, weights)
    return values, joint, facts, neurons


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


# ---- charts -----------------------------------------------------------------------------


def _pairs(library: Library, found: Sequence[Inside], view: str, per: str) -> list[Content]:
    """Return the pairs of gate and value as heatmaps, or as their ratio."""
    paired = [x for x in found if x.joint is not None]
    if not paired:
        return []
    ids = [x.side.id for x in paired]
    where = " ".join(f"{x.block.name}#{x.expert}" for x in paired)
    joints = [x.joint for x in paired if x.joint is not None]
    made: JointView = library.once(f"joint {where}", ids, lambda: joint_view(*joints[:2]))
    head = html.H2("How often each pair is seen")
    if view == "difference":
        names = (paired[0].side.title, paired[1].side.title)
        figure = joint_difference(made, names, activation=paired[1].block.activation)
        known = np.isfinite(made.log_ratio)
        label = (
            f"log2 ratio of the shares of {int(known.sum())} cells of gate and value, "
            f"{names[1]} over {names[0]}"
        )
        said = (
            f"{_HOW_CELLS} Grey cells hold fewer than {FLOOR} pairs in both runs. Above and to "
            "the right, the shares of gate and value: solid A, dashed B."
        )
        chart = graph(figure, label, name="gate-value-difference")
        return [head, roomy(chart), html.P(said, className="dim")]
    charts = []
    for x, side in zip(paired, "ab", strict=False):
        facts = x.facts
        label = (
            f"Pairs of gate and value of {x.side.title}: {number(facts.get('pairs'))} pairs, "
            f"correlation {number(facts.get('rho'), signed=True)}"
        )
        figure = joint_chart(
            made, side, color=x.side.color, activation=x.block.activation, per=per
        )
        shown = graph(figure, label, name=f"gate-value-{x.side.letter}",
                      numbers=_marginals(made, side))  # fmt: skip
        charts.append(html.Div([html.H3(x.side.title, className=x.side.letter), roomy(shown)]))
    return [head, html.Div(charts, className="pictures"), html.P(_HOW_CELLS, className="dim")]


def _marginals(view: JointView, side: str) -> Content:
    """Return the share of the pairs in each cell of the gate and of the value."""
    shares = view.shares(side)
    rows = [
        [what, number(float(axis.edges[i])), number(float(axis.edges[i + 1])), percent(share)]
        for what, axis, sums in (("gate", view.gate, shares.sum(1)),
                                 ("value", view.value, shares.sum(0)))
        for i, share in enumerate(sums.tolist())
    ]  # fmt: skip
    return table(
        ("of", "from", "to", "pairs"), rows, right=(1, 2, 3),
        caption="Marginals; every cell of both is in the data of this page",
    )  # fmt: skip


def _densities(found: Sequence[Inside]) -> list[Content]:
    sides = [GateSide(x.side.title, x.gate, x.block.activation) for x in found]
    label = "Distribution of the gate: " + " ".join(
        f"{x.side.title}: {told(x.facts, x.block.activation)}" for x in found
    )
    chart = graph(gate_density(sides), label, name="gate", numbers=_quantiles(found))
    counted = "; ".join(f"{x.side.title}: {x.gate.count:,} finite values" for x in found)
    return [
        html.H2("The gate and what the activation makes of it"),
        roomy(chart),
        html.P(counted + ".", className="dim"),
        html.H2("Numbers"),
        _facts(found),
    ]


def _quantiles(found: Sequence[Inside]) -> Content:
    places = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
    values = [
        x.gate.quantile(np.array(places)).tolist() if x.gate.count else [None] * len(places)
        for x in found
    ]
    rows = [[f"{100 * q:g} %", *(number(v[i]) for v in values)] for i, q in enumerate(places)]
    names = [x.side.title for x in found]
    return table(("quantile", *names), rows, right=range(len(names) + 1),
                 caption="Quantiles of the gate, in its unit")  # fmt: skip


def _facts(found: Sequence[Inside]) -> Content:
    facts = [x.facts for x in found]
    rows = []
    for fact in FACTS:
        values = [one.get(fact.name) for one in facts]
        if all(value is None for value in values):
            continue
        change = (
            values[1] - values[0]
            if len(values) > 1 and values[0] is not None and values[1] is not None
            else None
        )
        shown = [_shown(value, fact.unit) for value in values]
        shown += [_shown(change, fact.unit, signed=True)] if len(values) > 1 else []
        rows.append([fact.label, *shown, fact.unit, fact.formula])
    names = [x.side.title for x in found] + (["B \u2212 A"] if len(found) > 1 else [])
    width = len(names)
    return table(
        ("what", *names, "unit", "how"), rows, right=range(1, width + 1),
        caption="g is the gate before its activation, u the value, h the hidden",
    )  # fmt: skip


def _shown(value: float | None, unit: str, *, signed: bool = False) -> str:
    if value is not None and unit == "pairs":
        return f"{value:,.0f}"
    return number(value, signed=signed)


def _neurons(found: Sequence[Inside]) -> list[Content]:
    """Return the neurons one by one: their weights against how gate and value move."""
    sides = [(x, n) for x in found if (n := x.neurons) is not None]
    if not sides:
        return []
    head = html.H2("Neurons")
    with_weights = [(x, n) for x, n in sides if n.known.any()]
    out: list[Content] = [head]
    far = reach(*(n for _, n in with_weights))
    charts = []
    for x, n in with_weights:
        listed = int(n.outliers().size)
        label = (
            f"{int(n.known.sum())} neurons of {x.side.title}: cosine of their weights against "
            f"correlation of gate and value; {listed} are aligned"
        )
        shown = graph(neuron_chart(n, x.side.color, reach=far), label,
                      name=f"neurons-{x.side.letter}")  # fmt: skip
        charts.append(html.Div([html.H3(x.side.title, className=x.side.letter), shown]))
    if charts:
        most = max(int(n.known.sum()) for _, n in with_weights)
        rest = (
            f" Of more than {MOST:,} neurons those of the largest hidden RMS are drawn one by "
            "one, the others are counted in the grey cells."
            if most > MOST
            else ""
        )
        out += [
            html.Div(charts, className="pictures"),
            html.P(
                "Neurons of white inputs lie on the dotted line; the dashed lines are the "
                "limit of aligned ones, 5 / sqrt(d_model). Marks grow with the hidden RMS."
                + rest,
                className="dim",
            ),
        ]
    missing = [(x, n) for x, n in sides if not n.known.any()]
    if missing:
        names = " and ".join(x.side.title for x, _ in missing)
        drawn = correlation_chart([(x.side.title, x.side.color, n) for x, n in missing])
        out += [
            html.P(
                f"The weights of {names} were not recorded, so there is no cosine to set the "
                "correlation against; record the run again with this version to have both.",
                className="note",
            ),
            graph(drawn, f"How many neurons of {names} have which correlation of gate and "
                         "value", name="correlations"),
        ]  # fmt: skip
    return [*out, _outliers(sides)]


def _outliers(sides: Sequence[tuple[Inside, Neurons]]) -> Content:
    rows = []
    counts = []
    for x, n in sides:
        found = n.outliers()
        counts.append(f"{found.size} of {n.correlation.size} in {x.side.title}")
        for k in found[:_ROWS].tolist():
            cosine = float(n.cosine[k]) if n.cosine.size else None
            values = (
                cosine,
                n.correlation[k],
                n.hidden_rms[k],
                n.hidden_mean[k],
                n.gate_std[k],
            )
            shown = [number(None if v is None else float(v), signed=i in {0, 1, 3})
                     for i, v in enumerate(values)]  # fmt: skip
            rows.append(
                [html.Span(x.side.letter.upper(), className=x.side.letter), str(k), *shown]
            )
    if not rows:
        return html.P(f"No neuron is aligned: {', '.join(counts)}.")
    return table(
        ("run", "neuron", "cosine", "correlation", "hidden RMS", "mean hidden", "gate spread"),
        rows, right=range(1, 7),
        caption=f"Aligned neurons: {', '.join(counts)}. Up to {_ROWS} a run, by |cosine| (by "
        "|correlation| above 0.5 where no weights were recorded)",
    )  # fmt: skip


# ---- the twin ---------------------------------------------------------------------------


def _frames(found: Sequence[Inside]) -> dict[str, Numbers]:
    """Return the tables, which are made when they are asked for."""
    frames: dict[str, Numbers] = {"numbers": lambda: _fact_frame(found)}
    paired = [x for x in found if x.joint is not None]
    if paired:
        frames["neurons"] = lambda: pd.concat([_neuron_frame(x) for x in paired])
        frames["cells"] = lambda: pd.concat(
            [_cells(x.side, x.joint) for x in paired if x.joint is not None]
        )
    return frames


def _fact_frame(found: Sequence[Inside]) -> pd.DataFrame:
    return pd.DataFrame([
        {"side": x.side.letter, "run": x.side.id, "block": x.block.name, "layer": x.block.layer,
         "expert": x.expert, "number": f.name, "value": x.facts[f.name], "unit": f.unit,
         "formula": f.formula}
        for x in found for f in FACTS if f.name in x.facts
    ])  # fmt: skip


def _neuron_frame(x: Inside) -> pd.DataFrame:
    n = x.neurons
    if n is None:
        return pd.DataFrame()
    return pd.DataFrame({
        "side": x.side.letter, "run": x.side.id, "neuron": np.arange(n.correlation.size),
        "cosine": n.cosine if n.cosine.size else np.nan, "correlation": n.correlation,
        "hidden_rms": n.hidden_rms, "hidden_mean": n.hidden_mean, "gate_std": n.gate_std,
    })  # fmt: skip


def _cells(side: Side, joint: Joint) -> pd.DataFrame:
    """Return the cells that hold pairs: their edges and counts."""
    view = joint_view(joint)
    rows, columns = np.nonzero(view.a)
    g, u = view.gate.edges, view.value.edges
    return pd.DataFrame({
        "side": side.letter, "run": side.id, "gate_from": g[rows], "gate_to": g[rows + 1],
        "value_from": u[columns], "value_to": u[columns + 1], "pairs": view.a[rows, columns],
    })  # fmt: skip
