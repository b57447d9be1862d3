"""What the outputs of two models say of each other: KL, first choices, loss, error.

The output of a model is its logits (or its last hidden state, or its first floating tensor).
Everything is a sum over tokens, by fold of sequences.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from ffn_probe.errors import ModelError
from ffn_probe.runs import FOLDS

_NAMES = ("logits", "prediction_logits", "last_hidden_state", "pooler_output")
_IGNORED = -100  # the label of a token that has none
_SAME = (1e-6, 1e-4)  # mean |change| over the spread: rounding, of 32 bits and of 16


@dataclass(frozen=True, slots=True)
class Scoring:
    """How outputs are read: whether as logits over a vocabulary, and of the next token."""

    logits: bool
    causal: bool


def output_of(result: Any) -> Tensor:
    """Return the tensor of a model's output that is compared.

    Raises:
        ModelError: the output holds no floating tensor.
    """
    if isinstance(result, Tensor):
        return result
    named = result if isinstance(result, Mapping) else vars(result) if hasattr(
        result, "__dict__"
    ) else {}  # fmt: skip
    for name in _NAMES:
        if isinstance(named.get(name), Tensor):
            return named[name]  # type: ignore[no-any-return]
    values = list(named.values()) if named else list(result) if isinstance(
        result, tuple | list
    ) else []  # fmt: skip
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0:
            return value
    raise ModelError(
        f"the model returned {type(result).__name__}, which holds no floating tensor to compare"
    )


def labels_of(batch: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return (labels, token ids) of a batch, None for what it does not have."""
    if isinstance(batch, Mapping):
        labels, ids = batch.get("labels"), batch.get("input_ids")
    else:
        values = batch if isinstance(batch, tuple | list) else (batch,)
        labels, ids = None, next((v for v in values if isinstance(v, Tensor)), None)
    ids = ids if isinstance(ids, Tensor) and not ids.is_floating_point() else None
    return (labels if isinstance(labels, Tensor) else None), ids


def scoring_of(model: nn.Module, run: Any, batch: Any, output: Tensor) -> Scoring:
    """Return how the outputs of `model` are to be read; `run(model, batch)` runs it once more.

    Outputs are logits when there is one a token and ids are below their number; they are of the
    next token when the last token of a sequence leaves the others' outputs as they were.
    """
    _, ids = labels_of(batch)
    per_token = ids is not None and output.dim() == 3 and output.shape[:2] == ids.shape
    if ids is None or not per_token or ids.numel() == 0:
        return Scoring(logits=False, causal=False)
    logits = int(ids.max()) < output.shape[-1] and output.shape[-1] > 1
    if not logits or ids.shape[1] < 2:
        return Scoring(logits=logits, causal=False)
    other = ids.clone()
    other[:, -1] = torch.where(ids[:, -1] == 0, 1, 0)
    changed = run(model, _with_ids(batch, ids, other))
    early = changed[:, :-1].float(), output[:, :-1].float()
    apart = (early[0] - early[1]).nan_to_num().abs().mean()
    same = float(apart) <= _SAME[output.element_size() < 4] * float(early[1].nan_to_num().std())
    return Scoring(logits=True, causal=same)


def _with_ids(batch: Any, ids: Tensor, other: Tensor) -> Any:
    if isinstance(batch, Mapping):
        return {k: other if v is ids else v for k, v in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(other if v is ids else v for v in batch)
    return other


class OutputSums:
    """Sums of what two outputs say of each other, by fold."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(
        self, a: Tensor, b: Tensor, batch: Any, sequences: Tensor, real: Tensor | None
    ) -> None:
        """Add the outputs of one batch.

        Args:
            a: of the reference, [sequences, ...].
            b: of the candidate, of the same shape.
            batch: the batch, for labels.
            sequences: the fold of each sequence, int64 [sequences].
            real: False at padding, [sequences, length]; None when there is none.
        """
        sequences = sequences.to(a.device)
        for i in range(a.shape[0]):  # one sequence at a time: a vocabulary is wide
            keep = None if real is None or real.shape != a.shape[:2] else real[i].to(a.device)
            x, y = (t[i] if keep is None else t[i][keep] for t in (a, b.to(a.device)))
            x, y = x.double(), y.double()
            self._add("error", (y - x).square().sum(), x.numel(), sequences[i])
            self._add("energy", x.square().sum(), x.numel(), sequences[i])
            if self.scoring.logits:
                self._add_choice(x, y, sequences[i])
        if self.scoring.logits:
            self._add_losses(a, b.to(a.device), batch, sequences, real)

    def _add_choice(self, x: Tensor, y: Tensor, fold: Tensor) -> None:
        tokens = x.shape[0]
        p, q = x.log_softmax(-1), y.log_softmax(-1)
        kl = kl_div(q, p, log_target=True, reduction="sum")
        self._add("kl", kl, tokens, fold)
        self._add("top1", (x.argmax(-1) == y.argmax(-1)).sum(), tokens, fold)

    def _add_losses(
        self, a: Tensor, b: Tensor, batch: Any, sequences: Tensor, real: Tensor | None
    ) -> None:
        targets = self._targets(a, batch, real)
        if targets is None:
            return
        shift = 1 if self.scoring.causal else 0
        for name, output in (("loss_a", a), ("loss_b", b)):
            for i in range(a.shape[0]):
                logits = output[i, : output.shape[1] - shift].float()
                wanted = targets[i, shift:]
                loss = cross_entropy(logits, wanted, ignore_index=_IGNORED, reduction="sum")
                self._add(name, loss, int((wanted != _IGNORED).sum()), sequences[i])

    def _targets(self, a: Tensor, batch: Any, real: Tensor | None) -> Tensor | None:
        labels, ids = labels_of(batch)
        if labels is not None and labels.shape == a.shape[:2]:
            return labels.to(a.device).long()
        if not self.scoring.causal or ids is None or ids.shape != a.shape[:2]:
            return None
        targets = ids.to(a.device).long()
        if real is not None and real.shape == targets.shape:
            targets = torch.where(real.to(a.device), targets, _IGNORED)
        return targets

    def _add(self, name: str, value: Tensor, count: int, fold: Tensor) -> None:
        if name not in self.sums:
            zeros = torch.zeros(FOLDS, dtype=torch.float64, device=value.device)
            self.sums[name] = (zeros, torch.zeros_like(zeros, dtype=torch.int64))
        total, number = self.sums[name]
        total[fold] += value.double()
        number[fold] += count

    def rows(self) -> list[dict[str, Any]]:
        """Return fold, metric, value and count of every fold that saw something."""
        found = []
        for metric, (values, counts) in self.sums.items():
            pairs = zip(values.tolist(), counts.tolist(), strict=True)
            found += [
                {"fold": fold, "metric": metric, "value": value, "count": count}
                for fold, (value, count) in enumerate(pairs)
                if count
            ]
        return found
