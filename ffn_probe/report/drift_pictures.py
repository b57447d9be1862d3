"""The distributions of a drift's worst sites, on shared axes."""

from ffn_probe.compare import Drift, SiteDrift
from ffn_probe.compare.fold_table import FoldTable
from ffn_probe.compare.quantile_shift import quantile_shift
from ffn_probe.figures.overlay import overlay
from ffn_probe.report.distributions import overlay_svg, quantiles_svg
from ffn_probe.report.drift_tables import changes
from ffn_probe.report.section import Chart, Section
from ffn_probe.report.words import drifted, place, shortened
from ffn_probe.sketches import BitHistogram


def pictures(drift: Drift, most: int) -> Section | None:
    """Return the worst sites with the distributions of both sides; None when all passed."""
    found = drifted(drift, most)
    if not found:
        return None
    charts = tuple(_picture(drift, site, i) for i, site in enumerate(found, 1))
    a, b = (shortened(side.name) for side in (drift.a, drift.b))
    text = (
        f"Solid {a}, dashed {b}, on shared axes. Below, the shares at or below each value, and "
        "how far each quantile moved; grey is what the choice of inputs alone does (95 %)."
    )
    return Section("Distributions of the worst sites", charts=charts, small=True, legend=text)


def _picture(drift: Drift, site: SiteDrift, rank: int) -> Chart:
    one, other = drift.evidence(site)
    folds = FoldTable.of(one, other, gate=site.role == "gate", paired=drift.paired)
    moved = quantile_shift(one, other, folds)
    a, b = one.whole, other.whole
    where = f"layer {site.layer} {place(site)}"
    names = (drift.a.name, drift.b.name)
    title = f"{where}: {site.headline}"
    below = "" if moved is None else quantiles_svg(a, b, moved, title=f"Quantiles of {where}")
    return Chart(
        overlay_svg(a, b, title=title),
        site.headline + _lost(a, b),
        (changes(site),),
        title=where,
        names=tuple(dict.fromkeys((site.block_a, site.block_b))),
        file=f"site-{rank}",
        draw=lambda: overlay(a, b, names=names),
        below=below,
    )


def _lost(a: BitHistogram, b: BitHistogram) -> str:
    bad = [sum((h.nan, h.pos_inf, h.neg_inf)) for h in (a, b)]
    return f"; not finite, so not drawn: {bad[0]:,} and {bad[1]:,} values" if any(bad) else ""
