"""Autopsy: which bug makes a candidate's feed-forward blocks differ from the reference's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import pandas as pd
import torch
from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.attribution.attribution import Hypothesis
from ffn_probe.discover.discover import discover, scan
from ffn_probe.errors import ExampleError, FfnProbeError, ModelError
from ffn_probe.probes.attach import chosen_blocks
from ffn_probe.replay.autopsy.bugs import Case
from ffn_probe.replay.autopsy.capture import Rows, captured, running
from ffn_probe.replay.autopsy.cases import case_of
from ffn_probe.replay.autopsy.examine import examined
from ffn_probe.replay.autopsy.finding import Finding
from ffn_probe.replay.autopsy.mixtures import judged_mixture
from ffn_probe.replay.autopsy.pairing import Pair, paired
from ffn_probe.replay.autopsy.residual import judged_layer
from ffn_probe.replay.autopsy.streams import Stream, streams
from ffn_probe.replay.parts import Parts, parts_of
from ffn_probe.runs import WHOLE

NO_DIFFERENCE = "no difference above the floor"


@dataclass(frozen=True, slots=True)
class Autopsy:
    """What an autopsy found.

    `findings` holds one value a stage of a block, in the order of the blocks; `unpaired` the
    reference's blocks that could not be judged, with the reason; `notes` what else to know.
    """

    findings: tuple[Finding, ...]
    unpaired: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The bugs that explain each stage of each block, and the nearest that do not."""
        return tuple(h for finding in self.findings for h in finding.hypotheses)

    @property
    def bugs(self) -> tuple[Finding, ...]:
        """The findings that someone should look at: named bugs and what is unexplained."""
        return tuple(f for f in self.findings if f.status in {"bug", "unexplained"})

    @property
    def excluded(self) -> tuple[tuple[str, float], ...]:
        """What was tried and explains nothing: "block: bug" and the dB it leaves."""
        return tuple(
            (f"{f.block}: {name}", after) for f in self.findings for name, after in f.excluded
        )

    @property
    def verdict(self) -> str:
        """What was found, in a few sentences."""
        told = [f.sentence for f in self.findings if f.status != "floor"]
        if not self.findings:
            told = ["no block could be judged"]
        elif not told:
            floors = [f.floor_db for f in self.findings]
            told = [f"{NO_DIFFERENCE} ({min(floors):.0f} dB) in {self._count}."]
        elif not self.bugs:
            told.insert(0, f"{NO_DIFFERENCE} in {self._count}.")
        left = [f"Not judged: {name} ({reason})." for name, reason in self.unpaired[:3]]
        more = [f"And {len(self.unpaired) - 3} more."] if len(self.unpaired) > 3 else []
        return " ".join([*told, *left, *more])

    @property
    def _count(self) -> str:
        count = len({f.block for f in self.findings})
        return f"{count} block" + ("s" if count != 1 else "")

    def table(self) -> pd.DataFrame:
        """Return one row a hypothesis."""
        columns = list(Hypothesis.__dataclass_fields__)
        return pd.DataFrame([asdict(h) for h in self.hypotheses], columns=columns)

    def rows(self) -> tuple[dict[str, Any], ...]:
        """Return the rows of a paired run's table of hypotheses."""
        return tuple(
            _row(finding, rank, hypothesis)
            for finding in self.findings
            for rank, hypothesis in enumerate(finding.hypotheses)
        )


def _row(finding: Finding, rank: int, hypothesis: Hypothesis) -> dict[str, Any]:
    data = asdict(hypothesis)
    data["hypothesis"] = data.pop("name")
    expert = finding.experts[0] if finding.experts else -1
    keys = {"window": 0, "fold": WHOLE, "role": hypothesis.stage, "expert": expert}
    return {**data, **keys, "rank": rank, "dp": 0, "tp": 0, "pp": 0, "ep": 0}


def autopsy(
    reference: nn.Module,
    candidate: nn.Module,
    batches: Iterable[Any],
    *,
    example: Any = None,
    found: Sequence[Block] | None = None,
    found_candidate: Sequence[Block] | None = None,
    blocks: str | Iterable[str | int] | None = None,
    mapping: Mapping[str, str] | None = None,
    rows: int = 1024,
) -> Autopsy:
    """Return which bug, if any, makes each block of the candidate differ.

    Every block of the candidate is run on the reference's residual stream, and every known bug,
    applied to the reference's block, predicts what that gives.

    Args:
        reference: the model that is right.
        candidate: the same model after a port, a refactor, a swap or a change of dtype.
        batches: what both are run on: mappings, tuples or tensors.
        example: one batch to find the blocks by (default: the first of `batches`).
        found: the reference's blocks, when `discover` was already run.
        found_candidate: the candidate's.
        blocks: globs of names or layers of the reference's blocks to judge (default: all).
        mapping: reference block -> candidate block or module path, where names differ.
        rows: rows (tokens) of each block to judge by.

    Raises:
        ModelError: the reference has no FFN, or the models cannot be run alike.
        UnknownName: `blocks` or `mapping` names what is not there.
        ExampleError: there are no batches, or a model rejected one.
    """
    example, batches = _first(batches, example)
    known = tuple(found) if found is not None else discover(reference, example)
    other = _seen(candidate, example) if found_candidate is None else tuple(found_candidate)
    wanted = chosen_blocks(known, blocks, allow_flagged=True)
    pairs, missing = paired(wanted, other, candidate, mapping)
    mixed = [pair for pair in pairs if pair.reference.experts]
    pairs, silent = running(tuple(p for p in pairs if p not in mixed), candidate, example)
    seen = captured(reference, candidate, batches, pairs, rows=rows) if pairs else {}
    around = streams(reference, candidate, example, pairs, rows) if pairs else {}
    healthy, unread = _healthy(reference, known)
    findings: list[Finding] = []
    unpaired = [(b.name, reason) for b, reason in (*missing, *silent)]
    unpaired += [(p.reference.name, unread[p.reference.name]) for p in pairs if _is(p, unread)]
    for pair in pairs:
        name = pair.reference.name
        if name in healthy:
            case = case_of(pair, healthy, reference, candidate)
            findings += _dense(case, pair, seen[name], around.get(name))
    for pair in mixed:
        try:
            findings += judged_mixture(pair, reference, candidate, example)
        except ModelError as error:
            unpaired.append((pair.reference.name, str(error)))
    findings.sort(key=lambda f: f.layer)
    return Autopsy(tuple(findings), tuple(unpaired))


def _first(batches: Iterable[Any], example: Any) -> tuple[Any, Iterable[Any]]:
    """Return what to find the blocks by, and the batches, the first of them included."""
    if isinstance(batches, Sequence) and batches:
        return batches[0] if example is None else example, batches
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise ExampleError("there are no batches; give at least one to run both models on")
    return first if example is None else example, chain([first], rest)


def _is(pair: Pair, unread: Mapping[str, str]) -> bool:
    return pair.reference.name in unread


def _dense(
    case: Case, pair: Pair, rows: Rows, around: tuple[Stream, Stream] | None
) -> list[Finding]:
    """Return the findings of a dense block and of the layer around it."""
    with torch.no_grad():
        found = examined(case, pair, rows)
        return found if around is None else [*found, *judged_layer(case, *around)]


def _seen(candidate: nn.Module, example: Any) -> tuple[Block, ...]:
    """Return the candidate's blocks; none where discovery cannot tell."""
    try:
        return scan(candidate, example).blocks
    except FfnProbeError:
        return ()


def _healthy(
    reference: nn.Module, found: Sequence[Block]
) -> tuple[dict[str, Parts], dict[str, str]]:
    """Return the reference's dense blocks as numbers, and why some are not."""
    read: dict[str, Parts] = {}
    unread: dict[str, str] = {}
    for block in found:
        if block.experts:
            continue
        try:
            read[block.name] = parts_of(reference, block)
        except FfnProbeError as error:
            unread[block.name] = str(error)
    return read, unread


__all__ = ["NO_DIFFERENCE", "Autopsy", "Finding", "autopsy"]
