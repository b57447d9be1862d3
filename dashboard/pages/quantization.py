"""Quantization: which number formats the sites of a run survive, and what they lose."""

import math
import shlex
from collections.abc import Mapping, Sequence

import pandas as pd
from dash import dcc, html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option, controls, select
from dashboard.components.page import Content, Page, Query, href, nothing, page
from dashboard.components.table import table
from dashboard.data import Library, is_paired
from dashboard.pages.quantized import (
    Side,
    budget_part,
    clipping_part,
    crest_part,
    headroom_part,
    layer_steps,
    site_part,
)
from dashboard.pages.quantized_levels import levels_part, recommended, survivors_part
from ffn_probe.errors import UnknownName
from ffn_probe.figures.grid import ordered_roles
from ffn_probe.figures.site_formats import (
    EIGHT_BITS,
    PREDICTED_KEYS,
    VIEWS,
    SiteFormats,
    View,
    chosen_sites,
    keys_of,
    predicted_formats,
    run_formats,
    survival,
)
from ffn_probe.measures import MEASURES

_TARGETS: tuple[Option, ...] = tuple((str(t), f"{t} dB") for t in (20, 25, 30, 35, 40, 50))
_RULE = (
    "Rule: of the formats of 8 bits that kernels run (" + ", ".join(EIGHT_BITS) + ", the "
    "cheapest scale first) the first that holds the target at the most sites; a site that it "
    "loses takes the first of them that holds there, else bf16. A scale by channel is left "
    "out: it lies along the axis that a matrix product sums over. No published SQNR decides "
    "for every model, so tie the target to a loss or a task of yours."
)
_VIEWS: tuple[Option, ...] = tuple((name, f"{name}: {text}") for name, text in VIEWS.items())
_UNRECORDED = (
    "No noise of formats was measured in {}: its levels are predicted from the histograms. "
    "Formats that scale tokens or blocks cannot be predicted; record the run again with this "
    "version to measure them."
)
_DIFFERENCE = (
    "Measured levels take the scale of a tensor from all rows of a window and try a sample of "
    "rows; predicted ones take the largest value of the whole run. Where they differ by more "
    "than a decibel or two, a few rows hold the largest values."
)


def quantization(library: Library, query: Query) -> Page:
    """Return what formats do to the run `a`, beside the run `b` where one is given."""
    names = [query[key] for key in ("a", "b") if query.get(key)]
    if not names or not query.get("a"):
        return _choice(library)
    for name in names:
        if is_paired(library.run(name)):
            raise UnknownName.of("run of one model", name, _singles(library))
    sides = [_side(library, name) for name in dict.fromkeys(names)]
    if not any(side.sites for side in sides):
        return page("Quantization", [("Runs", href("/"))], html.H1("Quantization"),
                    nothing("Nothing recorded yet", f"{names[0]} holds no site."))  # fmt: skip
    view, picks = _picks(sides, query)
    shown = [_chosen(library, side, view, picks) for side in sides]
    target = float(picks["target"])
    title = f"Formats of {' and '.join(side.name for side in sides)}"
    return page(
        title,
        [("Runs", href("/")), (names[0], href("/run", run=names[0]))],
        html.H1(title),
        *_notes(sides, view, query),
        *(recommended(side, target, view) for side in shown),
        html.P(_RULE, className="dim"),
        _controls(sides, view, picks, query),
        *levels_part(library, shown, target, view, picks),
        *survivors_part(shown, target, view),
        *(site_part(library, shown, query["site"], target) if query.get("site") else ()),
        *crest_part(shown),
        *budget_part(shown, picks["format"], view),
        *clipping_part(shown, picks["format"]),
        *headroom_part(library, shown),
        data={"levels": lambda: _frame(library, shown, picks),
              "survival": lambda: _survival_frame(shown, target, view)},
        command=_command(library, names, picks["format"]),
    )  # fmt: skip


def _side(library: Library, name: str) -> Side:
    return Side(name, library.once("formats", [name], lambda: run_formats(library.run(name))))


def _chosen(library: Library, side: Side, view: View, picks: Mapping[str, str]) -> Side:
    """Return the chosen sites of a run; their histograms are read where they are needed."""
    role, layer = picks["role"], picks["layer"]
    sites = chosen_sites(side.sites, role=role, layer=layer)
    if view == "measured" and keys_of(sites, "measured"):
        return Side(side.name, sites)
    return _predicted(library, Side(side.name, sites), f"predicted {role} {layer}")


def _predicted(library: Library, side: Side, what: str) -> Side:
    def make() -> tuple[SiteFormats, ...]:
        return predicted_formats(library.run(side.name), side.sites)

    return Side(side.name, library.once(what, [side.name], make))


def _singles(library: Library) -> list[str]:
    return [e.id for e in library.entries() if e.run is not None and not is_paired(e.run)]


def _choice(library: Library) -> Page:
    found = _singles(library)
    if not found:
        folder = shlex.quote(str(library.root / "base"))
        how = f"ffn-probe record MODEL --data FILE --to {folder}"
        return page("Quantization", [("Runs", href("/"))], html.H1("Quantization"),
                    nothing("No run yet", "Record one:", command=how), command=how)  # fmt: skip
    rows = [[dcc.Link(name, href=href("/quantization", a=name))] for name in found]
    return page("Quantization", [("Runs", href("/"))], html.H1("Whose formats?"),
                table(("run",), rows, caption="Runs of one model"))  # fmt: skip


def _command(library: Library, names: Sequence[str], key: str) -> str:
    name, _, scale = key.partition(":")
    known = {entry.name for entry in MEASURES}
    measured = f"sqnr_{name}_{scale}"
    measure = measured if measured in known else f"sqnr_{name}_predicted"
    paths = (shlex.quote(library.run(n).path) for n in names)
    return " && ".join(f"ffn-probe show {path} --measure {measure}" for path in paths)


# ---- what is chosen ---------------------------------------------------------------------


def _picks(sides: Sequence[Side], query: Query) -> tuple[View, dict[str, str]]:
    """Return the view and the other choices of the address."""
    every = [site for side in sides for site in side.sites]
    measured = bool(keys_of(every, "measured"))
    found = chosen(query, "view", _VIEWS, "measured" if measured else "predicted")
    view = next(name for name in _KINDS if name == found)
    keys = _formats(every, view)
    first = "int8:token" if "int8:token" in keys else keys[0] if keys else ""
    return view, {
        "role": chosen(query, "role", _roles(every)),
        "layer": chosen(query, "layer", _layers(every)),
        "target": chosen(query, "target", _TARGETS, "30"),
        "format": chosen(query, "format", [(key, key) for key in keys] or [("", "-")], first),
        "against": chosen(query, "against", _AGAINST, "sides"),
    }


_KINDS: tuple[View, ...] = ("measured", "predicted", "difference")
_AGAINST: tuple[Option, ...] = (("sides", "A and B"), ("change", "B less A"))


def _formats(sites: Sequence[SiteFormats], view: View) -> tuple[str, ...]:
    """Return the formats to choose from: the measured ones, else those that are predicted."""
    measured = keys_of(sites, "measured")
    return measured if measured and view != "predicted" else PREDICTED_KEYS


def _roles(sites: Sequence[SiteFormats]) -> list[Option]:
    roles = ordered_roles(s.site.role for s in sites)
    return [
        ("all", "all roles"),
        ("inputs", "inputs of matrix products (normed, hidden)"),
        *((role, role) for role in roles),
    ]


def _layers(sites: Sequence[SiteFormats]) -> list[Option]:
    layers = sorted({s.site.layer for s in sites})
    return [("all", "all layers"), *((str(layer), f"layer {layer}") for layer in layers)]


def _controls(
    sides: Sequence[Side], view: View, picks: Mapping[str, str], query: Query
) -> Content:
    every = [site for side in sides for site in side.sites]
    keys = _formats(every, view)
    return controls(
        select("levels", "view", _VIEWS, view),
        select("target", "target", _TARGETS, picks["target"]),
        select("roles", "role", _roles(every), picks["role"]),
        select("layer", "layer", _layers(every), picks["layer"]),
        select("format of budget and losses", "format", [(k, k) for k in keys],
               picks["format"]) if keys else None,
        select("two runs", "against", _AGAINST, picks["against"]) if len(sides) > 1 else None,
        *layer_steps("/quantization", query, sorted({s.site.layer for s in every}),
                     picks["layer"]),
    )  # fmt: skip


def _notes(sides: Sequence[Side], view: View, query: Query) -> list[Content]:
    bare = [side.name for side in sides if not keys_of(side.sites, "measured")]
    notes: list[Content] = [
        html.Div(_UNRECORDED.format(name), className="note") for name in bare
    ]
    if view == "difference":
        notes.append(html.P(_DIFFERENCE, className="dim"))
    if bare and query.get("view") == "measured":
        notes.append(html.Div("Choose predicted levels to see more.", className="note"))
    return notes


# ---- twins ------------------------------------------------------------------------------


def _frame(library: Library, sides: Sequence[Side], picks: Mapping[str, str]) -> pd.DataFrame:
    what = f"predicted {picks['role']} {picks['layer']}"
    rows = []
    for side in (_predicted(library, side, what) for side in sides):
        for s in side.sites:
            for key in dict.fromkeys((*s.noise, *s.predicted)):
                noise = s.noise.get(key)
                rows.append({
                    "run": side.name, "layer": s.site.layer, "block": s.site.block,
                    "role": s.site.role, "expert": s.site.expert, "format": key,
                    "measured_db": s.level(key), "predicted_db": s.level(key, "predicted"),
                    "values": noise.count if noise else 0,
                    "clipped": noise.clipped if noise else 0,
                    "zeroed": noise.zeroed if noise else 0,
                    "crest": s.crest, "absmax": s.absmax, "p99_9_abs": s.p99_9,
                })  # fmt: skip
    return pd.DataFrame(rows)


def _survival_frame(sides: Sequence[Side], target: float, view: View) -> pd.DataFrame:
    by: View = "measured" if view == "difference" else view
    rows = []
    for side in sides:
        for key in keys_of(side.sites, by):
            found = survival(side.sites, key, target, by)
            if found is not None and not math.isnan(found.worst_db):
                rows.append({
                    "run": side.name, "format": key, "levels": by, "target_db": target,
                    "sites_held": found.held, "sites": found.known,
                    "worst_db": found.worst_db, "worst_site": found.worst.site.name,
                })  # fmt: skip
    return pd.DataFrame(rows)
