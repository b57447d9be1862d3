"""Parts of the page of formats: crest factors, the error budget, losses, headroom."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dash import dcc, html

from dashboard.components.graph import graph
from dashboard.components.page import Content, Query, href
from dashboard.components.table import table
from dashboard.data import Library
from ffn_probe.errors import UnknownName
from ffn_probe.figures.clipping import clipping_chart, lost_values, pooled
from ffn_probe.figures.crest import CROSSOVER, crest_chart, level_of
from ffn_probe.figures.error_budget import budget_chart, error_budget, total_db
from ffn_probe.figures.headroom import (
    LIMITS,
    Peak,
    beyond,
    headroom_chart,
    peaks,
    with_quantiles,
)
from ffn_probe.figures.numbers import decibels, number, percent
from ffn_probe.figures.site_formats import SiteFormats, View, predicted_formats

_ROWS = 40

_CREST = (
    "int8 spreads 255 even steps up to the largest value, so it loses as the largest value "
    "grows over the RMS; e4m3 has even relative steps and does not care. Both at one scale a "
    "tensor. Points named are those with the largest crest factors."
)
_BUDGET = (
    "Noises that do not know of each other add in power. A bar is a layer's noise power over "
    "its own signal power, summed over the chosen roles: what a format adds if every part "
    "after a site keeps its ratio of noise to signal (gains are not known from telemetry)."
)
_LOSSES = (
    "Clipped values were beyond the format's largest number at their scale; zeroed ones too "
    "small for its smallest."
)
_HEADROOM = (
    "Without a scale a value beyond a format's largest number overflows. Under a factor of "
    "four between the largest value and fp16's limit is too little room for other inputs."
)
_CLOSE = 4.0  # times; less headroom to fp16 is a warning


@dataclass(frozen=True, slots=True)
class Side:
    """A run and the sites of it that are shown."""

    name: str
    sites: tuple[SiteFormats, ...]


def layer_steps(path: str, query: Query, layers: Sequence[int], layer: str) -> list[Content]:
    """Return links one layer up and down, where one is chosen."""
    names = [str(number) for number in layers]
    if layer not in names:
        return []
    at = names.index(layer)
    steps = (
        (at - 1, "prev-layer", "\u2190 layer {}"),
        (at + 1, "next-layer", "layer {} \u2192"),
    )
    return [
        dcc.Link(
            text.format(names[i]), className=f"button {kind}",
            href=href(path, **{**query, "layer": names[i]}),
        )
        for i, kind, text in steps
        if 0 <= i < len(names)
    ]  # fmt: skip


def crest_part(sides: Sequence[Side]) -> list[Content]:
    """Return the crest factors of the sites against the laws of int8 and e4m3."""
    known = [s for side in sides for s in side.sites if s.crest > 0]
    if not known:
        return []
    over = sum(s.crest > CROSSOVER for s in known)
    said = (
        f"{over} of {len(known)} sites have a crest factor over {CROSSOVER:.1f}, where e4m3 "
        "keeps more than int8 at one scale a tensor."
    )
    chart = crest_chart([(side.name, side.sites) for side in sides])
    ranked = sorted(
        ((side, s) for side in sides for s in side.sites if s.crest > 0),
        key=lambda pair: -pair[1].crest,
    )
    rows = [
        [
            side.name, _site(side.name, s), number(s.crest),
            *_levels(s), "e4m3" if s.crest > CROSSOVER else "int8", number(s.absmax),
        ]
        for side, s in ranked[:_ROWS]
    ]  # fmt: skip
    head = ("run", "site", "crest", "int8:tensor dB", "e4m3:tensor dB", "by the law",
            "largest |x|")  # fmt: skip
    caption = _first(len(rows), len(ranked), "sites, the largest crest factor first")
    numbers = table(head, rows, caption=caption, right=(2, 3, 4, 6))
    return [
        html.H2("Crest factors: int8 or e4m3"),
        html.P([html.B(said), " ", html.Span(_CREST, className="dim")]),
        graph(chart, said, name="crest", numbers=numbers, to="/quantization"),
    ]  # fmt: skip


def _levels(site: SiteFormats) -> list[Content]:
    return [decibels(level_of(site, key)[0]) for key in ("int8:tensor", "e4m3fn:tensor")]


def site_part(
    library: Library, sides: Sequence[Side], name: str, target: float
) -> list[Content]:
    """Return what every format does to the site of that name, in each run that has it.

    Raises:
        UnknownName: no run shown has such a site.
    """
    found = [(side, s) for side in sides for s in side.sites if s.site.name == name]
    if not found:
        known = [s.site.name for side in sides for s in side.sites]
        raise UnknownName.of("site", name, dict.fromkeys(known), "Choose all roles and layers.")
    parts: list[Content] = []
    for side, bare in found:
        (s,) = predicted_formats(library.run(side.name), [bare])
        rows = [_format_row(s, key, target) for key in dict.fromkeys((*s.noise, *s.predicted))]
        head = ("format", "", "measured dB", "predicted dB", "clipped", "zeroed")
        caption = (
            f"{side.name}: crest {number(s.crest)}, largest |x| {number(s.absmax)}, p99.9 "
            f"{number(s.p99_9)}; \u2713 holds {target:g} dB"
        )
        made = table(head, rows, caption=caption, right=(2, 3, 4, 5))
        parts.append(html.Div([html.P(_site(side.name, s)), made]))
    where = found[0][1].site
    return [
        html.H2(f"Every format at layer {where.layer} {where.role}", id="site"),
        html.Div(parts, className="pictures"),
    ]


def _format_row(site: SiteFormats, key: str, target: float) -> list[Content]:
    noise, levels = site.noise.get(key), (site.level(key), site.level(key, "predicted"))
    known = next((level for level in levels if not math.isnan(level)), math.nan)
    lost: tuple[str, str] = ("-", "-")
    if noise is not None and noise.count:
        lost = percent(noise.clipped / noise.count), percent(noise.zeroed / noise.count)
    return [key, "\u2713" if known >= target else "\u2715", *map(decibels, levels), *lost]


def budget_part(sides: Sequence[Side], key: str, view: View) -> list[Content]:
    """Return which sites bring how much of the noise of a format."""
    by: View = "measured" if view == "difference" else view
    parts: list[Content] = []
    for i, side in enumerate(sides):
        budget = error_budget(side.sites, key, by)
        if not budget or not budget[0].power:
            continue
        top = budget[0]
        said = (
            f"{side.name}: {percent(top.share)} of the error power of {key} is "
            f"layer {top.layer} {top.role} ({decibels(top.level)} dB); all sites together keep "
            f"{decibels(total_db(budget))} dB."
        )
        rows = [
            [_link(side.name, b.name, f"layer {b.layer} {b.role}"),
             decibels(b.level), number(100 * b.power) + " %", percent(b.share)]
            for b in budget[:_ROWS]
        ]  # fmt: skip
        caption = _first(len(rows), len(budget), f"sites by error power of {key} ({by})")
        numbers = table(("site", "SQNR, dB", "noise / signal", "share of the budget"), rows,
                        caption=caption, right=(1, 2, 3))  # fmt: skip
        chart = graph(
            budget_chart(budget), said, name=f"budget-{i}", numbers=numbers, to="/quantization"
        )
        parts.append(html.Div([html.P(html.B(said)), chart]))
    head: list[Content] = [html.H2(f"Error budget of {key}"), html.P(_BUDGET, className="dim")]
    if not parts:
        return [head[0], html.P(f"The noise of {key} is not known at these sites.")]
    return [*head, html.Div(parts, className="pictures")]


def clipping_part(sides: Sequence[Side], key: str) -> list[Content]:
    """Return what formats clip and make zero, worst first."""
    parts: list[Content] = []
    for i, side in enumerate(sides):
        lost = lost_values(side.sites)
        if not lost:
            continue
        clipped, zeroed = pooled(lost, key)
        said = f"{side.name}: {key} clips {percent(clipped)} and makes {percent(zeroed)} zero."
        mine = [entry for entry in lost if entry.key == key]
        rows = [
            [_link(side.name, x.site.name, f"layer {x.site.layer} {x.site.role}"),
             f"{x.clipped:,}", percent(x.clipped_share), f"{x.zeroed:,}",
             percent(x.zeroed_share), f"{x.count:,}"]
            for x in mine[:_ROWS]
        ]  # fmt: skip
        head = ("site", "clipped", "of values", "zeroed", "of values", "values")
        caption = _first(len(rows), len(mine), f"sites by what {key} loses, worst first")
        numbers = table(head, rows, caption=caption, right=(1, 2, 3, 4, 5))
        chart = graph(clipping_chart(lost), said, name=f"losses-{i}", numbers=numbers)
        parts.append(html.Div([html.P(html.B(said)), chart]))
    head_ = html.H2("What is clipped, what becomes zero")
    if not parts:
        return [head_, html.P("Losses are counted only where the noise was measured.")]
    return [head_, html.P(_LOSSES, className="dim"),
            html.Div(parts, className="pictures")]  # fmt: skip


def headroom_part(library: Library, sides: Sequence[Side]) -> list[Content]:
    """Return the largest values of every layer against the limits of formats."""
    found = [(side.name, _peaks(library, side)) for side in sides]
    if not any(told for _, told in found):
        return []
    said = " ".join(_room(name, told) for name, told in found if told)
    rows = [
        [name, str(p.layer), _link(name, p.name, p.role),
         number(p.absmax), number(p.p99_9),
         *(number(limit / p.absmax) for limit in LIMITS.values())]
        for name, told in found
        for p in told
    ]  # fmt: skip
    shown = rows[: 12 * _ROWS]
    head = ("run", "layer", "role of the largest", "largest |x|", "p99.9 of |x|",
            *(f"{name} / largest" for name in LIMITS))  # fmt: skip
    caption = _first(len(shown), len(rows), "layers and times below each limit")
    numbers = table(head, shown, caption=caption, right=range(3, 5 + len(LIMITS)))
    far = "A limit that is far beyond the values (bf16: 3.4e38) is not drawn."
    return [
        html.H2("Headroom"),
        html.P([html.B(said), " ", html.Span(f"{_HEADROOM} {far}", className="dim")]),
        graph(
            headroom_chart(found), said, name="headroom", numbers=numbers, to="/quantization"
        ),
    ]


def _peaks(library: Library, side: Side) -> tuple[Peak, ...]:
    found = peaks(side.sites)
    what = f"peaks {[peak.name for peak in found]}"
    return library.once(
        what, [side.name], lambda: with_quantiles(library.run(side.name), found)
    )


def _room(name: str, found: Sequence[Peak]) -> str:
    top = max(found, key=lambda peak: peak.absmax)
    over = beyond(found)
    if over:
        return (
            f"{name}: the largest |x| is {number(top.absmax)} (layer {top.layer} {top.role}), "
            f"beyond {', '.join(over)} without a scale."
        )
    room = LIMITS["fp16"] / top.absmax
    tight = " (little)" if room < _CLOSE else ""
    return (
        f"{name}: the largest |x| is {number(top.absmax)} (layer {top.layer} {top.role}): "
        f"{number(room)} times below fp16's limit{tight}, "
        f"{number(LIMITS['e4m3fn'] / top.absmax)} times below e4m3's."
    )


def _site(run: str, site: SiteFormats) -> Content:
    expert = f" expert {site.site.expert}" if site.site.expert >= 0 else ""
    return _link(run, site.site.name, f"layer {site.site.layer} {site.site.role}{expert}")


def _link(run: str, site: str, text: str) -> Content:
    return dcc.Link(text, href=href("/run", run=run, site=site))


def _first(shown: int, of: int, what: str) -> str:
    more = "" if shown == of else f" (the other {of - shown} are in the data of this page)"
    return f"{shown} of {of} {what}{more}"
