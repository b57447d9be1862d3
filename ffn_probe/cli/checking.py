"""`ffn-probe check`: whether a candidate stays within a budget; the exit code says it."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

from rich.table import Table
from rich.text import Text

from ffn_probe.budgets import Budget, Check, Judgement, judge, to_junit
from ffn_probe.cli.tables import console, number, plain, table
from ffn_probe.errors import FfnProbeError
from ffn_probe.report.budget_markdown import to_markdown
from ffn_probe.report.paired_words import named
from ffn_probe.report.report import check_folder, write_text
from ffn_probe.runs import Run

_WIDE = 120
_ROWS = 20


def print_check(
    run: Run,
    budget: Budget,
    *,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
    seconds: float | None = None,
) -> int:
    """Judge a paired run, write and print the judgement; return the exit code."""
    judgement = judge(budget, run)
    names = _names(run)
    if junit is not None:
        write_text(junit, to_junit(judgement, pair=" to ".join(names), seconds=seconds))
    if markdown is not None:
        write_text(markdown, to_markdown(judgement, pair=names))
    if as_json:
        print(judgement.to_json())
    else:
        _print(judgement, run)
    say = console(stderr=as_json)
    for path in (junit, markdown):
        if path is not None:
            say.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return judgement.exit_code


def check_models(
    pair: Any,
    *,
    budget: Path,
    to: Path | None,
    autopsy: bool,
    noise: int,
    options: Any,
    **written: Any,
) -> int:
    """Replay two models and judge them; the run is kept only where `to` says so."""
    from ffn_probe.cli.replaying import loaded, replay_with_bar
    from ffn_probe.replay import Options
    from ffn_probe.runs import RunWriter

    limits = Budget.read(budget)  # first: a mistake in it costs no replay
    for path in (written["junit"], written["markdown"]):
        if path is not None:
            check_folder(path)
    if to is not None:
        RunWriter.check_free(to)
    with _folder(to) as folder:
        start = time.monotonic()
        measured = Options(noise=noise, patch=0)
        run = replay_with_bar(
            loaded(pair), folder, autopsy=autopsy, options=measured, **options
        )
        seconds = time.monotonic() - start
        return print_check(run, limits, seconds=seconds, **written)


def check_run(path: Path, *, budget: Path, **written: Any) -> int:
    """Judge a paired run that was made before."""
    return print_check(Run.open(path), Budget.read(budget), **written)


@contextmanager
def _folder(to: Path | None) -> Iterator[Path]:
    """Yield where the run goes: `to`, or a folder that is removed afterwards."""
    if to is not None:
        yield to
        return
    with tempfile.TemporaryDirectory(prefix="ffn-probe-") as place:
        yield Path(place) / "pair"


def _names(run: Run) -> tuple[str, str]:
    names = run.manifest.paired.get("names")
    if isinstance(names, Sequence) and len(names) == 2:
        return str(names[0]), str(names[1])
    return "reference", "candidate"


def _print(judgement: Judgement, run: Run) -> None:
    screen = console()
    word = "\u2713 PASS" if judgement.passed else "\u2715 FAIL"
    shown = Text(fill(plain(f"{word} {judgement.sentence}"), screen.width))
    shown.stylize("green" if judgement.passed else "bold red", 0, len(word))
    screen.print(shown, highlight=False, soft_wrap=True)
    for problem in run.problems:
        line = fill(plain(f"note: {problem}"), screen.width, initial_indent="  ",
                    subsequent_indent="    ")  # fmt: skip
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    screen.print(_limits(judgement))
    if judgement.failed:
        screen.print(_failed(judgement.failed, wide=screen.width >= _WIDE))
        verdict = run.explain().verdict
        screen.print(fill(plain(verdict), screen.width), highlight=False, markup=False,
                     soft_wrap=True)  # fmt: skip


def _limits(judgement: Judgement) -> Table:
    rows = []
    for limit, checks in judgement.by_limit.items():
        failed = [check for check in checks if not check.passed]
        worst = max(failed or checks, key=lambda check: check.excess)
        rows.append((
            "\u2715" if failed else "\u2713", limit.text, f"{len(failed)}/{len(checks)}",
            f"{number(worst.value)} {worst.unit}".strip(), worst.place,
        ))  # fmt: skip
    head = ("", "limit", "failed", "worst", "where")
    return table(head, rows, right=("failed", "worst"), title="limits")


def _failed(checks: Sequence[Check], *, wide: bool) -> Table:
    shown = checks[:_ROWS]
    title = f"what fails ({len(checks)})" if len(checks) <= _ROWS else (
        f"the first {_ROWS} of {len(checks)} that fail"
    )  # fmt: skip
    if not wide:
        rows = [(check.place, check.limit.measure, check.reason) for check in shown]
        return table(("where", "measure", "why"), rows, title=title)
    full = [(c.place, c.limit.text, c.reason, named(c.block)) for c in shown]
    return table(("where", "limit", "why", "block"), full, title=title)


def is_run(path: str) -> bool:
    """Return whether a name is the folder of a run."""
    return (Path(path) / "run.json").is_file()


def no_candidate(name: str) -> FfnProbeError:
    """Return the error for one name that is no run."""
    return FfnProbeError(
        f"{name} is no run: give the folder of a paired run, or two models (a reference and "
        "a candidate, or --swap)"
    )
