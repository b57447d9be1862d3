"""The report of one part or of several, as a Paper."""

from collections.abc import Sequence

from ffn_probe.compare import Drift
from ffn_probe.report.command import rebuilding
from ffn_probe.report.drift_paper import drift_paper
from ffn_probe.report.paired_paper import paired_paper
from ffn_probe.report.paper import Paper
from ffn_probe.report.parts import KINDS, Part, path_of, sides_of
from ffn_probe.report.several import NAME, several_paper
from ffn_probe.report.telemetry import Telemetry
from ffn_probe.report.telemetry_paper import telemetry_paper

_FEW = 4  # pictures of each of several parts


def name_of(parts: Sequence[Part]) -> str:
    """Return the name of the report's files."""
    return KINDS[type(parts[0])] if len(parts) == 1 else NAME


def paper_of(
    parts: Sequence[Part], suffix: str = ".html", *, interactive: bool = False
) -> Paper:
    """Return the report of parts; `suffix` is that of the file which the command names."""
    to = _target(parts, suffix, interactive=interactive)
    if len(parts) == 1:
        return _alone(parts[0], to)
    papers = [_alone(part, to, _FEW) for part in parts]
    return several_paper(papers, command_of(parts, suffix, interactive=interactive))


def verdict_of(part: Part) -> tuple[str, str, tuple[str, str]]:
    """Return the status of a part, why in words, and the names of its sides."""
    sides = sides_of(part)
    if isinstance(part, Drift):
        return part.verdict.status, part.verdict.sentence, sides
    if isinstance(part, Telemetry):
        return part.banner.word, " ".join(part.banner.sentences), sides
    return part.attribution.status, part.attribution.verdict, sides


def command_of(parts: Sequence[Part], suffix: str, *, interactive: bool = False) -> str:
    """Return the command that makes the report again, "" when no command does.

    A command compares with one reference, in one way, and tells a lone run only beside none
    that it would compare it with.
    """
    drifts = [part for part in parts if isinstance(part, Drift)]
    lone = sum(isinstance(part, Telemetry) for part in parts)
    asked = {(drift.a.path, drift.asked) for drift in drifts}
    if not all(map(path_of, parts)) or len(asked) + lone > 1:
        return ""
    runs: list[str] = []
    for part in parts:
        again = isinstance(part, Drift) and part is not drifts[0]
        runs += path_of(part)[again:]
    to = _target(parts, suffix, interactive=interactive)
    return rebuilding(runs, to, drifts[0] if drifts else None)


def _target(parts: Sequence[Part], suffix: str, *, interactive: bool) -> str:
    return name_of(parts) + suffix + (" --interactive" if interactive else "")


def _alone(part: Part, to: str, most: int | None = None) -> Paper:
    few = {} if most is None else {"most": most}
    if isinstance(part, Drift):
        return drift_paper(part, to=to, **few)
    if isinstance(part, Telemetry):
        return telemetry_paper(part, to=to, **few)
    return paired_paper(part, to=to)
