"""`ffn-probe record`: run a model over batches, with a progress bar."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ffn_probe.cli.loading import batches_from, load
from ffn_probe.cli.tables import console
from ffn_probe.probes import record
from ffn_probe.runs import Run, RunWriter


def print_recording(  # noqa: PLR0913 - the options of a recording
    name: str,
    *,
    to: Path,
    data: str | None,
    text: Path | None,
    batches: int | None,
    sequences: int,
    length: int,
    random: bool,
    dtype: str | None,
    device: str,
    options: Mapping[str, Any],
) -> None:
    """Record a run and say what it holds; an interrupt keeps what was recorded."""
    RunWriter.check_free(to)
    model, made = load(name, random=random, dtype=dtype, device=device)
    stream, count = batches_from(
        data, text, made, model=name, sequences=sequences, length=length, limit=batches
    )
    try:
        run = record_with_bar(model, stream, count, to, **options)
    except KeyboardInterrupt:
        if to.exists():
            console(stderr=True).print(kept(Run.open(to)), highlight=False, markup=False)
        raise
    out = console()
    out.print(f"recorded {to}: {holds(run)}", highlight=False, markup=False)
    for problem in run.problems:
        out.print(f"  note: {problem}", highlight=False, markup=False)


def record_with_bar(
    model: Any, stream: Iterable[Any], count: int | None, to: Path, **options: Any
) -> Run:
    """Record with a progress bar on stderr: batches, rate and time left."""
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(f"recording {to.name}", total=count, rate="")
        return record(model, _counted(stream, bar, task), to=to, **options)


def _counted(stream: Iterable[Any], bar: Progress, task: Any) -> Iterator[Any]:
    for batch in stream:
        yield batch
        bar.advance(task)
        speed = bar.tasks[0].speed
        bar.update(task, rate=f"{speed:.1f} batches/s" if speed else "")


def holds(run: Run) -> str:
    """Return what a run holds in a line."""
    made = run.manifest
    return (
        f"{made.steps} batches, {made.tokens:,} tokens, {len(run.blocks)} blocks, "
        f"{len(run.sites)} sites, {made.windows} windows"
    )


def kept(run: Run) -> str:
    """Return what an interrupted recording left."""
    state = "closed" if run.closed else "not closed"
    return f"interrupted; kept in {run.path} ({state}): {holds(run)}"
