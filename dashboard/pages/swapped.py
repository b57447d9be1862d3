"""Parts of the swap lab: validity, effects, small multiples, the table of choices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dash import dcc, html

from dashboard.components.control import Option, controls, select
from dashboard.components.graph import graph
from dashboard.components.page import Content, Query, href, prose
from dashboard.components.table import table
from dashboard.data import Library
from dashboard.pages.quantized import layer_steps
from ffn_probe.compare.validity import inputs, validity
from ffn_probe.figures.factorial import CELLS, SPREADS, Effects, Level, added_unit, levels
from ffn_probe.figures.interaction import interaction_chart
from ffn_probe.figures.numbers import number, percent
from ffn_probe.figures.shares import shares_chart
from ffn_probe.measures import MEASURES, measure
from ffn_probe.report.paired_numbers import effect_numbers, effects
from ffn_probe.report.paired_words import between

_HOW = (
    "Main effects are averages over the other factor and add to the total; the interaction is "
    "what one factor changes about the other. Over 20 % of the total the two are not "
    "separable: report the pair. Lines that are parallel add."
)
_TRAININGS = (
    "Each cell is one training: the intervals tell other inputs, not other seeds. Two "
    "trainings of one design may differ by more; record several seeds before choosing by a "
    "small effect."
)


@dataclass(frozen=True, slots=True)
class Cells:
    """The runs of the 2 x 2: "v00", "v10" (other norm), "v01" (other activation), "v11"."""

    norms: tuple[str, str]
    activations: tuple[str, str]
    runs: Mapping[str, str]  # "" where none was recorded
    choices: Mapping[str, tuple[str, ...]]

    @property
    def found(self) -> list[str]:
        """The runs that there are."""
        return [self.runs[name] for name in self.names if self.runs[name]]

    @property
    def names(self) -> tuple[str, ...]:
        """The cells that differ: two or one where only one norm or activation is chosen."""
        norms = (0, 1) if self.norms[0] != self.norms[1] else (0,)
        acts = (0, 1) if self.activations[0] != self.activations[1] else (0,)
        return tuple(name for name in CELLS if int(name[1]) in norms and int(name[2]) in acts)

    @property
    def square(self) -> bool:
        """Whether two different norms and two different activations are chosen."""
        return len(self.names) == len(CELLS)

    def title(self, name: str) -> str:
        """Return a cell in words: "rmsnorm, silu glu"."""
        return f"{self.norms[int(name[1])]}, {self.activations[int(name[2])]}"

    def folder(self, name: str) -> str:
        """Return a name for the folder of a run that is missing."""
        return "".join(c if c.isalnum() else "-" for c in self.title(name).replace(", ", "-"))


@dataclass(frozen=True, slots=True)
class Picks:
    """What else the address chooses, and the roles and layers there are to choose from."""

    measure: str
    role: str
    layer: str
    who: str
    need: str
    target: str
    roles: tuple[str, ...]
    layers: tuple[int, ...]

    @property
    def layer_options(self) -> list[Option]:
        """The layers as a drop-down takes them."""
        return [("all", "all layers"), *((str(i), f"layer {i}") for i in self.layers)]


# ---- validity ---------------------------------------------------------------------------


def validity_part(library: Library, cells: Cells) -> list[Content]:
    """Return what limits a comparison of the runs of the cells."""
    names = list(dict.fromkeys(cells.found))
    if len(names) < 2:
        return []
    first, *others = [library.run(name) for name in names]
    pairs = [inputs(first, other) for other in others]
    if all(found.paired for found in pairs):
        said: list[Content] = [
            html.P("All runs saw the same inputs, fold by fold.", className="dim")
        ]
    else:
        text = (
            "Not valid as a paired comparison: these runs saw other inputs, so part of every "
            "effect may come from these."
        )
        said = [html.Div([html.B("refuse "), text], className="note")]
    notes = [note for found in pairs for note in found.notes]
    notes += [note for other in others for note in validity(first, other)]
    texts = dict.fromkeys((note.level, note.text) for note in notes)
    rest = [html.Div([html.B(f"{level} "), *prose(text)], className="note")
            for level, text in texts]  # fmt: skip
    return [*said, *rest, _pairs(cells)]


def _pairs(cells: Cells) -> Content:
    """Return links to the comparisons of two cells."""
    links: list[Content] = []
    for one, other in (("v00", "v10"), ("v00", "v01"), ("v10", "v11"), ("v01", "v11"),
                       ("v00", "v11")):  # fmt: skip
        a, b = cells.runs[one], cells.runs[other]
        if a and b and a != b:
            text = f"{a} \u2192 {b}"
            links.append(dcc.Link(text, href=href("/compare", a=a, b=b), className="chip"))
    return html.Div([html.Span("Compare ", className="dim"), *links], className="chips")


# ---- effects ----------------------------------------------------------------------------


def effects_part(
    library: Library,
    cells: Cells,
    picks: Picks,
    found: tuple[Effects | None, tuple[Effects, ...]],
    query: Query,
) -> list[Content]:
    """Return main effects and interaction of the chosen measure, pooled and by layer."""
    entry = measure(picks.measure)
    options: list[Option] = [(m.name, f"{m.label} [{m.unit}]") for m in MEASURES]
    roles = [(role, role) for role in picks.roles]
    unit = added_unit(entry)
    label = f"{entry.label} at {picks.role}" + (f" [{unit}]" if unit else "")
    head: list[Content] = [
        html.H2("Effects on a measure"),
        controls(
            select("measure", "measure", options, picks.measure),
            select("role", "role", roles, picks.role) if roles else None,
            select("layer", "layer", picks.layer_options, picks.layer),
            *layer_steps("/swaps", query, picks.layers, picks.layer),
        ),
        html.P([html.B(entry.label), f": {entry.formula}. ", html.Span(_HOW, className="dim")]),
    ]
    if entry.unit == "dB":
        head.append(html.P("Levels in dB do not add: effects are of noise power over signal "
                           "power, less is better.", className="dim"))  # fmt: skip
    table_ = {n: _levels(library, cells.runs[n], picks) for n in cells.names if cells.runs[n]}
    short = entry.label + (f", {unit}" if unit else "")
    lines = interaction_chart(
        table_,
        norms=list(dict.fromkeys(cells.norms)),
        activations=list(dict.fromkeys(cells.activations)),
        label=short,
    )
    head += _unlike(table_)
    pooled, layers = found
    shown = pooled if picks.layer == "all" else _of_layer(layers, picks.layer)
    said = _said(shown, picks, entry.label)
    chart = graph(lines, f"{label} in the four cells. {said}", name="interaction",
                  numbers=_cell_table(table_, cells, label))  # fmt: skip
    parts = [html.Div([html.H3(label), chart])]
    if shown is not None:
        parts.append(_bars(shown, said))
    body: list[Content] = [html.Div(parts, className="pictures"), *_by_layer(layers)]
    if shown is None:
        body.insert(0, html.P(html.B(said)))
    else:
        body.append(html.P(_TRAININGS, className="dim"))
    return [*head, *body]


def _unlike(found: Mapping[str, Sequence[Level]]) -> list[Content]:
    """Return a note where the runs have other layers: effects are of those they share."""
    layers = [{level.layer for level in side} for side in found.values()]
    shared = set[int].intersection(*layers) if layers else set()
    every = set[int].union(*layers) if layers else set()
    if shared == every:
        return []
    text = (
        f"The runs have other layers at this role: effects are of the {len(shared)} of "
        f"{len(every)} layers that all cells have."
    )
    return [html.Div(text, className="note")]


def _levels(library: Library, name: str, picks: Picks) -> Content:
    what, role = picks.measure, picks.role
    return library.once(
        f"levels {what} {role}", [name], lambda: levels(library.run(name), what, role)
    )


def _of_layer(found: Sequence[Effects], layer: str) -> Effects | None:
    return next((effect for effect in found if str(effect.layer) == layer), None)


def _said(shown: Effects | None, picks: Picks, label: str) -> str:
    if shown is None:
        return (
            f"No 2 x 2 of {label} at {picks.role}: a cell is missing, or the measure does "
            "not apply to this role in all four."
        )
    where = "Mean of the layers" if shown.layer < 0 else f"Layer {shown.layer}"
    return f"{where}: {shown.factorial.sentence}"


def _bars(shown: Effects, said: str) -> Content:
    made = shown.factorial
    unit = f"{made.metric}, {made.unit}" if made.unit else made.metric
    word = "" if made.separable else ": not separable"
    chart = shares_chart(effects(made), unit=unit, share=False, hollow=not made.separable)
    found = effect_numbers(made)
    how = f"Intervals (95 %): {SPREADS[shown.spread]}."
    numbers = table(found.head, found.rows, caption=f"Effects on {made.metric}",
                    right=found.right)  # fmt: skip
    return html.Div([
        html.H3(f"Main effects and interaction{word}"),
        html.P([said, html.Br(), html.Span(how, className="dim")]),
        graph(chart, said, name="effects", numbers=numbers),
    ])  # fmt: skip


def _cell_table(found: Mapping[str, Content], cells: Cells, label: str) -> Content:
    layers = sorted({level.layer for side in found.values() for level in side})
    rows = []
    for name, side in found.items():
        by_layer = {level.layer: level.value for level in side}
        values = [number(by_layer.get(layer)) for layer in layers]
        rows.append([cells.title(name), cells.runs[name], *values])
    head = ("cell", "run", *(f"layer {layer}" for layer in layers))
    return table(head, rows, caption=label, right=range(2, 2 + len(layers)))


def _by_layer(found: Sequence[Effects]) -> list[Content]:
    if not found:
        return []
    one, other = found[0].factorial.factors
    rows = []
    for effect in found:
        made = effect.factorial
        share = made.interaction.value / made.total.value if made.total.value else math.nan
        rows.append([
            str(effect.layer), *(f"{number(v.value, signed=True)} ({between(v, share=False)})"
                                 for v in (*made.main, made.interaction, made.total)),
            percent(share), "yes" if made.separable else "no",
        ])  # fmt: skip
    head = ("layer", one, other, "interaction", "total", "interaction / total", "separable")
    caption = (
        f"Effects by layer, with 95 % intervals {SPREADS[found[0].spread]}"
        if found[0].spread == "folds"
        else "Effects by layer; this measure is not kept by fold, so there is no floor"
    )
    return [table(head, rows, caption=caption, right=(0, 1, 2, 3, 4, 5))]
