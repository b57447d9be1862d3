"""Compare two runs: what changed, against a practical threshold and the runs' own noise."""

from ffn_probe.compare.change import ASPECTS, Change, Status
from ffn_probe.compare.compare import compare
from ffn_probe.compare.drift import Asked, Drift, Side
from ffn_probe.compare.site_drift import SiteDrift
from ffn_probe.compare.statistic import STATISTICS, Statistic
from ffn_probe.compare.validity import Note
from ffn_probe.compare.verdict import Verdict

__all__ = [
    "ASPECTS",
    "STATISTICS",
    "Asked",
    "Change",
    "Drift",
    "Note",
    "Side",
    "SiteDrift",
    "Statistic",
    "Status",
    "Verdict",
    "compare",
]
