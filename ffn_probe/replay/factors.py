"""The 2 x 2 of a swap of norms and activations: each alone, both, on the same batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from ffn_probe.replay.effects import EffectKey, Effects
from ffn_probe.replay.outputs import OutputSums, Scoring
from ffn_probe.replay.passes import run_model
from ffn_probe.replay.tokens import Tokens
from ffn_probe.swaps import Swap, swapped


def factorial_effects(
    reference: nn.Module,
    candidate: nn.Module,
    swap: Swap,
    batches: Sequence[Any],
    scoring: Scoring,
    effects: Effects,
) -> None:
    """Add the outputs of the reference with neither, one and both of a swap's factors.

    Args:
        reference: the reference, swapped for a while and then as it was.
        candidate: the model with both.
        swap: a swap of norm and activation.
        batches: some batches.
        scoring: how outputs are read.
        effects: what is added to: analysis "factorial", parts v00, v10, v01 and v11.
    """
    own = [run_model(reference, batch) for batch in batches]
    cells = {
        "v00": None,
        "v10": replace(swap, activation=None),
        "v01": replace(swap, norm=None),
    }
    for part, cell in cells.items():
        with _swapped(reference, cell, batches):
            _add(reference, batches, own, part, scoring, effects)
    _add(candidate, batches, own, "v11", scoring, effects)


def power_effects(
    reference: nn.Module,
    candidate: nn.Module,
    swap: Swap,
    batches: Sequence[Any],
    scoring: Scoring,
    effects: Effects,
) -> None:
    """Add the output's error of each quantization alone, summed, beside that of all together.

    Errors that are independent add in power: analysis "theory", part "power_sum".

    Args:
        reference: the reference, swapped for a while and then as it was.
        candidate: the model with all of them.
        swap: a swap that quantizes two things or more.
        batches: some batches.
        scoring: how outputs are read.
        effects: what is added to.
    """
    own = [run_model(reference, batch) for batch in batches]
    plain = Effects()
    for name, text in swap.quantize.items():
        with _swapped(reference, replace(swap, quantize={name: text}), batches):
            _add(reference, batches, own, "alone", scoring, plain)
    _add(candidate, batches, own, "all", scoring, plain)
    for key, (total, number) in plain.sums.items():
        if key.metric != "error":
            continue
        metric = {"alone": "expected", "all": "observed"}[key.part]
        to = EffectKey(-1, "", "logits", "theory", "power_sum", metric)
        for fold in range(len(total)):
            if int(number[fold]):
                count = int(number[fold]) // (len(swap.quantize) if key.part == "alone" else 1)
                effects.put(to, fold, float(total[fold]), count)


@contextmanager
def _swapped(model: nn.Module, cell: Swap | None, batches: Sequence[Any]) -> Iterator[None]:
    if cell is None:
        yield
        return
    with swapped(model, cell, example=batches[0], calibration=list(batches)):
        yield


def _add(
    model: nn.Module,
    batches: Sequence[Any],
    own: Sequence[Any],
    part: str,
    scoring: Scoring,
    effects: Effects,
) -> None:
    sums = OutputSums(scoring)
    first = 0
    for batch, reference in zip(batches, own, strict=True):
        tokens = Tokens.of(batch, first)
        first += tokens.sequences
        output = run_model(model, batch)
        if output.shape == reference.shape and output.shape[0] == tokens.sequences:
            sums.add(reference, output, batch, tokens.folds, tokens.real)
    for row in sums.rows():
        metric = {"loss_b": "loss"}.get(row["metric"], row["metric"])
        if metric in {"error", "kl", "loss"}:
            key = EffectKey(-1, "", "logits", "factorial", part, metric)
            effects.put(key, row["fold"], row["value"], row["count"])
