"""The findings of a mixture of experts: those of its norm and of its biggest experts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ffn_probe.replay.autopsy.cases import case_of, expert_name
from ffn_probe.replay.autopsy.examine import examined_expert, examined_norm
from ffn_probe.replay.autopsy.experts import experts_of, normed_rows
from ffn_probe.replay.autopsy.finding import Finding
from ffn_probe.replay.autopsy.pairing import Pair
from ffn_probe.replay.parts import parts_of


def judged_mixture(
    pair: Pair, reference: nn.Module, candidate: nn.Module, batch: Any
) -> Iterator[Finding]:
    """Yield the findings of a mixture; experts that show the same are told together.

    Raises:
        ModelError: the rows of the experts cannot be told apart, or the models route
            differently.
    """
    block, other = pair.reference, pair.candidate
    healthy = {
        expert_name(e): parts_of(reference, block, expert=e) for e in range(block.experts)
    }
    rows = normed_rows(reference, candidate, batch, block, other)
    if rows is not None:
        with torch.no_grad():
            yield examined_norm(case_of(pair, healthy, reference, candidate), rows)
    found: dict[tuple[str, ...], list[Finding]] = {}
    for expert in experts_of(reference, candidate, batch, block, other):
        case = case_of(pair, healthy, reference, candidate, expert=expert.index)
        with torch.no_grad():
            made = examined_expert(case, expert.rows)
        kind = (made.status, *(h.name for h in made.hypotheses[:1]))
        found.setdefault(kind, []).append(replace(made, experts=(expert.index,)))
    for same in found.values():
        yield _together(same, block.experts)


def _together(same: list[Finding], count: int) -> Finding:
    """Return the finding of the biggest expert, for all that show the same."""
    experts = tuple(sorted(f.experts[0] for f in same))
    listed = ", ".join(map(str, experts))
    noun = "experts" if len(experts) > 1 else "expert"
    text = f"{same[0].sentence} Seen in {noun} {listed} of {count}."
    return replace(same[0], experts=experts, sentence=text)
