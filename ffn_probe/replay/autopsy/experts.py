"""Rows of single experts of a mixture: the candidate's on the reference's normed stream.

The reference's normed stream is put into the candidate, so that both route (nearly) alike.
Which expert a row of a packed mixture went to, and from which token it came, is found by the
weights of the reference: the row's `out` and `gate` are those of one expert and one token. Rows
that rounding sends elsewhere in the candidate are left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.calling import undisturbed
from ffn_probe.errors import ModelError
from ffn_probe.replay.autopsy.capture import Rows, run
from ffn_probe.replay.parts import Parts, mapped, parts_of, project
from ffn_probe.swaps.interpose import interposed, readers
from ffn_probe.swaps.weights import Matrix

LEAST = 16
"""Rows from which on an expert is judged; the biggest always is."""
MOST = 4
"""Experts of a block that are judged, the biggest first."""

_ROLES = ("normed", "gate", "hidden", "out")
_ALIKE = 1e-2
_NEAR = 3e-2
"""Relative distance of a row in bfloat16 from the one it should be."""
_DRIFT = 16
"""Rows by which an expert's first row may have moved in the candidate."""
_ENOUGH = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Expert:
    """One expert of the reference, and the rows that it and its like in the candidate saw."""

    index: int
    parts: Parts
    rows: Rows


def experts_of(
    reference: nn.Module, candidate: nn.Module, batch: Any, block: Block, other: Block
) -> Iterator[Expert]:
    """Yield the biggest experts of a pair of mixtures with their rows.

    Raises:
        ModelError: rows cannot be told apart or put beside each other.
    """
    with torch.no_grad(), undisturbed(reference), undisturbed(candidate):
        normed, first = _seen(reference, block, batch, None)
        _, second = _seen(candidate, other, batch, normed)
        if normed is None:
            raise ModelError(f"the input of the experts of {block.name!r} cannot be seen")
        tokens = normed.reshape(-1, normed.shape[-1])
        read = (parts_of(reference, block, expert=e) for e in range(block.experts))
        parts = {e: mapped(p, lambda x: x.cpu()) for e, p in enumerate(read)}
        placed = _placed(first, parts, tokens)
        sizes = sorted(placed, key=lambda e: -len(placed[e]))
        chosen = [e for i, e in enumerate(sizes) if i == 0 or len(placed[e]) >= LEAST][:MOST]
        made = {e: _of_expert(second, e, placed, parts[e], tokens) for e in chosen}
    for e in chosen:
        index, out = made[e]
        yield Expert(e, parts[e], Rows(tokens[index].to(out.dtype), {}, {"out": out}))


def _seen(
    model: nn.Module, block: Block, batch: Any, put: Tensor | None
) -> tuple[Tensor | None, dict[tuple[str, int], Tensor]]:
    """Return the normed stream, and (role, expert or -1) -> rows of all calls."""
    stream: list[Tensor] = []
    found: dict[tuple[str, int], list[Tensor]] = {}

    def touch(_: Block, tap: Tap, value: Tensor) -> Tensor | None:
        if tap.role == "stream":
            stream.append(value.detach())
            if put is None or put.numel() != value.numel():
                return None
            return put.to(value.device, value.dtype).view(value.shape)
        key = (tap.role, -1 if tap.expert is None else tap.expert)
        found.setdefault(key, []).append(value.detach().reshape(-1, value.shape[-1]).cpu())
        return None

    entries = [(block, replace(_entry(block), role="stream")), *readers(block, _ROLES)]
    with interposed(model, entries, touch):
        run(model, batch)
    rows = {key: torch.cat(values) for key, values in found.items()}
    return (stream[0].cpu() if stream else None), rows


def _entry(block: Block) -> Tap:
    """Return where the normed stream stands before it is sent to experts.

    Raises:
        ModelError: it is not visible.
    """
    if block.norm.module is not None:
        return Tap("normed", "output", block.norm.module)
    found = next((t for t in block.taps if t.role == "normed" and t.expert is None), None)
    if found is None:
        raise ModelError(f"the input of the experts of {block.name!r} cannot be seen")
    return found


def normed_rows(
    reference: nn.Module, candidate: nn.Module, batch: Any, block: Block, other: Block
) -> Rows | None:
    """Return what the candidate's norm makes of the reference's stream; None: not visible."""
    if block.norm.module is None or other.norm.module is None:
        return None
    given: list[Tensor] = []
    made: dict[str, Tensor] = {}

    def look(_: Block, tap: Tap, value: Tensor) -> None:
        made.setdefault(f"reference {tap.role}", value.detach())

    def put(_: Block, tap: Tap, value: Tensor) -> Tensor | None:
        made.setdefault(f"candidate {tap.role}", value.detach())
        if tap.role != "resid" or given:
            return None
        given.append(made["reference resid"].to(value.device, value.dtype))
        return given[0] if given[0].shape == value.shape else None

    with torch.no_grad(), undisturbed(reference), undisturbed(candidate):
        with interposed(reference, _ends(block), look):
            run(reference, batch)
        with interposed(candidate, _ends(other), put):
            run(candidate, batch)
    if not given or "candidate normed" not in made:
        return None
    flat = {name: value.reshape(-1, value.shape[-1]).cpu() for name, value in made.items()}
    rows = given[0].reshape(-1, given[0].shape[-1]).cpu()
    own = {"resid": flat["reference resid"], "normed": flat["reference normed"]}
    return Rows(rows, own, {"normed": flat["candidate normed"]})


def _ends(block: Block) -> list[tuple[Block, Tap]]:
    path = block.norm.module or ""
    return [(block, Tap("resid", "input", path)), (block, Tap("normed", "output", path))]


def _placed(
    seen: Mapping[tuple[str, int], Tensor], parts: Mapping[int, Parts], tokens: Tensor
) -> dict[int, Tensor]:
    """Return for each expert the tokens of its rows, in the order of its rows."""
    whole = seen.get(("out", -1))
    if whole is None:
        return {e: _tokens(seen["normed", e], tokens) for e in parts if ("normed", e) in seen}
    hidden, gate = seen.get(("hidden", -1)), seen.get(("gate", -1))
    if hidden is None or gate is None or not len(hidden) == len(gate) == len(whole):
        raise ModelError("the rows of the experts cannot be told apart")
    errors = torch.stack(
        [(project(hidden, p.down) - whole).norm(dim=-1) for p in parts.values()], -1
    )
    owner = errors.argmin(-1)
    found: dict[int, Tensor] = {}
    for e, p in parts.items():
        mine = owner == e
        if bool(mine.any()):
            found[e] = _tokens(gate[mine], project(tokens, p.gate))
    if owner.sort().values.equal(owner):
        return found
    raise ModelError("the rows of the experts are in no order that both models share")


def _tokens(rows: Tensor, among: Tensor) -> Tensor:
    """Return the index of the nearest row of `among` to each of `rows`.

    Raises:
        ModelError: one is not there.
    """
    distance, index = torch.cdist(rows.float(), among.float()).min(-1)
    if bool((distance > _ALIKE * rows.float().norm(dim=-1)).any()):
        raise ModelError("the tokens of an expert's rows cannot be found")
    return index


def _of_expert(
    seen: Mapping[tuple[str, int], Tensor],
    expert: int,
    placed: Mapping[int, Tensor],
    parts: Parts,
    tokens: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the tokens of the candidate's rows of an expert, and what it made of them.

    Raises:
        ModelError: they are not the reference's rows.
    """
    single = seen.get(("normed", expert))
    if single is not None and ("out", expert) in seen:
        return _tokens(single, tokens), seen["out", expert]
    whole, gate = seen.get(("out", -1)), seen.get(("gate", -1))
    if whole is None:
        raise ModelError(f"the rows of expert {expert} cannot be seen in the candidate")
    start = sum(len(rows) for e, rows in placed.items() if e < expert)
    stop = start + len(placed[expert])
    if gate is not None and len(gate) == len(whole):
        near = slice(max(0, start - _DRIFT), stop + _DRIFT)
        for matrix in (parts.gate, parts.value):
            index, good = _matched(gate[near], tokens, matrix)
            if int(good.sum()) >= _ENOUGH * (stop - start):
                return index[good], whole[near][good]
    if sum(len(rows) for rows in placed.values()) != len(whole):
        raise ModelError(
            f"the experts have {len(whole)} rows in the candidate and "
            f"{sum(len(rows) for rows in placed.values())} in the reference: they route "
            "differently"
        )
    return placed[expert], whole[start:stop]


def _matched(rows: Tensor, tokens: Tensor, matrix: Matrix | None) -> tuple[Tensor, Tensor]:
    """Return the token that each row comes from if a matrix made it, and whether one did."""
    if matrix is None or rows.shape[-1] != matrix.weight.shape[0]:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
    distance, index = torch.cdist(rows.float(), project(tokens, matrix).float()).min(-1)
    return index, distance <= _NEAR * rows.float().norm(dim=-1)
