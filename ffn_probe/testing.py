"""Assert in a test that a candidate does not drift from its reference. Needs no pytest.

from ffn_probe.testing import assert_no_drift

def test_the_port_is_faithful():
    assert_no_drift(reference, port, batches, budget={"out.sqnr_db": ">= 40"})
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ffn_probe.attribution import Attribution
from ffn_probe.budgets import Budget, Judgement, judge
from ffn_probe.compare.align import Mapped
from ffn_probe.replay import Options, replay
from ffn_probe.report import report as write_report
from ffn_probe.report.report import check_place
from ffn_probe.runs import Run
from ffn_probe.swaps import Swap

__all__ = ["DriftError", "assert_no_drift"]

_LINES = 12  # failing sites that the message names

Limits = Budget | str | os.PathLike[str] | Mapping[str, object]
"""A budget, the path of a TOML file, or what such a file holds."""


class DriftError(AssertionError):
    """The candidate drifted; `attribution` says why, `judgement` which limits it broke.

    `judgement` is None when no budget was given.
    """

    def __init__(
        self, message: str, attribution: Attribution, judgement: Judgement | None
    ) -> None:
        super().__init__(message)
        self.attribution = attribution
        self.judgement = judgement


def assert_no_drift(  # noqa: PLR0913 - the options of a replay
    reference: nn.Module,
    candidate: nn.Module | None,
    batches: Iterable[Any],
    *,
    budget: Limits | None = None,
    swap: Swap | str | None = None,
    blocks: str | Iterable[str | int] | None = None,
    mapping: Mapped | None = None,
    autopsy: bool = True,
    to: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
) -> Attribution:
    """Replay two models on the same batches and raise when the candidate drifts.

    Args:
        reference: the model that is right.
        candidate: the model that is judged; None with `swap`.
        batches: inputs, as `record` takes them.
        budget: the limits; None: nothing at all may be above the noise floor.
        swap: made of a copy of the reference, when there is no candidate.
        blocks: which blocks of the reference: names, globs or layers.
        mapping: block of the reference -> block of the candidate, over the alignment.
        autopsy: look for the bug, so that the message names it.
        to: keep the paired run in this folder; None: it is removed.
        report: write the story there (.html, .md, .json or a folder) when it drifts.

    Returns:
        What the pair explains, when the candidate does not drift.

    Raises:
        DriftError: an AssertionError that says what is over the budget, where and why.
        FfnProbeError: the budget means nothing, or the models cannot be replayed.
    """
    __tracebackhide__ = True  # pytest shows the line of the test, not these
    limits = None if budget is None else Budget.of(budget)
    if report is not None:
        check_place(report)
    made = Swap.parse(swap) if isinstance(swap, str) else swap
    with _folder(to) as folder:
        run = replay(
            reference, candidate, batches, to=folder, swap=made, blocks=blocks,
            mapping=mapping, options=Options(patch=0), autopsy=autopsy,
        )  # fmt: skip
        told = run.explain()
        judgement = None if limits is None else judge(limits, run)
        drifted = not _alike(told) if judgement is None else not judgement.passed
        if drifted:
            written = None if report is None else write_report(run, to=report)
            kept = None if to is None else run
            raise DriftError(_message(told, judgement, written, kept), told, judgement)
    return told


@contextmanager
def _folder(to: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Yield where the run goes: `to`, or a folder that is removed afterwards."""
    if to is not None:
        yield Path(to)
        return
    with tempfile.TemporaryDirectory(prefix="ffn-probe-") as place:
        yield Path(place) / "pair"


def _alike(told: Attribution) -> bool:
    """Return whether something was compared, and nothing of it is above the floor."""
    compared = [block for block in told.blocks if block.status != "unpaired"]
    return told.status == "indistinguishable" and bool(compared)


def _message(
    told: Attribution, judgement: Judgement | None, written: Path | None, kept: Run | None
) -> str:
    lines = ["the candidate drifts from the reference: nothing may be above the noise floor"]
    if judgement is not None:
        lines = [f"the candidate drifts from the reference. {judgement.sentence}"]
        failed = judgement.failed
        lines += [
            f"  {check.place} ({check.block or 'logits'}), {check.limit.text}: {check.reason}"
            for check in failed[:_LINES]
        ]
        if len(failed) > _LINES:
            lines.append(f"  and {len(failed) - _LINES} more")
    lines.append(f"{told.status}: {told.verdict}")
    if written is not None:
        lines.append(f"report: {written}")
    if kept is not None:
        lines.append(f"run: {kept.path}")
    return "\n".join(lines)
