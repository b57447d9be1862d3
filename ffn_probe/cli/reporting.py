"""`ffn-probe report`: what runs tell, alone and against each other, as a file or a folder."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ffn_probe.cli.phases import phases
from ffn_probe.cli.tables import plain
from ffn_probe.compare import compare
from ffn_probe.errors import FfnProbeError
from ffn_probe.report.papers import name_of, verdict_of
from ffn_probe.report.parts import Part, count, each_part
from ffn_probe.report.report import check_place, write_parts
from ffn_probe.runs import Run


def write_report(
    paths: Sequence[Path],
    to: Path | None,
    *,
    thresholds: Mapping[str, float] | None,
    mapping: Path | None,
    repeat: Path | None,
    interactive: bool,
    png: bool,
) -> None:
    """Compare, explain or tell; write the report, print the verdicts and its path.

    Raises:
        FfnProbeError: the place cannot be written, an option does not go with the runs, or a
            run cannot be read or compared.
    """
    if to is not None:
        check_place(to, interactive=interactive, png=png)
    runs = [Run.open(path) for path in paths]
    how = partial(compare, thresholds=thresholds, mapping=mapping, repeat=repeat)
    if thresholds or mapping or repeat:
        _expect_two(runs)
    with phases("report", count(runs) + 1) as say:
        parts: list[Part] = []
        for part in each_part(runs, how):
            parts.append(part)
            say("reading and comparing", len(parts), count(runs))
        place = Path(f"{name_of(parts)}.html") if to is None else to
        check_place(place, interactive=interactive, png=png)
        say("writing", 0, None)
        path = write_parts(parts, place, interactive=interactive, png=png)
    for line in _told(parts):
        print(plain(line))
    print(path)


def _expect_two(runs: Sequence[Run]) -> None:
    single = [run for run in runs if run.manifest.kind != "paired"]
    if len(single) < 2:
        raise FfnProbeError(
            "--threshold, --mapping and --repeat are of a comparison, and there is none: give "
            "the runs of a reference and a candidate"
        )


def _told(parts: Sequence[Part]) -> Iterator[str]:
    """Yield the verdict of every part; of several with what it is of."""
    for part in parts:
        status, sentence, sides = verdict_of(part)
        of = f" {' to '.join(filter(None, sides))}:" if len(parts) > 1 else ""
        yield f"{status}{of} {sentence}"
