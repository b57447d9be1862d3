"""Which blocks are patched, on which batches, and what is kept of it.

Every block of a shallow model; of a deep one the blocks with the largest errors of their own
and the one at which a bisection finds that the drift enters.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.replay.analyses import Analyses
from ffn_probe.replay.effects import EffectKey
from ffn_probe.replay.outputs import OutputSums, Scoring
from ffn_probe.replay.pairing import BlockPair
from ffn_probe.replay.parts import Parts
from ffn_probe.replay.passes import run_model
from ffn_probe.replay.patching import Replacement, bisected, block_of_parts, can_patch, patched
from ffn_probe.replay.playing import differing, mixed, players_of
from ffn_probe.replay.tokens import Tokens

MOST = 24
"""Blocks that are all patched one by one; of more, the bisection and the worst few are."""
WORST = 8

Say = Callable[[str, int, int | None], None]
_METRICS = ("error", "kl")


def patch_effects(
    reference: nn.Module,
    candidate: nn.Module,
    pairs: Sequence[BlockPair],
    analyses: Analyses,
    batches: Sequence[Any],
    scoring: Scoring,
    *,
    local: Callable[[str], float],
    say: Say,
) -> None:
    """Patch blocks both ways on some batches and add what is left of the final drift.

    Args:
        reference: the reference.
        candidate: the candidate.
        pairs: pairs that are compared value by value.
        analyses: whose parts are put in, and whose effects are added to.
        batches: the batches, a few.
        scoring: how outputs are read.
        local: the relative error energy of a block's own, by name.
        say: the progress.
    """
    work = _Patching(reference, candidate, analyses, batches, scoring)
    ready = [p for p in pairs if work.ready(p)]
    left_out = len(pairs) - len(ready)
    if left_out:
        analyses.notes.setdefault(
            f"{left_out} blocks could not be patched: their parts are not read"
        )
    if not ready:
        return
    work.add("none", -1, "", [])
    work.add("back_all", -1, "", ready)
    chosen = ready
    if len(ready) > MOST:
        worst = sorted(ready, key=lambda p: local(p.a.name), reverse=True)[:WORST]
        entry = work.bisect(ready)
        chosen = [p for p in ready if p in worst or p is entry]
    for number, pair in enumerate(chosen):
        work.add("back", pair.a.layer, pair.a.name, [pair])
        work.add_in(pair)
        say("patched", number + 1, len(chosen))
    work.stages(max(ready, key=lambda p: local(p.a.name)))


class _Patching:
    def __init__(
        self,
        reference: nn.Module,
        candidate: nn.Module,
        analyses: Analyses,
        batches: Sequence[Any],
        scoring: Scoring,
    ) -> None:
        self.reference, self.candidate = reference, candidate
        self.analyses, self.scoring = analyses, scoring
        self.batches = batches
        self.outputs = [run_model(reference, batch) for batch in batches]

    def ready(self, pair: BlockPair) -> bool:
        parts = self.analyses.parts.get(pair.a.name, (None, None))
        return None not in parts and can_patch(pair.a) and can_patch(pair.b)

    def parts(self, pair: BlockPair) -> tuple[Parts, Parts]:
        a, b = self.analyses.parts[pair.a.name]
        if a is None or b is None:
            raise KeyError(pair.a.name)
        return a, b

    def add(self, part: str, layer: int, block: str, pairs: Sequence[BlockPair]) -> float:
        """Add the final error of the candidate with the reference's blocks put back."""
        puts = [(p.b, block_of_parts(self.parts(p)[0])) for p in pairs]
        return self._add(self.candidate, puts, part, layer, block)

    def add_in(self, pair: BlockPair) -> None:
        """Add the final error of the reference with the candidate's block put in."""
        puts = [(pair.a, block_of_parts(self.parts(pair)[1]))]
        self._add(self.reference, puts, "in", pair.a.layer, pair.a.name)

    def stages(self, pair: BlockPair) -> None:
        """Add what is left with one part of one block put back, and what one put in makes."""
        a, b = self.parts(pair)
        if (a.value is None) != (b.value is None):
            return
        moving = differing(a, b)
        for player in moving:
            rest = frozenset(set(players_of(a)) - {player})
            put = [(pair.b, block_of_parts(mixed(a, b, rest)))]
            self._add(self.candidate, put, f"back:{player}", pair.a.layer, pair.a.name)
            put = [(pair.a, block_of_parts(mixed(a, b, frozenset({player}))))]
            self._add(self.reference, put, f"in:{player}", pair.a.layer, pair.a.name)

    def bisect(self, ready: Sequence[BlockPair]) -> BlockPair:
        """Return the pair at which most of the drift enters."""

        def error(first: int) -> float:
            layer = ready[first - 1].a.layer if first else -1
            return self.add("back_upto", layer, "", ready[:first])

        return ready[bisected(len(ready), error)[0]]

    def _add(
        self,
        model: nn.Module,
        puts: Sequence[tuple[Block, Replacement]],
        part: str,
        layer: int,
        block: str,
    ) -> float:
        sums = OutputSums(self.scoring)
        first = 0
        for batch, own in zip(self.batches, self.outputs, strict=True):
            tokens = Tokens.of(batch, first)
            first += tokens.sequences
            output = patched(model, batch, puts)
            if output.shape == own.shape and own.shape[0] == tokens.sequences:
                sums.add(own, output, batch, tokens.folds, tokens.real)
        total = 0.0
        for row in sums.rows():
            if row["metric"] in _METRICS:
                key = EffectKey(layer, block, "logits", "patch", part, row["metric"])
                self.analyses.effects.put(key, row["fold"], row["value"], row["count"])
                total += row["value"] if row["metric"] == "error" else 0.0
        return total
