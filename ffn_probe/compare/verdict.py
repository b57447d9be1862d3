"""Verdict: the status of a whole comparison and one sentence that says why."""

from collections.abc import Sequence
from dataclasses import dataclass

from ffn_probe.compare.change import RANK, Change, Status
from ffn_probe.compare.site_drift import SiteDrift
from ffn_probe.compare.words import in_words


@dataclass(frozen=True, slots=True)
class Verdict:
    """PASS, WARN or FAIL, and why in one plain sentence."""

    status: Status
    sentence: str


def verdict(sites: Sequence[SiteDrift]) -> Verdict:
    """Return the worst status of all sites, with counts, the first and the worst site."""
    status: Status = max((site.status for site in sites), key=RANK.__getitem__)
    if status == "PASS":
        return Verdict(status, _passed(sites))
    failed = [site for site in sites if site.status == status]
    warned = sum(site.status == "WARN" for site in sites) if status == "FAIL" else 0
    word = "failed" if status == "FAIL" else _suspicious(len(failed))
    also = f" and {warned} {_suspicious(warned)}" if warned else ""
    worst = max(failed, key=lambda site: site.worst.severity)
    first = failed[0]
    sentence = (
        f"{len(failed)} of {len(sites)} sites {word}{also}; the first in depth is "
        f"{place(first)}, the worst {place(worst)}: {worst.headline}."
    )
    return Verdict(status, sentence)


def _suspicious(number: int) -> str:
    return "is suspicious" if number == 1 else "are suspicious"


def place(site: SiteDrift) -> str:
    """Return "layer 3 hidden", with the expert where there is one."""
    expert = f" expert {site.expert}" if site.expert >= 0 else ""
    return f"layer {site.layer} {site.role}{expert}"


def _passed(sites: Sequence[SiteDrift]) -> str:
    unknown = [s for s in sites if all(c.floor is None for c in s.changes)]
    above = [(s, c) for s in sites for c in s.changes if _above_floor(c)]
    if above:
        site, change = max(above, key=lambda pair: pair[1].severity)
        moved = len({s.name for s, _ in above})
        return (
            f"No change of {len(sites)} sites is over its threshold; {moved} differ by more "
            f"than noise, most of all {place(site)}: {in_words(change)}."
        )
    if len(unknown) == len(sites):
        return (
            f"No change of {len(sites)} sites is over its threshold; there are too few folds "
            "to tell it from noise."
        )
    return f"The runs are indistinguishable: nothing at {len(sites)} sites is above its floor."


def _above_floor(change: Change) -> bool:
    noise = max(change.floor or 0.0, change.repeat_floor or 0.0)
    if change.floor is None or change.statistic.startswith("headroom"):
        return False
    return abs(change.value) > noise
