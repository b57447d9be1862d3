"""The budget of error power of a format: how much of it each layer and role brings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from ffn_probe.figures.canvas import framed, places
from ffn_probe.figures.grid import ordered_roles
from ffn_probe.figures.numbers import decibels, number, percent
from ffn_probe.figures.site_formats import SiteFormats, View

ROLE_FILLS: Mapping[str, tuple[str, str]] = {
    "resid": ("#8a8f98", ""), "normed": ("#3f7fc6", ""), "gate": ("#5bb8a0", "/"),
    "gate_act": ("#2c8a73", "x"), "value": ("#b99ad6", "\\"), "hidden": ("#d9722e", ""),
    "out": ("#e3b04b", "."),
}  # fmt: skip
"""Role -> colour and pattern: told apart without the colour, too."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one site brings: its noise power over its own signal power, and its SQNR in dB."""

    role: str
    layer: int
    name: str
    level: float
    power: float
    share: float  # of the sum over all sites, 0..1


def error_budget(sites: Sequence[SiteFormats], key: str, view: View) -> tuple[Spent, ...]:
    """Return what each role of each layer brings, largest first; of a mixture the worst expert.

    Noises that do not know of each other add in power, so the sum is the noise that the
    format adds to what passes through, if every part after a site kept its ratio of noise to
    signal. Sites whose level is not known are left out.
    """
    worst: dict[tuple[str, int], tuple[float, str]] = {}
    for site in sites:
        level, place = site.level(key, view), (site.site.role, site.site.layer)
        if not math.isnan(level) and level < worst.get(place, (math.inf, ""))[0]:
            worst[place] = level, site.site.name
    powers = {place: 10 ** (-level / 10) for place, (level, _) in worst.items()}
    whole = math.fsum(powers.values())
    found = [
        Spent(role, layer, name, level, powers[role, layer],
              powers[role, layer] / whole if whole else math.nan)
        for (role, layer), (level, name) in worst.items()
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda spent: -spent.power))


def total_db(budget: Sequence[Spent]) -> float:
    """Return the SQNR of the sum of a budget in dB; NaN for none."""
    whole = math.fsum(spent.power for spent in budget)
    return -10 * math.log10(whole) if whole else math.nan


def budget_chart(budget: Sequence[Spent]) -> go.Figure:
    """Return the budget as stacked bars, a layer each; a part's `customdata` is its site."""
    layers = sorted({spent.layer for spent in budget})
    at = {layer: i for i, layer in enumerate(layers)}
    figure = go.Figure()
    for role in ordered_roles(spent.role for spent in budget):
        parts = [spent for spent in budget if spent.role == role]
        color, pattern = ROLE_FILLS.get(role, ("#9aa4af", "-"))
        figure.add_bar(
            x=[at[spent.layer] for spent in parts], y=[100 * spent.power for spent in parts],
            name=escape(role), customdata=[spent.name for spent in parts],
            marker={"color": color, "pattern": {"shape": pattern, "solidity": 0.25},
                    "line": {"width": 0}},
            text=[_words(spent) for spent in parts], textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    shown = places(len(layers))
    figure.update_xaxes(
        title="layer", tickvals=shown, ticktext=[str(layers[i]) for i in shown], showgrid=False,
        range=[-0.5, max(len(layers), 1) - 0.5],
    )  # fmt: skip
    figure.update_yaxes(title="noise power / signal power", ticksuffix=" %")
    return framed(figure, height=340, barmode="stack", hovermode="closest")


def _words(spent: Spent) -> str:
    return (
        f"layer {spent.layer} {escape(spent.role)}: {number(100 * spent.power)} % of its "
        f"signal ({decibels(spent.level)} dB)<br>{percent(spent.share)} of the whole budget"
    )
