"""Rows of a pair of blocks: what the candidate makes of the reference's residual stream.

The reference runs once as it is; the candidate runs with the stream that enters each block
overwritten by the reference's, so that every block is judged by itself, all in one pass.
"""

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.calling import call_arguments, undisturbed
from ffn_probe.errors import ModelError
from ffn_probe.replay.autopsy.pairing import Pair, entered
from ffn_probe.swaps.interpose import interposed, readers, writers

_ROLES = ("resid", "normed", "hidden", "out")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What was seen of a pair, role -> [rows, channels]; `given` is what both were fed.

    `extreme` marks the rows that were kept because the models differ most there; None: none.
    """

    given: Tensor
    reference: Mapping[str, Tensor]
    candidate: Mapping[str, Tensor]
    extreme: Tensor | None = None

    def typical(self) -> "Rows":
        """Return the rows that are spread evenly over the batches."""
        if self.extreme is None:
            return self
        keep = ~self.extreme
        return _mapped(self, lambda x: x[keep])


def running(
    pairs: tuple[Pair, ...], model: nn.Module, batch: Any
) -> tuple[tuple[Pair, ...], tuple[tuple[Block, str], ...]]:
    """Return the pairs with only the taps that fire in the candidate, and those without."""
    fired: set[tuple[str, str]] = set()

    def look(block: Block, tap: Tap, value: Tensor) -> None:  # noqa: ARG001
        fired.add((block.name, tap.role))

    entries = [e for p in pairs for e in readers(p.candidate)]
    with torch.no_grad(), undisturbed(model), interposed(model, entries, look):
        run(model, batch)
    kept: list[Pair] = []
    silent: list[tuple[Block, str]] = []
    for pair in pairs:
        name = pair.candidate.name
        taps = tuple(t for t in pair.candidate.taps if (name, t.role) in fired)
        made = entered(replace(pair, candidate=replace(pair.candidate, taps=taps)))
        if made is None:
            silent.append((pair.reference, f"{name!r} does not run in the candidate"))
        else:
            kept.append(made)
    return tuple(kept), tuple(silent)


def captured(
    reference: nn.Module,
    candidate: nn.Module,
    batches: Iterable[Any],
    pairs: tuple[Pair, ...],
    *,
    rows: int,
) -> dict[str, Rows]:
    """Return the rows of every pair, by the name of the reference's block.

    Args:
        reference: the model that is right.
        candidate: the model that is looked at.
        batches: what both are run on, until `rows` rows of each block were seen.
        pairs: from `paired`.
        rows: rows to keep of each block, evenly spread over each batch.

    Raises:
        ModelError: a block's residual stream has another shape in the candidate, or a block
            did not run.
    """
    kept: dict[str, list[Rows]] = {}
    share = -(-rows // len(batches)) if isinstance(batches, Sized) else -(-rows // 4)
    with torch.no_grad(), undisturbed(reference), undisturbed(candidate):
        for batch in batches:
            needed = rows - _least(kept, pairs)
            if needed <= 0:
                break
            for name, seen in _one(reference, candidate, batch, pairs):
                kept.setdefault(name, []).append(_thinned(seen, share, needed))
    lost = [pair.reference.name for pair in pairs if pair.reference.name not in kept]
    if lost:
        raise ModelError(f"{lost[0]!r} did not run on the batches in both models")
    return {name: _joined(parts) for name, parts in kept.items()}


# ---- one batch --------------------------------------------------------------------------


def run(model: nn.Module, batch: Any) -> None:
    """Run a model on a batch, its output left alone."""
    args, kwargs = call_arguments(batch)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    moved = [_placed(value, device, dtype) for value in args]
    model(*moved, **{key: _placed(value, device, dtype) for key, value in kwargs.items()})


def _placed(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)


def _one(
    reference: nn.Module, candidate: nn.Module, batch: Any, pairs: tuple[Pair, ...]
) -> Iterator[tuple[str, Rows]]:
    """Yield the rows of one batch; a block that runs several times counts the first time."""
    first: dict[tuple[str, str], list[Tensor]] = {}

    def look(block: Block, tap: Tap, value: Tensor) -> None:
        first.setdefault((block.name, tap.role), []).append(value.detach())

    with interposed(reference, [e for p in pairs for e in readers(p.reference, _ROLES)], look):
        run(reference, batch)
    second: dict[tuple[str, str], list[Tensor]] = {}
    turns = {p.candidate.name: p for p in pairs}

    def put(block: Block, tap: Tap, value: Tensor) -> Tensor | None:
        pair = turns[block.name]
        seen = second.setdefault((block.name, tap.role), [])
        if tap.role != pair.entering:
            seen.append(value.detach())
            return None
        given = first[pair.reference.name, tap.role]
        if len(seen) >= len(given):
            seen.append(value.detach())
            return None
        new = given[len(seen)].to(value.device, value.dtype)
        if new.shape != value.shape:
            raise ModelError(
                f"{tap.role} of {block.name!r} is {tuple(value.shape)} in the candidate and "
                f"{tuple(new.shape)} in the reference; they cannot be compared row by row"
            )
        seen.append(new)
        return new

    entries = [e for p in pairs for e in _entries(p)]
    with interposed(candidate, entries, put):
        run(candidate, batch)
    for pair in pairs:
        yield pair.reference.name, _rows_of(pair, first, second)


def _entries(pair: Pair) -> Iterator[tuple[Block, Tap]]:
    yield from writers(pair.candidate, pair.entering)
    rest = _ROLES[_ROLES.index(pair.entering) + 1 :]
    yield from readers(pair.candidate, rest)


def _rows_of(
    pair: Pair,
    first: Mapping[tuple[str, str], list[Tensor]],
    second: Mapping[tuple[str, str], list[Tensor]],
) -> Rows:
    a, b = pair.reference.name, pair.candidate.name
    if (b, pair.entering) not in second or (b, "out") not in second or (a, "out") not in first:
        raise ModelError(f"{b!r} did not run in both models; judge other blocks with blocks=")
    given = _flat(second[b, pair.entering][0])
    return Rows(
        given,
        {r: v for (n, r), v in _aligned(first, given).items() if n == a},
        {r: v for (n, r), v in _aligned(second, given).items() if n == b},
    )


def _aligned(
    seen: Mapping[tuple[str, str], list[Tensor]], given: Tensor
) -> dict[tuple[str, str], Tensor]:
    """Return the tensors that have as many rows as what was given."""
    flat = {key: _flat(values[0]) for key, values in seen.items()}
    return {key: value for key, value in flat.items() if len(value) == len(given)}


def _flat(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])


# ---- rows -------------------------------------------------------------------------------


def _least(kept: Mapping[str, list[Rows]], pairs: tuple[Pair, ...]) -> int:
    counts = [sum(len(r.given) for r in kept.get(p.reference.name, [])) for p in pairs]
    return min(counts, default=0)


def _thinned(seen: Rows, share: int, needed: int) -> Rows:
    """Return at most `share` rows (all that are needed, if fewer).

    Most are evenly spread; an eighth are those where the models differ most: a clamp that is
    missing shows on few tokens.
    """
    count = min(share, needed, len(seen.given))
    worst = _worst(seen, count // 8)
    spread = torch.linspace(0, len(seen.given) - 1, count - len(worst)).round().long()
    chosen = torch.cat([spread, worst])
    extreme = torch.arange(count) >= count - len(worst)
    return replace(_mapped(seen, lambda x: x[chosen.to(x.device)].cpu()), extreme=extreme)


def _worst(seen: Rows, count: int) -> Tensor:
    a, b = seen.reference.get("out"), seen.candidate["out"]
    if a is None or a.shape != b.shape or not count:
        return torch.zeros(0, dtype=torch.long)
    error = (a.to(b.device).float() - b.float()).norm(dim=-1).nan_to_num(torch.inf)
    worst: Tensor = error.topk(count).indices
    return worst.cpu()


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    sides = [
        {role: torch.cat([s[role] for s in side]) for role in side[0]}
        for side in ([p.reference for p in parts], [p.candidate for p in parts])
    ]
    extreme = torch.cat([p.extreme for p in parts if p.extreme is not None])
    return Rows(torch.cat([p.given for p in parts]), sides[0], sides[1], extreme)


def _mapped(seen: Rows, function: Any) -> Rows:
    return Rows(
        function(seen.given),
        {role: function(value) for role, value in seen.reference.items()},
        {role: function(value) for role, value in seen.candidate.items()},
    )
