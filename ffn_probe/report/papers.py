"""The report of one part or of several, as a Paper."""

from collections.abc import Sequence

from ffn_probe.compare import Drift
from ffn_probe.report.command import rebuilding
from ffn_probe.report.drift_paper import drift_paper
from ffn_probe.report.paired_paper import paired_paper
from ffn_probe.report.paper import Paper
from ffn_probe.report.parts import KINDS, Part, path_of
from ffn_probe.report.several import NAME, several_paper
from ffn_probe.report.telemetry import Telemetry
from ffn_probe.report.telemetry_paper import telemetry_paper

_FEW = 4  # pictures of each of several parts


def name_of(parts: Sequence[Part]) -> str:
    """Return the name of the report's files."""
    return KINDS[type(parts[0])] if len(parts) == 1 else NAME


def paper_of(parts: Sequence[Part], suffix: str = ".html") -> Paper:
    """Return the report of parts; `suffix` is that of the file which the command names."""
    to = name_of(parts) + suffix
    if len(parts) == 1:
        return _alone(parts[0], to)
    papers = [_alone(part, to, _FEW) for part in parts]
    return several_paper(papers, command_of(parts, suffix))


def command_of(parts: Sequence[Part], suffix: str) -> str:
    """Return the command that makes the report again, "" when no command does."""
    paths = [path_of(part) for part in parts]
    to = name_of(parts) + suffix
    drifts = [part for part in parts if isinstance(part, Drift)]
    if not all(paths) or len({drift.a.path for drift in drifts}) > 1:
        return ""
    if len({drift.asked for drift in drifts}) > 1:
        return ""
    runs = list(dict.fromkeys(path for found in paths for path in found))
    return rebuilding(runs, to, drifts[0] if drifts else None)


def _alone(part: Part, to: str, most: int | None = None) -> Paper:
    few = {} if most is None else {"most": most}
    if isinstance(part, Drift):
        return drift_paper(part, to=to, **few)
    if isinstance(part, Telemetry):
        return telemetry_paper(part, to=to, **few)
    return paired_paper(part, to=to)
