"""compare: from two runs to a Drift."""

import os
from collections.abc import Mapping

from ffn_probe.anatomy import Site
from ffn_probe.compare.align import Mapped, align
from ffn_probe.compare.config_diff import config_diff
from ffn_probe.compare.drift import Asked, Drift, Side
from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.examine import Setting, examine
from ffn_probe.compare.site_drift import SiteDrift
from ffn_probe.compare.statistic import chosen_thresholds
from ffn_probe.compare.validity import Note, check_kind, few_folds, inputs, validity
from ffn_probe.compare.verdict import verdict
from ffn_probe.runs import Run
from ffn_probe.runs.progress import told

Source = Run | str | os.PathLike[str]


def compare(
    a: Source,
    b: Source,
    *,
    thresholds: Mapping[str, float] | None = None,
    mapping: Mapped | None = None,
    repeat: Source | None = None,
) -> Drift:
    """Return what changed from the reference `a` to the candidate `b`.

    A change counts when it is over a practical threshold and over the noise floor of the
    runs' own folds (and of the repeat, if given). Equal distributions are not equal
    outputs: values may be shuffled between tokens without a trace here.

    Args:
        a: the reference, a Run or its path.
        b: the candidate.
        thresholds: statistic -> threshold in place of the default.
        mapping: block name in a -> block name in b, or a JSON file with it, for blocks
            that layer and name do not bring together.
        repeat: a second run of the reference: what kernels and batching alone change.

    Raises:
        CompareError: a run holds no telemetry, or the runs have nothing in common.
        UnknownName: no statistic or block has a given name.
        RunError: a run cannot be read.
    """
    reference, candidate = _opened(a), _opened(b)
    again = None if repeat is None else _opened(repeat)
    check_kind(*(run for run in (reference, candidate, again) if run is not None))
    limits = chosen_thresholds(thresholds)
    aligned = align(reference, candidate, mapping)
    same = inputs(reference, candidate)
    setting = Setting(limits, same.paired, len(aligned.pairs))
    sites = tuple(
        SiteDrift.of(
            pair.where,
            examine(
                Evidence.of(reference, pair.a),
                Evidence.of(candidate, pair.b),
                role=pair.a[0].role,
                setting=setting,
                repeat=_repeated(again, pair.a),
            ),
        )
        for pair in told(f"comparing {reference.name} and {candidate.name}", aligned.pairs)
    )
    notes = (
        *same.notes,
        *validity(reference, candidate),
        *aligned.notes,
        *_left_over(aligned.only_a, aligned.only_b),
        *few_folds(site.changes[0].folds for site in sites),
    )
    return Drift(
        a=_side(reference),
        b=_side(candidate),
        sites=sites,
        only_a=aligned.only_a,
        only_b=aligned.only_b,
        validity=notes,
        paired=same.paired,
        verdict=verdict(sites),
        config_diff=config_diff(reference, candidate),
        _pairs={pair.where: pair for pair in aligned.pairs},
        _runs=(reference, candidate),
        asked=_asked(thresholds, mapping, again),
    )


def _asked(
    thresholds: Mapping[str, float] | None, mapping: Mapped | None, again: Run | None
) -> Asked:
    pairs = tuple(mapping.items()) if isinstance(mapping, Mapping) else ()
    file = "" if mapping is None or isinstance(mapping, Mapping) else os.fspath(mapping)
    repeat = "" if again is None else again.path
    limits = tuple((name, float(value)) for name, value in (thresholds or {}).items())
    return Asked(limits, repeat, file, pairs)


def _opened(source: Source) -> Run:
    return source if isinstance(source, Run) else Run.open(source)


def _side(run: Run) -> Side:
    return Side(run.name, run.path, run.manifest)


def _repeated(again: Run | None, sites: tuple[Site, ...]) -> Evidence | None:
    """Return the same sites of the repeat, None where it lacks one."""
    if again is None:
        return None
    known = again.load("moments")
    return Evidence.of(again, sites) if all(site in known for site in sites) else None


def _left_over(only_a: tuple[Site, ...], only_b: tuple[Site, ...]) -> tuple[Note, ...]:
    sides = ((len(only_a), "reference"), (len(only_b), "candidate"))
    texts = [f"{count} sites are only in the {side}" for count, side in sides if count]
    return (Note("warn", ", ".join(texts)),) if texts else ()
