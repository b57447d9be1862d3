"""`replay`: two models on the same inputs, into one paired run.

Both see every batch; per site and view the paired sums are kept, never the tensors. Neither
model is changed: outputs, modes, buffers, hooks and random generators are as before.
"""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.compare.align import Mapped
from ffn_probe.discover import Scan, scan
from ffn_probe.discover.calling import undisturbed
from ffn_probe.errors import CompareError, ExampleError, FfnProbeError, ModelError
from ffn_probe.probes.attach import check_watchable, chosen_blocks
from ffn_probe.probes.description import described, versions
from ffn_probe.probes.inputs import input_hash
from ffn_probe.replay.analyses import Analyses
from ffn_probe.replay.apart import trained_apart
from ffn_probe.replay.factors import factorial_effects
from ffn_probe.replay.floors import Floor, floor_of
from ffn_probe.replay.outputs import OutputSums, Scoring, scoring_of
from ffn_probe.replay.pairing import (
    BlockPair,
    Pairing,
    borrowed,
    named_pairs,
    paired,
    whole_mixture,
)
from ffn_probe.replay.passes import groups, run_model
from ffn_probe.replay.patches import patch_effects
from ffn_probe.replay.tokens import Tokens
from ffn_probe.replay.views import Views
from ffn_probe.runs import Manifest, Run, RunWriter

Progress = Callable[[str, int, int | None], None]
"""Is told what is done, how much of it, and of how much in all (None: not known)."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a replay does beside the views; `batches` are those of the analyses.

    `noise` is how many batches the floor is measured on, `patch` how many the patches run on
    (0: none), `rows` the rows a batch and block that Shapley shares are of, `memory` the bytes of
    captured tensors (blocks are replayed in groups that fit, one block at least).
    """

    noise: int = 4
    patch: int = 2
    rows: int = 512
    memory: int = 1 << 30
    keep_mode: bool = False


def replay(  # noqa: PLR0913 - the options of a replay
    reference: nn.Module,
    candidate: nn.Module | None,
    batches: Iterable[Any],
    *,
    to: str | os.PathLike[str],
    swap: Any = None,
    found: Scan | Sequence[Block] | None = None,
    found_candidate: Scan | Sequence[Block] | None = None,
    blocks: str | Iterable[str | int] | None = None,
    mapping: Mapped | None = None,
    options: Options = Options(),
    autopsy: bool = False,
    calibration: Sequence[Any] | None = None,
    names: tuple[str, str] = ("reference", "candidate"),
    tags: dict[str, str] | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Run:
    """Run two models on the same batches and return the paired run.

    Args:
        reference: the model that is right.
        candidate: the model that is judged. None with `swap`: a copy of the reference with the
            swap applied. Both may be the same object: then everything is equal.
        batches: as `record`; each goes to both models, on their own devices.
        to: the folder of the run, which must not exist.
        swap: what was swapped (stored in the run; with norm and activation the 2 x 2 of both is
            measured), applied to a copy of the reference when there is no candidate.
        found: what `scan` returned for the reference, else the first batch shows it.
        found_candidate: the same for the candidate.
        blocks: which blocks of the reference, as `attach`.
        mapping: block name of the reference -> of the candidate, over the alignment.
        options: how much is measured, see Options.
        autopsy: also look for the bug, and store what was found.
        calibration: batches for a swap that needs some; None: the first four.
        names: what the models are called.
        tags: free text, stored in the run.
        command: the command line, stored in the run.
        progress: called as things go on.

    Raises:
        ExampleError: there were no batches, or a model rejected one (what was replayed before
            stays, in a closed run).
        ModelError: a model has no FFN, or cannot be read.
        CompareError: no block of one model meets one of the other.
        RunError: the folder exists, or cannot be written.

    An interrupt closes the run with what was replayed, and is raised again.
    """
    RunWriter.check_free(to)
    check_watchable(reference)
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ExampleError("there are no batches to replay: the iterable is empty")
    kept = [first]
    wanted = max(options.patch, 4 if swap is not None and candidate is None else 1)
    kept += [b for _, b in zip(range(wanted - 1), stream, strict=False)]
    judged = _candidate(reference, candidate, swap, calibration or kept[:4], first)
    check_watchable(judged)
    with _as_given(reference, judged, keep_mode=options.keep_mode):
        pairing, blocks_b = _pairing(
            reference, judged, first, found, found_candidate, blocks, mapping
        )
        reason = trained_apart(reference, judged, first, pairing.pairs)
        work = _Replaying(reference, judged, pairing, options, progress, reason)
        manifest = _manifest(work, blocks_b, names, swap, tags or {}, command)
        with RunWriter.create(to, manifest) as writer:
            work.run(writer, chain(kept, stream), kept[: options.patch], swap, autopsy=autopsy)
    return Run.open(Path(to))


# ---- the models -------------------------------------------------------------------------


def _candidate(
    reference: nn.Module,
    candidate: nn.Module | None,
    swap: Any,
    calibration: Sequence[Any],
    example: Any,
) -> nn.Module:
    if candidate is not None:
        return candidate
    if swap is None:
        raise FfnProbeError("replay needs a candidate, or swap= to make one of the reference")
    from ffn_probe.swaps import apply

    judged = copy.deepcopy(reference)
    apply(judged, swap, example=example, calibration=list(calibration))
    return judged


@contextmanager
def _as_given(reference: nn.Module, candidate: nn.Module, *, keep_mode: bool) -> Iterator[None]:
    """Keep both models undisturbed; evaluation mode unless `keep_mode`."""
    modes = [(m, m.training) for model in (reference, candidate) for m in model.modules()]
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(undisturbed(reference))
        stack.enter_context(undisturbed(candidate))
        if keep_mode:
            for module, training in modes:
                module.training = training
        yield


def _pairing(
    reference: nn.Module,
    candidate: nn.Module,
    example: Any,
    found: Scan | Sequence[Block] | None,
    found_candidate: Scan | Sequence[Block] | None,
    wanted: str | Iterable[str | int] | None,
    mapping: Mapped | None,
) -> tuple[Pairing, tuple[Block, ...]]:
    known = _blocks(reference, example, found)
    if not known:
        raise ModelError(f"no FFN in the reference ({type(reference).__name__}); see scan")
    mine = chosen_blocks(known, wanted, allow_flagged=True)
    same = candidate is reference and found_candidate is None
    theirs = known if same else _blocks(candidate, example, found_candidate)
    theirs = borrowed(known, theirs, candidate)
    mine = tuple(whole_mixture(b, reference) for b in mine)
    theirs = tuple(whole_mixture(b, candidate) for b in theirs)
    if wanted is not None:
        layers = {block.layer for block in mine}
        theirs = tuple(b for b in theirs if b.layer in layers)
    pairing = paired(mine, theirs, mapping)
    if not pairing.pairs:
        raise CompareError(
            f"no block of the candidate ({type(candidate).__name__}, {len(theirs)} blocks) meets "
            f"one of the reference ({len(mine)}). Give mapping={{its name: the candidate's}}."
        )
    return pairing, theirs


def _blocks(
    model: nn.Module, example: Any, found: Scan | Sequence[Block] | None
) -> tuple[Block, ...]:
    if isinstance(found, Scan):
        return found.blocks
    if found is not None:
        return tuple(found)
    from ffn_probe.probes.record import moved

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return scan(model, moved(example, device)).blocks


def _manifest(
    work: "_Replaying",
    blocks_b: Sequence[Block],
    names: tuple[str, str],
    swap: Any,
    tags: dict[str, str],
    command: str,
) -> Manifest:
    pairing = work.pairing
    one_sided = [f"{b.name} has no block in the candidate" for b in pairing.only_a]
    one_sided += [
        f"{b.name} of the candidate has none in the reference" for b in pairing.only_b
    ]
    notes = [*pairing.notes, *one_sided[:8], *([work.reason] if work.reason else [])]
    told: dict[str, Any] = {
        "candidate": described(work.candidate),
        "blocks": [block.to_dict() for block in blocks_b],
        "pairs": named_pairs(pairing),
        "names": list(names),
        "options": {
            "noise": work.options.noise, "patch": work.options.patch,
            "rows": work.options.rows, "memory": work.options.memory,
            "keep_mode": work.options.keep_mode,
        },
        "factors": ["norm", "activation"],
        "floors": {"how": work.floor.how, "minimum_db": work.floor.minimum_db},
    }  # fmt: skip
    if swap is not None:
        told["swap"] = swap.to_dict()
    return Manifest(
        kind="paired",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=described(work.reference),
        blocks=tuple(p.a for p in pairing.pairs),
        versions=versions(),
        device=str(next(work.reference.parameters(), torch.zeros(0)).device),
        tags=tags,
        warnings=tuple(notes),
        command=command,
        paired=told,
    )


# ---- the work ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Progress:
    """What was replayed so far."""

    batches: int = 0
    sequences: int = 0
    tokens: int = 0
    hashes: dict[int, int] = field(default_factory=dict)


class _Replaying:
    """One replay: the batches, then the analyses, then the rows."""

    def __init__(
        self,
        reference: nn.Module,
        candidate: nn.Module,
        pairing: Pairing,
        options: Options,
        progress: Progress | None,
        reason: str,
    ) -> None:
        self.reference, self.candidate = reference, candidate
        self.options, self.progress, self.reason = options, progress, reason
        pairs = pairing.pairs
        if reason:
            pairs = tuple(BlockPair(p.a, p.b, p.reason or reason) for p in pairs)
        self.pairing = Pairing(pairs, pairing.only_a, pairing.only_b, pairing.notes)
        self.pairs = pairs
        self.floor: Floor = floor_of(reference, candidate)
        self.analyses = Analyses(reference, candidate, rows=options.rows)
        self.views = Views(reference, candidate, self.analyses.listen, self.floor.model)
        self.outputs: dict[str, OutputSums] = {}
        self.scoring: Scoring | None = None
        self.done = _Progress()
        self.notes: dict[str, None] = {}
        self.hypotheses: list[dict[str, Any]] = []

    def run(
        self,
        writer: RunWriter,
        batches: Iterable[Any],
        kept: Sequence[Any],
        swap: Any,
        *,
        autopsy: bool,
    ) -> None:
        """Replay every batch, then the analyses; write what there is, also when stopped."""
        stopped: BaseException | None = None
        try:
            for batch in batches:
                self._batch(batch)
            self._after(kept, swap, autopsy=autopsy)
        except (KeyboardInterrupt, FfnProbeError) as error:
            stopped = error
            self.notes[f"stopped early: {type(error).__name__}"] = None
        if self.done.batches == 0 and stopped is not None:
            writer.discard()
            raise stopped
        self._write(writer)
        if stopped is not None:
            raise stopped

    def _say(self, what: str, done: int, of: int | None = None) -> None:
        if self.progress is not None:
            self.progress(what, done, of)

    def _batch(self, batch: Any) -> None:
        tokens = Tokens.of(batch, self.done.sequences)
        cut = groups([p.a for p in self.pairs], tokens.count, self.options.memory)
        noise = self.done.batches < self.options.noise
        for number, (low, high) in enumerate(cut):
            pairs = self.pairs[low:high]
            self.analyses.tokens = tokens
            if self.done.batches == 0:
                self._read_parts(batch, tokens, pairs)
            shown = self.views.add(batch, tokens, pairs, noise=noise)
            for pair in pairs:
                self.analyses.add(pair, shown, tokens)
            if number == 0:
                self._output(batch, tokens, shown.reference, shown.candidate, shown.again)
        self._count(batch, tokens)
        self._say("replayed", self.done.batches)

    def _read_parts(self, batch: Any, tokens: Tokens, pairs: Sequence[BlockPair]) -> None:
        """Read the parts of blocks before they are replayed: the views listen for them."""
        shown = Views(self.reference, self.candidate).add(batch, tokens, pairs, noise=False)
        for pair in pairs:
            self.analyses.read(pair, shown)

    def _output(
        self, batch: Any, tokens: Tokens, a: Tensor, b: Tensor, again: Tensor | None
    ) -> None:
        if self.scoring is None:
            self.scoring = scoring_of(self.reference, run_model, batch, a)
            self._check_itself(batch, a)
        for part, other in (("candidate", b), ("noise", again)):
            if other is None:
                continue
            if other.shape != a.shape:
                text = f"the outputs have the shapes {tuple(a.shape)} and {tuple(other.shape)}"
                self.notes.setdefault(f"{text}: they are not compared")
                continue
            held = self.outputs.setdefault(part, OutputSums(self.scoring))
            folds = tokens.folds if a.shape[0] == tokens.sequences else tokens.folds[:1].expand(
                a.shape[0]
            )  # fmt: skip
            held.add(a, other, batch, folds, tokens.real)

    def _check_itself(self, batch: Any, a: Tensor) -> None:
        """Note when the reference gives something else for the same batch."""
        again = run_model(self.reference, batch, name="the reference")
        apart = float((again.double() - a.double()).nan_to_num().norm())
        scale = float(a.double().nan_to_num().norm())
        if apart > 1e-3 * scale:
            self.notes.setdefault(
                f"the reference differs from itself on one batch (by {apart / scale:.2g} of its "
                "output): dropout or other randomness is on, and nothing below that can be told"
            )

    def _count(self, batch: Any, tokens: Tokens) -> None:
        from ffn_probe.discover.calling import call_arguments

        done = self.done
        found = input_hash(*call_arguments(batch))
        fold = done.batches % 16
        if found is not None:
            done.hashes[fold] = (done.hashes.get(fold, 0) * 31 + int(found)) % (1 << 62)
        done.batches += 1
        done.sequences += tokens.sequences
        done.tokens += tokens.count

    # After the batches

    def _after(self, kept: Sequence[Any], swap: Any, *, autopsy: bool) -> None:
        fit = [p for p in self.pairs if not p.reason]
        if self.options.patch and fit and "candidate" in self.outputs and self.scoring:
            patch_effects(
                self.reference, self.candidate, fit, self.analyses, kept, self.scoring,
                local=self.views.local_error, say=self._say,
            )  # fmt: skip
        if swap is not None and swap.norm and swap.activation and self.scoring:
            factorial_effects(
                self.reference, self.candidate, swap, kept, self.scoring, self.analyses.effects
            )
        if autopsy:
            self._autopsy(kept)

    def _autopsy(self, kept: Sequence[Any]) -> None:
        from ffn_probe.replay.autopsy import autopsy as examine

        self._say("autopsy", 0)
        found = examine(
            self.reference, self.candidate, list(kept),
            found=[p.a for p in self.pairs], found_candidate=[p.b for p in self.pairs],
        )  # fmt: skip
        self.hypotheses = found.rows()

    def _write(self, writer: RunWriter) -> None:
        blocks = {p.a.name: p.a for p in self.pairs}
        by_name = {p.a.name: p for p in self.pairs}
        tables: dict[str, Any] = dict(self.views.rows(blocks, 0))
        tables["activation_error"] = self.analyses.finish(by_name, 0)
        self._output_effects()
        tables["effects"] = self.analyses.effects.rows(0)
        tables["hypotheses"] = self.hypotheses
        writer.write_window(0, tables)
        notes = (*self.analyses.notes, *self.notes)
        writer.update(
            windows=1,
            steps=self.done.batches,
            tokens=self.done.tokens,
            warnings=(*writer.manifest.warnings, *notes),
        )

    def _output_effects(self) -> None:
        from ffn_probe.replay.effects import EffectKey

        for part, sums in self.outputs.items():
            for row in sums.rows():
                key = EffectKey(-1, "", "logits", "output", part, row["metric"])
                self.analyses.effects.put(key, row["fold"], row["value"], row["count"])
