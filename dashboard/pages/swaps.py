"""Swap lab: the 2 x 2 of recorded runs by norm and activation, and which to choose."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dash import dcc, html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, controls, select
from dashboard.components.page import Content, Page, Query, href, nothing, page
from dashboard.components.table import table
from dashboard.data import Library
from dashboard.pages.swap_choices import WHO, choices_part, multiples_part, twins
from dashboard.pages.swapped import Cells, Picks, effects_part, validity_part
from ffn_probe.anatomy import ROLES
from ffn_probe.errors import FfnProbeError
from ffn_probe.figures.choices import Candidate, Traits, candidate, traits
from ffn_probe.figures.factorial import (
    CELLS,
    Choice,
    Effects,
    added_unit,
    layer_effects,
    levels,
    pooled_effects,
)
from ffn_probe.figures.numbers import number
from ffn_probe.figures.site_formats import EIGHT_BITS, keys_of, predicted_formats, run_formats
from ffn_probe.measures import MEASURES, measure

_TARGETS: tuple[Option, ...] = tuple((str(t), f"{t} dB") for t in (20, 25, 30, 35, 40))
_CASTS = ("fp16:none", "bf16:none")
_NEEDS: tuple[Option, ...] = tuple((key, key) for key in (*EIGHT_BITS, *_CASTS))
_MOST_RUNS = 40
_LEAD = (
    "Two norms by two activations, as they were recorded. Everything is about the runs of this "
    "folder: a swap that nobody recorded is not guessed."
)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The runs of one model each, by what their blocks were built with."""

    runs: Mapping[Choice, tuple[str, ...]]

    @property
    def norms(self) -> list[str]:
        return _ordered([choice.norm for choice in self.runs], ("layernorm", "rmsnorm"))

    @property
    def activations(self) -> list[str]:
        return _ordered([c.activation for c in self.runs], ("gelu mlp", "silu glu"))


def swaps(library: Library, query: Query) -> Page:
    """Return the 2 x 2 of the norms `norm0`, `norm1` and activations `act0`, `act1`."""
    found = _recorded(library)
    if not found.runs:
        how = f"ffn-probe record MODEL --data FILE --to {_quoted(library, 'base')}"
        text = "The lab compares recorded runs of one model each. Record some:"
        said = [html.H1("Swap lab"), nothing("Nothing recorded yet", text, command=how)]
        return page("Swap lab", [("Runs", href("/"))], *said, command=how)
    norms, acts = _pair(query, "norm", found.norms), _pair(query, "act", found.activations)
    cells = _cells(query, found, norms, acts)
    picks = _picks(library, cells, query)
    effects = _effects(library, cells, picks)
    candidates, lost = _candidates(library, found, cells, picks)
    return page(
        "Swap lab",
        [("Runs", href("/"))],
        html.H1("Swap lab"),
        html.P(_LEAD, className="dim"),
        _choosers(found, cells),
        _square(library, cells, picks),
        *_missing(library, cells),
        *validity_part(library, cells),
        *effects_part(library, cells, picks, effects, query),
        *multiples_part(library, cells, picks),
        *choices_part(candidates, cells, picks, (_NEEDS, _TARGETS), lost),
        data=twins(effects, candidates, cells, picks),
        command=_command(library, cells, picks.measure),
    )


# ---- what there is ----------------------------------------------------------------------


def _recorded(library: Library) -> _Recorded:
    """Return the runs of every choice, those first whose inputs most choices saw, too."""
    found: dict[Choice, list[str]] = {}
    saw: dict[str, tuple[str, ...]] = {}
    for entry in library.entries():
        if entry.run is not None and entry.run.manifest.kind == "telemetry":
            found.setdefault(Choice.of(entry.run), []).append(entry.id)
            saw[entry.id] = tuple(str(f.get("hash", "")) for f in entry.run.manifest.folds)
    shared = Counter(inputs for ids in found.values() for inputs in {saw[i] for i in ids})
    return _Recorded({
        choice: tuple(sorted(ids, key=lambda i: -shared[saw[i]] if any(saw[i]) else 0))
        for choice, ids in found.items()
    })  # fmt: skip


def _ordered(names: Sequence[str], first: Sequence[str]) -> list[str]:
    """Return the distinct names, the usual ones first."""
    rest = sorted(set(names) - set(first))
    return [*(name for name in first if name in names), *rest]


def _pair(query: Query, key: str, names: Sequence[str]) -> tuple[str, str]:
    options = [(name, name) for name in names]
    one = chosen(query, f"{key}0", options)
    other = next((name for name in names if name != one), one)
    return one, chosen(query, f"{key}1", options, other)


def _cells(
    query: Query, found: _Recorded, norms: tuple[str, str], acts: tuple[str, str]
) -> Cells:
    """Return the run of every cell, "" where none was recorded."""
    runs, choices = {}, {}
    for name in CELLS:
        choice = Choice(norms[int(name[1])], acts[int(name[2])])
        there = found.runs.get(choice, ())
        choices[name] = there
        runs[name] = chosen(query, f"r{name[1:]}", [(i, i) for i in there]) if there else ""
    return Cells(norms, acts, runs, choices)


def _picks(library: Library, cells: Cells, query: Query) -> Picks:
    """Return measure, role, layer, format and target of the address."""
    sites = {site for name in cells.found for site in library.run(name).sites}
    there = {site.role for site in sites}
    roles = tuple(role for role in ROLES if role in there)
    layers = tuple(sorted({site.layer for site in sites}))
    first = "hidden" if "hidden" in roles else ""
    named = [("all", "all layers"), *((str(i), f"layer {i}") for i in layers)]
    return Picks(
        measure=chosen(query, "measure", [(m.name, m.label) for m in MEASURES], "rms"),
        role=chosen(query, "role", [(r, r) for r in roles] or [("", "-")], first),
        layer=chosen(query, "layer", named),
        who=chosen(query, "who", WHO),
        need=chosen(query, "need", _NEEDS, "int8:token"),
        target=chosen(query, "target", _TARGETS, "30"),
        roles=roles,
        layers=layers,
    )


def _effects(
    library: Library, cells: Cells, picks: Picks
) -> tuple[Effects | None, tuple[Effects, ...]]:
    """Return the pooled effects (None where a cell is missing) and those of every layer."""
    if len(cells.found) < len(CELLS):
        return None, ()
    entry, names = measure(picks.measure), tuple(cells.runs[name] for name in CELLS)
    factors = (f"{cells.norms[1]} for {cells.norms[0]}",
               f"{cells.activations[1]} for {cells.activations[0]}")  # fmt: skip

    def make() -> tuple[Effects | None, tuple[Effects, ...]]:
        found = {n: _levels(library, cells.runs[n], picks) for n in CELLS}
        return pooled_effects(found, entry, factors), layer_effects(found, entry, factors)

    what = f"effects {picks.measure} {picks.role} {factors}"
    return library.once(what, names, make)


def _levels(library: Library, name: str, picks: Picks) -> Content:
    what, role = picks.measure, picks.role
    return library.once(
        f"levels {what} {role}", [name], lambda: levels(library.run(name), what, role)
    )


def _candidates(
    library: Library, found: _Recorded, cells: Cells, picks: Picks
) -> tuple[list[Candidate], list[str]]:
    """Return the recorded choices that are shown, those that do the job first, and problems."""
    every = [name for ids in found.runs.values() for name in ids]
    names = every[:_MOST_RUNS] if picks.who == "all" else list(dict.fromkeys(cells.found))
    target = float(picks.target)
    made, lost = [], []
    for name in names:
        try:
            told = _traits(library, name)
        except FfnProbeError as error:
            lost.append(f"{name} is left out: {error}")
        else:
            made.append(candidate(name, told, key=picks.need, target=target))
    if picks.who == "all" and len(every) > _MOST_RUNS:
        lost.append(f"Only the first {_MOST_RUNS} of {len(every)} runs are shown.")
    ranked = sorted(made, key=lambda c: (not c.feasible, _or_last(c.loss)))
    return ranked, lost


def _or_last(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def _traits(library: Library, name: str) -> Traits:
    def make() -> Traits:
        run = library.run(name)
        formats = library.once("formats", [name], lambda: run_formats(run))
        if not keys_of(formats, "measured"):
            formats = predicted_formats(run, formats)
        return traits(run, formats)

    return library.once("traits", [name], make)


# ---- choosing ---------------------------------------------------------------------------


def _choosers(found: _Recorded, cells: Cells) -> Content:
    norms, acts = cells.norms, cells.activations
    norm = [(name, name) for name in found.norms]
    act = [(name, name) for name in found.activations]
    several = [
        select(f"run of {cells.title(name)}", f"r{name[1:]}",
               [(i, i) for i in cells.choices[name]], cells.runs[name])
        for name in cells.names
        if len(cells.choices[name]) > 1
    ]  # fmt: skip
    return controls(
        select("norm", "norm0", norm, norms[0]),
        select("other norm", "norm1", norm, norms[1]),
        select("activation", "act0", act, acts[0]),
        select("other activation", "act1", act, acts[1]),
        *several,
    )


def _square(library: Library, cells: Cells, picks: Picks) -> Content:
    """Return the four runs as a table of links, with the chosen measure in each."""
    entry = measure(picks.measure)
    rows: list[list[Content]] = []
    norms, acts = dict.fromkeys(cells.norms), dict.fromkeys(cells.activations)
    for i, norm in enumerate(norms):
        row: list[Content] = [html.B(norm)]
        for j in range(len(acts)):
            name = cells.runs[f"v{i}{j}"]
            if not name:
                row.append(html.Span("not recorded", className="dim"))
                continue
            found = _levels(library, name, picks)
            mean = sum(level.value for level in found) / len(found) if found else float("nan")
            row.append(html.Span([dcc.Link(name, href=href("/run", run=name)), html.Br(),
                                  f"{number(mean)} {added_unit(entry)}"]))  # fmt: skip
        rows.append(row)
    caption = f"{entry.label} at {picks.role}, mean of the layers"
    return table(("", *acts), rows, caption=caption)


def _missing(library: Library, cells: Cells) -> list[Content]:
    """Return what has to be recorded for a whole 2 x 2."""
    parts: list[Content] = []
    for name in cells.names:
        if not cells.runs[name]:
            folder = _quoted(library, cells.folder(name))
            how = f"ffn-probe record MODEL --data FILE --to {folder}"
            parts.append(html.Div(
                [html.B(f"{cells.title(name)} is not recorded. "),
                 "Record a model that is built so, on the same data: ", html.Code(how)],
                className="note",
            ))  # fmt: skip
    same = [
        text
        for text, pair in (("norm", cells.norms), ("activation", cells.activations))
        if pair[0] == pair[1]
    ]
    if same:
        text = f"Only one {' and one '.join(same)} is chosen: there is no 2 x 2 to look at."
        parts.append(html.Div(text, className="note"))
    return parts


# ---- twins ------------------------------------------------------------------------------


def _quoted(library: Library, folder: str) -> str:
    """Return a folder beside the runs as a shell takes it."""
    return shlex.quote(str(library.root / folder))


def _command(library: Library, cells: Cells, name: str) -> str:
    paths = (shlex.quote(library.run(run).path) for run in dict.fromkeys(cells.found))
    return " && ".join(f"ffn-probe show {path} --measure {name}" for path in paths)
