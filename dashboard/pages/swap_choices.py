"""Parts of the swap lab: distributions of the cells, and the table of choices."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce

import pandas as pd
from dash import dcc, html

from dashboard.components.control import Option, controls, select
from dashboard.components.graph import graph
from dashboard.components.page import Content, href
from dashboard.components.table import table
from dashboard.data import Library
from dashboard.pages.swapped import Cells, Picks
from ffn_probe.figures.choices import Candidate
from ffn_probe.figures.factorial import CELLS, SPREADS, Effects
from ffn_probe.figures.multiples import multiples_chart, panels
from ffn_probe.figures.numbers import decibels, number, percent
from ffn_probe.runs import Run
from ffn_probe.sketches import BitHistogram

_ROLES = ("gate", "hidden", "out")
_CHOICES = (
    "Rule: drop what does not keep the target at every input of a matrix product; of the rest "
    "take the lower loss, and where losses are not known apart, the cheaper deployment."
)
WHO: tuple[Option, ...] = (("cells", "those of the 2 x 2"), ("all", "every run of the folder"))


# ---- distributions ----------------------------------------------------------------------


def multiples_part(library: Library, cells: Cells, picks: Picks) -> list[Content]:
    """Return gate, hidden and out of the four cells on shared axes."""
    names = [name for name in cells.names if cells.runs[name]]
    if not names:
        return []
    rows = [
        (role, [_histogram(library, cells.runs[n], role, picks.layer) for n in names])
        for role in _ROLES
    ]
    where = "all layers" if picks.layer == "all" else f"layer {picks.layer}"
    columns = [f"{cells.title(name)} ({where})" for name in names]
    sides = {i: "b" if cells.runs[n] and n[1] == "1" else "a" for i, n in enumerate(names)}
    chart = multiples_chart(panels(rows, columns), sides=sides)
    label = f"Distributions of gate, hidden and out of {len(names)} runs, {where}."
    numbers = table(
        ("role", "cell", "values", "p0.1", "median", "p99.9", "largest |x|"),
        [_line(role, cells.title(n), h) for role, found in rows
         for n, h in zip(names, found, strict=True)],
        caption=f"Quantiles of the distributions, {where}, unit of the tensor",
        right=range(2, 7),
    )  # fmt: skip
    return [
        html.H2("Distributions"),
        html.P(f"Densities (log scale) over values (asinh scale), {where}; the axes of a row "
               "are shared. Blue is the first norm, orange the other.", className="dim"),
        graph(chart, label, name="distributions", numbers=numbers),
    ]  # fmt: skip


def _histogram(library: Library, name: str, role: str, layer: str) -> BitHistogram | None:
    def make() -> BitHistogram | None:
        run: Run = library.run(name)
        found = [
            run.histogram(site)
            for site in run.sites
            if site.role == role and layer in {"all", str(site.layer)}
        ]
        return reduce(lambda a, b: a.merge(b), found) if found else None

    return library.once(f"histogram {role} {layer}", [name], make)


def _line(role: str, cell: str, found: BitHistogram | None) -> list[Content]:
    if found is None:
        return [role, cell, "-", "-", "-", "-", "-"]
    low, middle, high = (float(found.quantile(q)) for q in (0.001, 0.5, 0.999))
    return [role, cell, f"{found.count:,}", *map(number, (low, middle, high, found.absmax_bin))]


# ---- which to choose --------------------------------------------------------------------


def choices_part(
    candidates: Sequence[Candidate],
    cells: Cells,
    picks: Picks,
    options: tuple[Sequence[Option], Sequence[Option]],
    problems: Sequence[str],
) -> list[Content]:
    """Return the recorded choices with what matters when one has to be deployed."""
    need, target = picks.need, picks.target
    kept = [c for c in candidates if c.feasible]
    names = ", ".join(c.run for c in kept) or "none"
    said = (
        f"{len(kept)} of {len(candidates)} recorded choices keep {target} dB in {need} at "
        f"every input of a matrix product (normed, hidden): {names}."
    )
    best = [c for c in kept if not math.isnan(c.loss)]
    if best:
        said += f" The lowest loss among them: {best[0].run} ({number(best[0].loss)})."
    else:
        said += (
            " No loss is recorded with them: pass it to probe.step(loss=...) or tag the run "
            "with --tag loss=1.43."
        )
    rows = [_choice(c, cells) for c in candidates]
    head = (
        "", "run", "norm", "activation", f"worst input, {need} dB", "hidden int8:tensor dB",
        "hidden int8:token dB", "hidden e4m3:tensor dB", "hidden crest", "fp16 / largest",
        "e4m3 / largest", "outlier channels", "dead share", "spike ratio", "parameters", "loss",
    )  # fmt: skip
    caption = (
        "Recorded choices, those that keep the target first; levels are of the worst layer, "
        "channels and spikes the largest of any site"
    )
    return [
        html.H2("Which to deploy"),
        controls(
            select("format needed", "need", options[0], need),
            select("target", "target", options[1], target),
            select("runs", "who", WHO, picks.who),
        ),
        html.P([html.B(said), " ", html.Span(_CHOICES, className="dim")]),
        *(html.Div(problem, className="note") for problem in problems),
        table(head, rows, caption=caption, right=range(4, 16)),
    ]


def _choice(found: Candidate, cells: Cells) -> list[Content]:
    sign: Content = html.B("\u2715", className="FAIL")
    if found.feasible:
        sign = html.B("\u2713", className="PASS")
    elif math.isnan(found.worst_db):
        sign = html.Span("?", title="the noise of this format is not known at these sites")
    here = " (in the 2 x 2)" if found.run in cells.found else ""
    link = dcc.Link(found.run, href=href("/quantization", a=found.run))
    return [
        sign, html.Span([link, html.Span(here, className="dim")]), found.choice.norm,
        found.choice.activation, decibels(found.worst_db), decibels(found.hidden_int8_tensor),
        decibels(found.hidden_int8_token), decibels(found.hidden_e4m3_tensor),
        number(found.hidden_crest), number(found.room_fp16), number(found.room_e4m3),
        number(found.outlier_channels), percent(found.dead_share), number(found.spike_ratio),
        f"{found.parameters:,}" if found.parameters else "-", number(found.loss),
    ]  # fmt: skip


# ---- twins ------------------------------------------------------------------------------


def twins(
    effects: tuple[Effects | None, tuple[Effects, ...]], candidates: Sequence[Candidate],
    cells: Cells, picks: Picks,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Return the effects, the choices and the cells as tables; empty ones are left out."""
    pooled, by_layer = effects
    rows = []
    for found in [*([pooled] if pooled else []), *by_layer]:
        made = found.factorial
        values = dict(zip((*made.factors, "interaction", "total"),
                          (*made.main, made.interaction, made.total), strict=True))  # fmt: skip
        for name, value in values.items():
            rows.append({
                "measure": picks.measure, "unit": made.unit, "role": picks.role,
                "layer": found.layer, "effect": name, "value": value.value, "low": value.low,
                "high": value.high, "interval": SPREADS[found.spread],
                "separable": made.separable,
                **dict(zip(CELLS, made.cells, strict=True)),
            })  # fmt: skip
    flat = [
        {**{k: v for k, v in asdict(c).items() if k != "choice"}, "norm": c.choice.norm,
         "activation": c.choice.activation}
        for c in candidates
    ]  # fmt: skip
    runs = [{"cell": n, "choice": cells.title(n), "run": cells.runs[n]} for n in cells.names]
    tables = {"effects": pd.DataFrame(rows), "choices": pd.DataFrame(flat),
              "cells": pd.DataFrame(runs)}  # fmt: skip
    return {name: frame for name, frame in tables.items() if len(frame)}
