"""Which block of the candidate stands in the place of which block of the reference."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from ffn_probe.anatomy import Block, Norm, Tap
from ffn_probe.discover.layers import exists
from ffn_probe.errors import UnknownName

_BORROWED = ("resid", "normed", "out")
_ENTERING = ("resid", "normed")


@dataclass(frozen=True, slots=True)
class Pair:
    """A block of the reference and what stands in its place in the candidate.

    `borrowed` names the roles whose taps are the reference's, because discovery did not see
    them in the candidate; `entering` is the role at which the reference's tensor is put in.
    """

    reference: Block
    candidate: Block
    entering: str
    borrowed: tuple[str, ...] = ()


def paired(
    reference: tuple[Block, ...],
    candidate: tuple[Block, ...],
    model: nn.Module,
    mapping: Mapping[str, str] | None = None,
) -> tuple[tuple[Pair, ...], tuple[tuple[Block, str], ...]]:
    """Return the pairs of blocks, and the reference's blocks without one with the reason.

    Blocks are paired as `mapping` says (the value may be the path of a module), by name, by
    layer where it holds one block in both, or by the paths of the reference's own modules.

    Raises:
        UnknownName: `mapping` names a block or module that is not there.
    """
    named = {block.name: block for block in candidate}
    chosen = dict(mapping or {})
    for name in chosen:
        if name not in {block.name for block in reference}:
            raise UnknownName.of("block", name, [block.name for block in reference])
    pairs: list[Pair] = []
    missing: list[tuple[Block, str]] = []
    for block in reference:
        wanted = chosen.get(block.name)
        if wanted is not None and wanted not in named and not exists(model, wanted):
            raise UnknownName.of("block", wanted, named, "(of the candidate)")
        found = named.get(wanted or block.name) or _alone(block, reference, candidate, wanted)
        made = _pair(block, found, model, wanted)
        if isinstance(made, Pair):
            pairs.append(made)
        else:
            missing.append((block, made))
    return tuple(pairs), tuple(missing)


def _alone(
    block: Block, reference: tuple[Block, ...], candidate: tuple[Block, ...], wanted: str | None
) -> Block | None:
    """Return the one block of the same layer, where each model has one there."""
    if wanted is not None:
        return None
    taken = {b.name for b in reference}
    own = [b for b in reference if b.layer == block.layer]
    other = [b for b in candidate if b.layer == block.layer and b.name not in taken]
    return other[0] if len(own) == 1 and len(other) == 1 else None


def _pair(
    block: Block, found: Block | None, model: nn.Module, wanted: str | None
) -> Pair | str:
    """Return the pair, or why there is none.

    Where the reference's norm has a namesake in the candidate, its input is the stream: in a
    norm that computes something else, discovery may find another place.
    """
    if block.experts or (found is not None and found.experts):
        if found is None or found.experts != block.experts:
            return f"{block.experts} experts here, {found.experts if found else 0} there"
        return Pair(block, found, "normed")
    base = found or _like(block, model, wanted)
    lent = _lent(block, model, wanted)
    missing = tuple(r for r in _BORROWED if r in lent and (r not in base.roles or r == "resid"))
    kept = tuple(t for t in base.taps if t.role not in missing)
    made = replace(base, taps=(*kept, *(lent[role] for role in missing)))
    return entered(Pair(block, made, "", missing)) or (
        f"no block in the candidate: discovery saw none in layer {block.layer}, and the paths "
        f"of {wanted or block.name!r} are not there or do not run; name it in mapping"
    )


def _like(block: Block, model: nn.Module, wanted: str | None) -> Block:
    """Return a block for a module that discovery did not see, with the paths that exist."""
    module = block.norm.module
    own = wanted is None and module is not None and exists(model, module)
    there = {
        name: p
        for name, p in block.projections.items()
        if wanted is None and exists(model, p.path)
    }
    return replace(
        block, name=wanted or block.name, norm=block.norm if own else Norm("none"),
        projections=there, taps=(), products=(), flags=(),
    )  # fmt: skip


def entered(pair: Pair) -> Pair | None:
    """Return the pair with the first role at which the reference's tensor can be put in."""
    both = set(pair.candidate.roles) & set(pair.reference.roles)
    entering = next((role for role in _ENTERING if role in both), None)
    if entering is None or "out" not in both:
        return None
    return replace(pair, entering=entering)


def _lent(block: Block, model: nn.Module, wanted: str | None) -> dict[str, Tap]:
    """Return taps for resid, normed and out at the reference's paths, where they exist."""
    if wanted is not None and exists(model, wanted):
        return {"normed": Tap("normed", "input", wanted), "out": Tap("out", "output", wanted)}
    found = {
        tap.role: tap
        for tap in reversed(block.taps)
        if tap.role in _BORROWED and tap.how != "call" and exists(model, tap.path)
    }
    norm = block.norm.module
    if exists(model, block.name):
        found.setdefault("normed", Tap("normed", "input", block.name))
        found.setdefault("out", Tap("out", "output", block.name))
    if norm is not None and exists(model, norm):
        found.setdefault("normed", Tap("normed", "output", norm))
    return found
