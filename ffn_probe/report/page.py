"""A drift as one HTML file: no script, no request, light and dark, fit to print."""

from html import escape

from ffn_probe.compare import Change, Drift, SiteDrift
from ffn_probe.figures.grid import drift_grid
from ffn_probe.figures.theme import SIGN
from ffn_probe.report.document import SIGNED, document, prose, table, written_by
from ffn_probe.report.svg import heatmap_svg, overlay_svg
from ffn_probe.report.words import (
    counts,
    definitions,
    drifted,
    facts,
    number,
    place,
    shortened,
    times,
)

_ROWS = 60
_PICTURES = 8
_NAMES = 400  # sites named in one list

_METHOD = (
    "A change counts when it is over its practical threshold <em>and</em> over the noise "
    "floor. The floor is what the two runs show against themselves: their sixteen folds of "
    "batches are split into halves many times, and the floor is the 95th percentile of the "
    "differences. Up to twice the threshold is suspicious (WARN), beyond it failed (FAIL). "
    "<em>Times floor</em> is the change over the floor; <em>smallest visible</em> the change "
    "that a comparison of this size would report four times in five. A new NaN or infinity "
    "fails at any size. Equal distributions are not equal outputs, and a drift says that "
    "values moved, not that a task suffers."
)


def to_html(drift: Drift) -> str:
    """Return the report as one HTML document."""
    parts = [
        _header(drift), _notes(drift), _counts(drift), _heatmap(drift), _sites(drift),
        _pictures(drift), _config(drift), _one_sided(drift), _definitions(drift), _made(drift),
    ]  # fmt: skip
    title = f"FFN drift: {shortened(drift.a.name)} to {shortened(drift.b.name)}"
    return document(title, parts)


# ---- what happened ----------------------------------------------------------------------


def _header(drift: Drift) -> str:
    verdict = drift.verdict
    how = "same inputs, paired fold by fold" if drift.paired else "not paired"
    return (
        "<h1>FFN drift report</h1>"
        f'<p>Reference <span class="a">{escape(drift.a.name)}</span>, candidate '
        f'<span class="b">{escape(drift.b.name)}</span>; {how}.</p>'
        f'<div class="banner {verdict.status}">'
        f'<b class="{verdict.status}">{SIGN[verdict.status]} {verdict.status}</b>'
        f"{escape(verdict.sentence)}</div>"
    )


def _notes(drift: Drift) -> str:
    return "".join(
        f'<div class="note"><b>{escape(note.level)}</b> {prose(note.text)}</div>'
        for note in drift.validity
    )


def _counts(drift: Drift) -> str:
    cells = "".join(
        f"<div>{escape(aspect)}<b>{failed or warned or 'none'}</b>"
        f'<span class="dim">{_counted(failed, warned)}</span></div>'
        for aspect, failed, warned in counts(drift)
    )
    return (
        f"<h2>By aspect</h2><p class=\"dim\">Sites out of {len(drift.sites)}.</p>"
        f'<div class="counts">{cells}</div>'
    )  # fmt: skip


def _counted(failed: int, warned: int) -> str:
    if failed and warned:
        return f"failed, {warned} suspicious"
    return "failed" if failed else "suspicious" if warned else "drifted"


def _heatmap(drift: Drift) -> str:
    return f'<h2>Layers and roles</h2><div class="wide">{heatmap_svg(drift_grid(drift))}</div>'


def _sites(drift: Drift) -> str:
    sites = drifted(drift, _ROWS)
    if not sites:
        return "<h2>Sites</h2><p>Every site passed.</p>"
    head = ("status", "layer", "role", "aspect", "statistic", "value", "unit", "threshold",
            "floor", "times floor", "smallest visible", "folds")  # fmt: skip
    rows = (
        (SIGNED[site.status], str(site.layer), place(site), worst.aspect, *_numbers(worst))
        for site in sites
        for worst in (site.worst,)
    )
    total = sum(site.status != "PASS" for site in drift.sites)
    caption = (
        f"The worst {len(sites)} of {total} sites that did not pass, worst first, each with "
        "its worst statistic."
    )
    return "<h2>Sites</h2>" + table(head, rows, caption, {1, 5, 7, 8, 9, 10, 11})


def _numbers(change: Change) -> tuple[str, ...]:
    return (
        change.statistic, number(change.value, signed=True), change.unit,
        number(change.threshold), number(change.floor), times(change), number(change.mde),
        str(change.folds),
    )  # fmt: skip


def _pictures(drift: Drift) -> str:
    sites = drifted(drift, _PICTURES)
    if not sites:
        return ""
    figures = "".join(_picture(drift, site) for site in sites)
    return (
        "<h2>Distributions of the worst sites</h2>"
        f'<p>Solid <span class="a">{escape(drift.a.name)}</span>, dashed '
        f'<span class="b">{escape(drift.b.name)}</span>, on shared axes.</p>'
        f'<div class="pictures">{figures}</div>'
    )


def _picture(drift: Drift, site: SiteDrift) -> str:
    a, b = drift.histograms(site)
    where = f"layer {site.layer} {place(site)}"
    names = dict.fromkeys((site.block_a, site.block_b))
    blocks = ", ".join(f'<code class="dim">{escape(name)}</code>' for name in names)
    bad = [sum((h.nan, h.pos_inf, h.neg_inf)) for h in (a, b)]
    lost = f"; not finite, so not drawn: {bad[0]:,} and {bad[1]:,} values" if any(bad) else ""
    head = ("status", "statistic", "value", "unit", "threshold", "floor", "times floor",
            "smallest visible", "folds")  # fmt: skip
    ranked = sorted(site.changes, key=lambda c: c.severity, reverse=True)
    rows = ((SIGNED[change.status], *_numbers(change)) for change in ranked)
    all_ = table(head, rows, "", {2, 4, 5, 6, 7, 8})
    return (
        f"<figure><figcaption><b>{escape(where)}</b> {escape(site.headline)}{lost}<br>{blocks}"
        f"</figcaption>{overlay_svg(a, b, title=f'{where}: {site.headline}')}"
        f"<details><summary>{len(site.changes)} statistics</summary>{all_}</details></figure>"
    )


# ---- what was compared, and how ---------------------------------------------------------


def _config(drift: Drift) -> str:
    if not drift.config_diff:
        return "<h2>Settings</h2><p>The two runs were made with the same settings.</p>"
    head = ("setting", drift.a.name, drift.b.name)
    return "<h2>Settings that differ</h2>" + table(head, drift.config_diff, wrap=True)


def _one_sided(drift: Drift) -> str:
    parts = []
    for side, sites in ((drift.a.name, drift.only_a), (drift.b.name, drift.only_b)):
        if sites:
            names = ", ".join(f"<code>{escape(site.name)}</code>" for site in sites[:_NAMES])
            more = f" and {len(sites) - _NAMES} more" if len(sites) > _NAMES else ""
            parts.append(
                f"<details><summary>{len(sites)} sites only in {escape(side)}</summary>"
                f"<p>{names}{more}</p></details>"
            )
    return "<h2>On one side only</h2>" + "".join(parts) if parts else ""


def _definitions(drift: Drift) -> str:
    head = ("statistic", "what it is", "aspect", "unit", "threshold", "where it comes from")
    defined = table(head, definitions(drift), "", {4}, wrap=True)
    return (
        f"<h2>Definitions</h2><p>{_METHOD}</p>"
        f"<details><summary>Statistics and thresholds</summary>{defined}</details>"
    )


def _made(drift: Drift) -> str:
    one, other = (facts(side.manifest, side.path) for side in (drift.a, drift.b))
    rows = ((key, one[key], other[key]) for key in one)
    made = table(("", drift.a.name, drift.b.name), rows, wrap=True)
    return f"<h2>Versions</h2>{made}{written_by()}"
