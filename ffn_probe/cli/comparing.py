"""`ffn-probe compare`: the verdict, the worst sites, the report file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from rich.table import Table
from rich.text import Text

from ffn_probe.cli.tables import console, number, plain, table
from ffn_probe.compare import Drift, SiteDrift, compare

_COLUMNS = ("status", "layer", "role", "aspect", "statistic", "value", "threshold", "unit",
            "x floor", "block")  # fmt: skip
_WIDE = 120  # columns; below, a row of numbers would break inside of words
_TITLE = "worst sites, worst first"
_STYLES = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}


def print_drift(
    a: Path,
    b: Path,
    *,
    out: Path | None,
    repeat: Path | None,
    mapping: Path | None,
    thresholds: Mapping[str, float] | None,
    worst: int,
    as_json: bool,
) -> int:
    """Compare, print, write the report when asked; return the exit code."""
    drift = compare(a, b, thresholds=thresholds, mapping=mapping, repeat=repeat)
    if out is not None:  # first: a reader of the output may leave before its end
        from ffn_probe.report import report

        report(drift, to=out)
    if as_json:
        print(drift.to_json())
    else:
        print_worst(drift, worst)
    if out is not None:
        say = console(stderr=as_json)
        say.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)
    return drift.exit_code


def print_worst(drift: Drift, count: int) -> None:
    """Print the verdict sentence, the caveats and the worst sites."""
    screen = console()
    verdict = drift.verdict
    sentence = Text.assemble((verdict.status, _STYLES[verdict.status]), " ", verdict.sentence)
    screen.print(sentence, highlight=False)
    notes = [f"{note.level}: {note.text}" for note in drift.validity]
    for side, sites in (("reference", drift.only_a), ("candidate", drift.only_b)):
        if sites:
            names = ", ".join(site.name for site in sites[:4]) + (", ..." if sites[4:] else "")
            notes.append(f"only in the {side}: {names}")
    for note in notes:
        lines = fill(plain(note), screen.width, initial_indent="  ", subsequent_indent="    ")
        screen.print(lines, highlight=False, markup=False, soft_wrap=True)
    shown = [site for site in drift.worst(count) if site.status != "PASS"]
    if shown:
        screen.print(_worst_table(shown, wide=screen.width >= _WIDE))


def _worst_table(sites: Sequence[SiteDrift], *, wide: bool) -> Table:
    """Return the worst sites with their numbers or, in a narrow window, in words."""
    places = [site.role + (f"#{site.expert}" if site.expert >= 0 else "") for site in sites]
    if not wide:
        rows = [
            (site.status, f"layer {site.layer} {place}", site.headline)
            for site, place in zip(sites, places, strict=True)
        ]
        return table(("status", "site", "what changed most"), rows, title=_TITLE)
    numbers = [
        (
            change.status, str(site.layer), place, change.aspect, change.statistic,
            number(change.value), number(change.threshold), change.unit,
            number(change.times_floor), site.block_b or site.block_a,
        )
        for site, place in zip(sites, places, strict=True)
        for change in (site.worst,)
    ]  # fmt: skip
    right = ("layer", "value", "threshold", "x floor")
    return table(_COLUMNS, numbers, right=right, title=_TITLE)
