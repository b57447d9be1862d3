"""The charts and tables of the page Gate x value."""

from collections.abc import Sequence

import numpy as np
from dash import html

from dashboard.components.graph import graph
from dashboard.components.page import Content
from dashboard.components.table import table
from dashboard.data import Library
from dashboard.pages.gate_inside import Inside
from dashboard.pages.sides import roomy
from ffn_probe.figures.gate_density import GateSide, gate_density
from ffn_probe.figures.gate_facts import FACTS, told
from ffn_probe.figures.joint_chart import joint_chart, joint_difference
from ffn_probe.figures.joint_view import FLOOR, JointView, joint_view
from ffn_probe.figures.neurons import MOST, Neurons, correlation_chart, neuron_chart, reach
from ffn_probe.figures.numbers import number, percent
from ffn_probe.sketches import BitHistogram

_ROWS = 12

_HOW_CELLS = (
    "A cell is an octave of |gate| times an octave of |value|, so all cells are drawn equally "
    "large; the two innermost cells of an axis hold what is close to zero."
)


def pairs_part(library: Library, found: Sequence[Inside], view: str, per: str) -> list[Content]:
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
            f"{_HOW_CELLS} Cells with a slash hold fewer than {FLOOR} pairs in both runs. "
            "Above and to the right, the shares of gate and value: solid A, dashed B."
        )
        chart = graph(figure, label, name="gate-value-difference", numbers=_changed(made))
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


def _changed(view: JointView) -> Content:
    """Return the cells whose share changed most, the largest ratio first."""
    ratio = view.log_ratio
    known = np.argwhere(np.isfinite(ratio))
    order = np.argsort(-np.abs(ratio[np.isfinite(ratio)]), kind="stable")[:_ROWS]
    g, u, other = view.gate.edges, view.value.edges, view.b
    rows = [
        [*(number(float(edge)) for edge in (g[i], g[i + 1], u[j], u[j + 1])),
         f"{view.a[i, j]:,}", "-" if other is None else f"{other[i, j]:,}",
         number(float(2.0 ** ratio[i, j])) + "\u00d7"]
        for i, j in known[order].tolist()
    ]  # fmt: skip
    return table(
        ("gate from", "to", "value from", "to", "pairs in A", "in B", "share B / A"), rows,
        right=range(7), caption=f"The {len(rows)} cells whose share changed most",
    )  # fmt: skip


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


def densities_part(found: Sequence[Inside]) -> list[Content]:
    """Return the distribution of the gate under its activation, and the numbers."""
    sides = [GateSide(x.side.title, x.gate, x.block.activation) for x in found]
    label = "Distribution of the gate: " + " ".join(
        f"{x.side.title}: {told(x.facts, x.block.activation)}" for x in found
    )
    chart = graph(gate_density(sides), label, name="gate", numbers=_quantiles(found))
    counted = "; ".join(f"{x.side.title}: {_counted(x.gate)}" for x in found)
    return [
        html.H2("The gate and what the activation makes of it"),
        roomy(chart),
        html.P(counted + ".", className="dim"),
        html.H2("Numbers"),
        _facts(found),
    ]


def _counted(gate: BitHistogram) -> str:
    lost = gate.nan + gate.pos_inf + gate.neg_inf
    return f"{gate.count:,} finite values" + (f", {lost:,} that are not" if lost else "")


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


def neurons_part(found: Sequence[Inside]) -> list[Content]:
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
