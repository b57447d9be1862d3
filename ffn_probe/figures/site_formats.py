"""What number formats do to every site of a run: measured, predicted, and which survive."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ffn_probe.anatomy import Site
from ffn_probe.figures.grid import ordered_roles
from ffn_probe.measures import PREDICTED, QUANT_KEYS, MeasureInput, measure_all
from ffn_probe.runs import Run
from ffn_probe.sketches.quant_noise import Noise, sqnr_db

View = Literal["measured", "predicted", "difference"]

VIEWS: Mapping[str, str] = {
    "measured": "quantized sample rows",
    "predicted": "from the histogram, at the scale of the largest value",
    "difference": "measured less predicted",
}
"""How the noise of a format is known -> what that means."""

CASTS = ("fp16", "bf16")
"""Formats that go without a scale."""

KEYS: tuple[str, ...] = tuple(dict.fromkeys((*QUANT_KEYS, "int4:tensor")))
"""Every "format:granularity" of the page, in its order; int4 by tensor is only predicted."""

EIGHT_BITS: tuple[str, ...] = (
    "int8:tensor", "e4m3fn:tensor", "int8:token", "e4m3fn:token", "mxfp8:block",
)  # fmt: skip
"""Formats of 8 bits that kernels run, the cheapest scale first. A scale by channel is not
among them: it lies along the axis that a matrix product sums over."""

FOUR_BITS: tuple[str, ...] = ("int4:group", "mxfp4:block", "nvfp4:block")

INPUTS = ("normed", "hidden")
"""Roles that enter a matrix product, which is what W8A8 and FP8 kernels quantize."""

_PREDICTED = ("p99_9_abs", *(f"sqnr_{name}_predicted" for name in PREDICTED))


@dataclass(frozen=True, slots=True)
class SiteFormats:
    """One site: its size in the unit of the tensor, and the noise of formats.

    `noise` is what was measured by "format:granularity", `predicted` the SQNR in dB from the
    histogram (empty, and `p99_9` NaN, until `predicted_formats` reads the histograms).
    `crest` is absmax / RMS; what does not apply is NaN.
    """

    site: Site
    absmax: float
    p99_9: float
    crest: float
    noise: Mapping[str, Noise]
    predicted: Mapping[str, float]

    def level(self, key: str, view: View = "measured") -> float:
        """Return the SQNR of a format in dB (inf: no noise), NaN where it is not known."""
        if view == "difference":
            measured, predicted = self.level(key), self.level(key, "predicted")
            return 0.0 if measured == predicted else measured - predicted
        if view == "predicted":
            return self.predicted.get(key, math.nan)
        found = self.noise.get(key)
        return sqnr_db(found.signal, found.noise) if found is not None else math.nan


def run_formats(run: Run) -> tuple[SiteFormats, ...]:
    """Return every site of a run with what was measured, role by role; no histogram is read."""
    rank = {role: i for i, role in enumerate(ordered_roles(s.role for s in run.sites))}
    ordered = sorted(run.sites, key=lambda s: (rank[s.role], s.layer, s.block, s.expert))
    found = []
    for site in ordered:
        values = _measures(run, site, ("crest", "absmax"))
        crest, absmax = values.get("crest", math.nan), values.get("absmax", math.nan)
        noise = dict(run.summary(site).quant.entries)
        found.append(SiteFormats(site, absmax, math.nan, crest, noise, {}))
    return tuple(found)


def predicted_formats(run: Run, sites: Iterable[SiteFormats]) -> tuple[SiteFormats, ...]:
    """Return the sites with what their histograms predict, and their 99.9 % quantiles."""
    found = []
    for site in sites:
        values = _measures(run, site.site, _PREDICTED)
        levels = {
            key: values[measured]
            for key, name in zip(PREDICTED_KEYS, PREDICTED, strict=True)
            if (measured := f"sqnr_{name}_predicted") in values
        }
        p99_9 = values.get("p99_9_abs", math.nan)
        found.append(replace(site, p99_9=p99_9, predicted=levels))
    return tuple(found)


def _measures(run: Run, site: Site, names: Sequence[str]) -> dict[str, float]:
    """Return the measures of a site that apply, of those that need no other role."""
    given = MeasureInput(run.summary(site), site.role)
    return {entry.name: value for entry, value in measure_all(given, names)}


PREDICTED_KEYS: tuple[str, ...] = tuple(
    f"{name}:{'none' if name in CASTS else 'tensor'}" for name in PREDICTED
)
"""Every "format:granularity" that a histogram predicts."""


def keys_of(sites: Iterable[SiteFormats], view: View) -> tuple[str, ...]:
    """Return the formats that are known of any site in this view, in the page's order."""
    found: set[str] = set()
    for site in sites:
        measured, predicted = set(site.noise), set(site.predicted)
        found |= {"measured": measured, "predicted": predicted,
                  "difference": measured & predicted}[view]  # fmt: skip
    return tuple(dict.fromkeys(key for key in (*KEYS, *sorted(found)) if key in found))


def chosen_sites(
    sites: Sequence[SiteFormats], *, role: str = "all", layer: str = "all"
) -> tuple[SiteFormats, ...]:
    """Return the sites of a role ("all", "inputs": what matrix products read) and a layer."""
    roles = {"all": None, "inputs": set(INPUTS)}.get(role, {role})
    return tuple(
        s for s in sites
        if (roles is None or s.site.role in roles) and layer in {"all", str(s.site.layer)}
    )  # fmt: skip


# ---- which format a site survives -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Survival:
    """How many sites keep the target in a format, which is the worst, which do not."""

    key: str
    held: int
    known: int
    worst: SiteFormats
    worst_db: float
    lost: tuple[SiteFormats, ...]


def survival(
    sites: Iterable[SiteFormats], key: str, target: float, view: View
) -> Survival | None:
    """Return how a format fares at a target SQNR in dB; None where no site has a level."""
    levels = [(site.level(key, view), site) for site in sites]
    known = [(level, site) for level, site in levels if not math.isnan(level)]
    if not known:
        return None
    worst_db, worst = min(known, key=lambda pair: pair[0])
    lost = tuple(site for level, site in known if level < target)
    return Survival(key, len(known) - len(lost), len(known), worst, worst_db, lost)


def best(
    sites: Sequence[SiteFormats], keys: Sequence[str], target: float, view: View
) -> Survival | None:
    """Return the first of the formats that holds the target at the most sites."""
    found = [s for key in keys if (s := survival(sites, key, target, view)) is not None]
    return max(found, key=lambda s: s.held, default=None)


def rescue(site: SiteFormats, target: float, view: View) -> str:
    """Return the cheapest format of 8 bits that holds the target at a site, else "bf16"."""
    return next((key for key in EIGHT_BITS if site.level(key, view) >= target), "bf16")
