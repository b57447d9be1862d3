"""What is known of a pair of blocks: the healthy parts, the candidate's own matrices."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.errors import FfnProbeError
from ffn_probe.replay.autopsy.bugs import Case
from ffn_probe.replay.autopsy.gating import gating_of
from ffn_probe.replay.autopsy.pairing import Pair
from ffn_probe.replay.autopsy.words import lines_of
from ffn_probe.replay.parts import NormPart, Parts, norm_part
from ffn_probe.swaps.weights import Matrix, read_matrix

_NEAREST = 8


def case_of(
    pair: Pair,
    healthy: Mapping[str, Parts],
    reference: nn.Module,
    candidate: nn.Module,
    *,
    expert: int = 0,
) -> Case:
    """Return the case of a pair.

    Args:
        pair: the two blocks.
        healthy: the reference's blocks by name; in a mixture the experts of this block by
            `expert_name`.
        reference: the model that is right.
        candidate: the model that is looked at.
        expert: which expert of a mixture.
    """
    block = pair.reference
    own = expert_name(expert) if block.experts else block.name
    others = {n: p for n, p in healthy.items() if n != own}
    return Case(
        block=block,
        parts=_taken_apart(healthy[own]),
        candidate=pair.candidate,
        matrices=_matrices(candidate, pair, expert, healthy[own].gate.weight.device),
        norm=_norm(candidate, pair, healthy[own].gate.weight.device),
        others=others,
        gains=_gains(reference, block),
        config=lines_of(candidate),
    )


def _taken_apart(parts: Parts) -> Parts:
    """Return the block with its gating in parts, which bugs can change."""
    gating = gating_of(parts)
    return parts if gating is None else parts.with_(meet=gating)


def expert_name(expert: int) -> str:
    """Return what an expert is called in names of bugs."""
    return f"expert {expert}"


def _matrices(
    candidate: nn.Module, pair: Pair, expert: int, device: torch.device
) -> dict[str, Matrix]:
    """Return the candidate's matrices that can be read, by their names in `Parts`."""
    found: dict[str, Matrix] = {}
    names = {"gate": "gate", "value": "up", "down": "down"}
    if pair.reference.kind != "glu":
        names = {"gate": "up", "down": "down"}
    for name, projection in names.items():
        for block in (pair.candidate, pair.reference):
            try:
                own = read_matrix(candidate, block, projection, expert=expert)
                bias = None if own.bias is None else own.bias.to(device)
                found[name] = replace(own, weight=own.weight.to(device), bias=bias)
                break
            except (FfnProbeError, AttributeError, RuntimeError):
                continue
    return found


def _norm(candidate: nn.Module, pair: Pair, device: torch.device) -> NormPart | None:
    """Return the candidate's norm, where it can be read."""
    try:
        norm = norm_part(candidate, pair.candidate)
        weight = None if norm.weight is None else norm.weight.to(device)
        bias = None if norm.bias is None else norm.bias.to(device)
        return replace(norm, weight=weight, bias=bias)
    except (FfnProbeError, AttributeError, RuntimeError):
        return None


def _gains(reference: nn.Module, block: Block) -> dict[str, Tensor]:
    """Return the gains of other norms of the reference, those of its own layer first."""
    own = block.norm.module or ""
    prefix = own.rpartition(".")[0]
    names = [
        (not path.startswith(prefix), path, parameter.detach())
        for path, parameter in reference.named_parameters()
        if parameter.shape == (block.d_model,)
        and path.endswith("weight")
        and path.rpartition(".")[0] != own
    ]
    return {path: gain for _, path, gain in sorted(names, key=lambda n: n[:2])[:_NEAREST]}
