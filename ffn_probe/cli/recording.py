"""`ffn-probe record`: run a model over batches, with a progress bar."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ffn_probe.cli.loading import batches_from, load, vocabulary_of
from ffn_probe.cli.progress import progress
from ffn_probe.cli.stopping import stopping
from ffn_probe.cli.tables import console, counted
from ffn_probe.errors import FfnProbeError, RunError
from ffn_probe.probes import record
from ffn_probe.runs import Run, RunWriter


def print_recording(  # noqa: PLR0913 - the options of a recording
    name: str,
    *,
    to: Path,
    data: str | None,
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
        data, made, model=name, sequences=sequences, length=length, limit=batches
    )
    texts = vocabulary_of(name, data)
    run = record_with_bar(model, stream, count, to, vocabulary=texts, **options)
    out = console()
    out.print(f"recorded {to}: {holds(run)}", highlight=False, markup=False)
    for problem in run.problems:
        out.print(f"  note: {problem}", highlight=False, markup=False)


def record_with_bar(
    model: Any, stream: Iterable[Any], count: int | None, to: Path, **options: Any
) -> Run:
    """Record with a progress bar on stderr: batches, rate and time left.

    Raises:
        FfnProbeError, KeyboardInterrupt: as `record`; a note says what was kept on disk.
    """
    RunWriter.check_free(to)
    screen = console(stderr=True)
    try:
        with (
            progress(f"recording {to.name}", count) as advance,
            stopping(screen.print) as check,
        ):
            return record(model, _counted(stream, advance, check), to=to, **options)
    except KeyboardInterrupt as stop:
        stop.add_note(kept(to) or f"nothing was kept in {to}")
        raise
    except FfnProbeError as error:
        if left := kept(to):
            error.add_note(left)
        raise


def _counted(
    stream: Iterable[Any], advance: Callable[[], None], check: Callable[[], None]
) -> Iterator[Any]:
    first = True
    for batch in stream:
        if not first:
            advance()
            check()
        first = False
        yield batch
    if not first:
        advance()


def holds(run: Run) -> str:
    """Return what a run holds in a line."""
    made = run.manifest
    parts = {
        "batch": made.steps, "token": made.tokens, "block": len(run.blocks),
        "site": len(run.sites), "window": made.windows,
    }  # fmt: skip
    return ", ".join(counted(number, noun) for noun, number in parts.items())


def kept(to: Path) -> str:
    """Return what a recording that ended early left on disk, "" for nothing."""
    try:
        run = Run.open(to)
        state = "a closed run" if run.closed else "not closed: the open window is lost"
        return f"kept in {to} ({state}): {holds(run)}"
    except RunError:
        return ""
