"""What can be reported, in parts: drifts, paired runs, runs alone, or a list of them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeGuard

from ffn_probe.attribution.attribution import Attribution
from ffn_probe.compare import Drift, compare
from ffn_probe.errors import FfnProbeError
from ffn_probe.report.paired import Story
from ffn_probe.report.telemetry import Telemetry
from ffn_probe.runs import Run

One = Drift | Run | Attribution | str | os.PathLike[str]
Told = One | Sequence[One]
"""A comparison, a run (of one model, or paired), what a paired one explains, or several.

A path stands for the run there.
"""

Part = Drift | Story | Telemetry

Compare = Callable[[Run, Run], Drift]


def parts_of(told: Told, how: Compare = compare) -> tuple[Part, ...]:
    """Return the parts of a report.

    Of the runs of one model the first is the reference, with which `how` compares each
    other; a lone one is told by itself. What else there is stands for itself, where it stands
    in the list.

    Raises:
        FfnProbeError: there is nothing to tell, or a run is of another kind.
        CompareError: two runs cannot be compared.
        RunError: a run cannot be read.
    """
    found = tuple(each_part(told, how))
    if not found:
        raise FfnProbeError("nothing to report: give a drift, a run, or several of them")
    return found


def each_part(told: Told, how: Compare = compare) -> Iterator[Part]:
    """Yield the parts of a report one by one, as `parts_of` returns them."""
    listed = [_opened(one) for one in _listed(told)]
    alone = sum(map(_single, listed))
    reference: Run | None = None
    for one in listed:
        if isinstance(one, Drift):
            yield one
        elif not _single(one):
            yield Story.of(one)
        elif alone == 1:
            yield Telemetry.of(one)
        elif reference is None:
            reference = one
        else:
            yield how(reference, one)


def count(told: Told) -> int:
    """Return how many parts there will be."""
    listed = [_opened(one) for one in _listed(told)]
    return len(listed) - (sum(map(_single, listed)) > 1)


def _listed(told: Told) -> Sequence[One]:
    if isinstance(told, Drift | Run | Attribution | str | os.PathLike):
        return [told]
    return told


def _single(one: Drift | Run | Attribution) -> TypeGuard[Run]:
    """Return whether it is a run of one model."""
    return isinstance(one, Run) and one.manifest.kind != "paired"


def _opened(one: One) -> Drift | Run | Attribution:
    return Run.open(one) if isinstance(one, str | os.PathLike) else one


def path_of(part: Part) -> tuple[str, ...]:
    """Return the folders a part was made from; () for what has none."""
    if isinstance(part, Drift):
        return (part.a.path, part.b.path)
    if isinstance(part, Telemetry):
        return (part.run.path,)
    return (part.path,) if part.path else ()


def made_of(parts: Sequence[Part]) -> str:
    """Return when the newest of the runs was recorded, "" when that is not known."""
    made = [""]
    for part in parts:
        if isinstance(part, Drift):
            made += [part.a.manifest.created, part.b.manifest.created]
        elif isinstance(part, Telemetry):
            made.append(part.run.manifest.created)
        else:
            made += [text for key, text, _ in part.made if key == "recorded"]
    return max(made)


def sides_of(part: Part) -> tuple[str, str]:
    """Return the names of the reference and the candidate; of one run its name and ""."""
    if isinstance(part, Drift):
        return part.a.name, part.b.name
    if isinstance(part, Telemetry):
        return part.run.name, ""
    return part.attribution.reference, part.attribution.candidate


KINDS: Mapping[type, str] = {Drift: "drift", Story: "attribution", Telemetry: "telemetry"}
"""What a part is called, in file names and in JSON."""
