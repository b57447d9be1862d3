"""`ffn-probe compare` and `report`: the verdict, the worst sites, the report file."""

from collections.abc import Mapping
from pathlib import Path

from ffn_probe.cli.tables import console, number, table
from ffn_probe.compare import Drift, compare

_COLUMNS = ("status", "layer", "role", "aspect", "statistic", "value", "threshold", "unit",
            "x floor", "block")  # fmt: skip
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
    screen.print(f"[{_STYLES[verdict.status]}]{verdict.status}[/] ", end="", highlight=False)
    screen.print(verdict.sentence, highlight=False, markup=False)
    for note in drift.validity:
        screen.print(f"  {note.level}: {note.text}", highlight=False, markup=False)
    for side, sites in (("reference", drift.only_a), ("candidate", drift.only_b)):
        if sites:
            names = ", ".join(site.name for site in sites[:4]) + (", ..." if sites[4:] else "")
            screen.print(f"  only in the {side}: {len(sites)} sites ({names})", highlight=False)
    rows = []
    for site in drift.worst(count):
        change = site.worst
        if change.status == "PASS":
            continue
        role = site.role + (f"#{site.expert}" if site.expert >= 0 else "")
        rows.append((
            change.status, str(site.layer), role, change.aspect, change.statistic,
            number(change.value), number(change.threshold), change.unit,
            number(change.times_floor), site.block_b or site.block_a,
        ))  # fmt: skip
    if rows:
        right = ("layer", "value", "threshold", "x floor")
        screen.print(table(_COLUMNS, rows, right=right, title="worst sites, worst first"))


def write_report(a: Path, b: Path, to: Path) -> None:
    """Compare and write the report; print its path and the verdict."""
    from ffn_probe.report import report

    drift = compare(a, b)
    path = report(drift, to=to)
    print(f"{drift.verdict.status} {drift.verdict.sentence}")
    print(path)
