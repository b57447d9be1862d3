"""Replaying: the batches of a replay, then the analyses, then the rows of the run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ffn_probe.errors import FfnProbeError
from ffn_probe.replay.analyses import Analyses
from ffn_probe.replay.effects import EffectKey
from ffn_probe.replay.factors import factorial_effects, power_effects
from ffn_probe.replay.floors import Floor, floor_of
from ffn_probe.replay.outputs import OutputSums, Scoring, scoring_of
from ffn_probe.replay.pairing import BlockPair, Pairing
from ffn_probe.replay.passes import groups, run_model
from ffn_probe.replay.patches import patch_effects
from ffn_probe.replay.tokens import Tokens
from ffn_probe.replay.views import Views
from ffn_probe.runs import RunWriter
from ffn_probe.swaps import Swap

Progress = Callable[[str, int, int | None], None]
"""Is told what is done, how much of it, and of how much in all (None: not known)."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much a replay measures.

    `noise` is how many batches the floor is measured on, `patch` how many the patches run on
    (0: none), `rows` the rows a batch and block that Shapley shares are of, `memory` the bytes
    of captured tensors (blocks are replayed in groups that fit, one block at least), `window`
    the batches after which the sums go to disk. `keep_mode` leaves training mode on where it
    is.
    """

    noise: int = 4
    patch: int = 2
    rows: int = 512
    memory: int = 1 << 30
    window: int = 64
    keep_mode: bool = False


@dataclass(slots=True)
class _Progress:
    """What was replayed so far."""

    batches: int = 0
    sequences: int = 0
    tokens: int = 0


class Replaying:
    """One replay: the batches, then the analyses, then the rows."""

    def __init__(
        self,
        reference: nn.Module,
        candidate: nn.Module,
        pairing: Pairing,
        options: Options,
        progress: Progress | None,
        reason: str,
        quantize: Mapping[str, str],
    ) -> None:
        self.reference, self.candidate = reference, candidate
        self.options, self.progress, self.reason = options, progress, reason
        pairs = pairing.pairs
        if reason:
            pairs = tuple(BlockPair(p.a, p.b, p.reason or reason) for p in pairs)
        self.pairing = Pairing(pairs, pairing.only_a, pairing.only_b, pairing.notes)
        self.pairs = pairs
        self.floor: Floor = floor_of(reference, candidate)
        self.analyses = Analyses(reference, candidate, rows=options.rows, quantize=quantize)
        self.views = Views(reference, candidate, self.analyses.listen, self.floor.model)
        self.outputs: dict[str, OutputSums] = {}
        self.scoring: Scoring | None = None
        self.done = _Progress()
        self.notes: dict[str, None] = {}
        self.windows = 0
        self.hypotheses: list[dict[str, Any]] = []

    def run(
        self,
        writer: RunWriter,
        batches: Iterable[Any],
        kept: Sequence[Any],
        swap: Swap | None,
        *,
        autopsy: bool,
    ) -> None:
        """Replay every batch, then the analyses; write what there is, also when stopped."""
        stopped: BaseException | None = None
        try:
            for batch in batches:
                self._batch(batch)
                if self.done.batches % self.options.window == 0:
                    self._write_views(writer)
            self._after(kept, swap, autopsy=autopsy)
        except (KeyboardInterrupt, Exception) as error:
            stopped = error
            self.notes[f"stopped early: {type(error).__name__}"] = None
        if self.done.batches == 0 and stopped is not None:
            writer.discard()
            raise stopped
        self._write(writer)
        if stopped is not None:
            writer.close()
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
        self._count(tokens)
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
                f"the reference differs from itself on one batch (by {apart / scale:.2g} of "
                "its output): dropout or other randomness is on, and less cannot be told"
            )

    def _count(self, tokens: Tokens) -> None:
        self.done.batches += 1
        self.done.sequences += tokens.sequences
        self.done.tokens += tokens.count

    # After the batches

    def _after(self, kept: Sequence[Any], swap: Swap | None, *, autopsy: bool) -> None:
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
        if swap is not None and len(swap.quantize) > 1 and self.scoring:
            power_effects(
                self.reference, self.candidate, swap, kept, self.scoring, self.analyses.effects
            )
        if autopsy:
            self._autopsy(kept)

    def _autopsy(self, kept: Sequence[Any]) -> None:
        from ffn_probe.replay.autopsy import autopsy as examine

        fit = [p for p in self.pairs if not p.reason]
        if not fit:
            self.notes.setdefault("no autopsy: no block is compared value by value")
            return
        self._say("autopsy", 0)
        try:
            found = examine(
                self.reference, self.candidate, list(kept),
                found=[p.a for p in fit], found_candidate=[p.b for p in fit],
            )  # fmt: skip
        except FfnProbeError as error:  # what was replayed stands without it
            self.notes.setdefault(f"the autopsy stopped: {error}")
            return
        self.hypotheses = list(found.rows())

    def _write_views(self, writer: RunWriter) -> None:
        """Write the paired sums as a window of their own, and begin new ones."""
        blocks = {p.a.name: p.a for p in self.pairs}
        writer.write_window(self.windows, self.views.rows(blocks, self.windows))
        self.views.clear()
        self.windows += 1
        writer.update(windows=self.windows, steps=self.done.batches, tokens=self.done.tokens)

    def _write(self, writer: RunWriter) -> None:
        """Write the last window, and what belongs to the whole."""
        blocks = {p.a.name: p.a for p in self.pairs}
        by_name = {p.a.name: p for p in self.pairs}
        tables: dict[str, Any] = dict(self.views.rows(blocks, self.windows))
        tables["activation_error"] = self.analyses.finish(by_name, self.windows)
        self._output_effects()
        tables["effects"] = self.analyses.effects.rows(self.windows)
        tables["hypotheses"] = [{**row, "window": self.windows} for row in self.hypotheses]
        writer.write_window(self.windows, tables)
        notes = (*self.analyses.notes, *self.notes)
        writer.update(
            windows=self.windows + 1,
            steps=self.done.batches,
            tokens=self.done.tokens,
            warnings=(*writer.manifest.warnings, *notes),
        )

    def _output_effects(self) -> None:
        for part, sums in self.outputs.items():
            for row in sums.rows():
                key = EffectKey(-1, "", "logits", "output", part, row["metric"])
                self.analyses.effects.put(key, row["fold"], row["value"], row["count"])
