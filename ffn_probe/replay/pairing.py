"""Which block of the candidate meets which block of the reference.

Layers are met by their ordinal, or at equal relative depth when the models are not equally
deep; blocks of one layer by name, then by kind, then in order. Blocks that cannot be compared
value by value keep their pair, with the reason.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.compare.align import Mapped, read_mapping
from ffn_probe.errors import UnknownName


@dataclass(frozen=True, slots=True)
class BlockPair:
    """A block of the reference and its block of the candidate.

    `reason` says why their values cannot be paired one by one, "" when they can; `same_size`
    whether a tensor of either role fits the other.
    """

    a: Block
    b: Block
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pairs in the order of depth, what is on one side only, and notes."""

    pairs: tuple[BlockPair, ...]
    only_a: tuple[Block, ...]
    only_b: tuple[Block, ...]
    notes: tuple[str, ...]


def paired(
    blocks_a: Sequence[Block], blocks_b: Sequence[Block], mapping: Mapped | None = None
) -> Pairing:
    """Return the pairs of blocks of a reference and a candidate.

    Raises:
        UnknownName: the mapping names a block that a model does not have.
        CompareError: the mapping cannot be read.
    """
    by_a, by_b = ({block.name: block for block in side} for side in (blocks_a, blocks_b))
    given = read_mapping(mapping)
    for name, known, side in (
        *((one, by_a, "the reference") for one in given),
        *((other, by_b, "the candidate") for other in given.values()),
    ):
        if name not in known:
            raise UnknownName.of("block", name, known, f"(mapping, {side})")
    found = [(by_a[one], by_b[other]) for one, other in given.items()]
    rest_a = _layers([b for b in blocks_a if b.name not in given])
    rest_b = _layers([b for b in blocks_b if b.name not in given.values()])
    layers, notes = _matched_layers(tuple(rest_a), tuple(rest_b))
    for one, other in layers:
        found += _matched(rest_a[one], rest_b[other])
    deep = len(rest_a) != len(rest_b) and bool(rest_a and rest_b)
    pairs = tuple(BlockPair(a, b, _reason(a, b, deep=deep)) for a, b in found)
    pairs = tuple(sorted(pairs, key=lambda p: (p.a.layer, p.a.name)))
    used_a, used_b = {p.a.name for p in pairs}, {p.b.name for p in pairs}
    return Pairing(
        pairs,
        tuple(b for b in blocks_a if b.name not in used_a),
        tuple(b for b in blocks_b if b.name not in used_b),
        tuple(notes),
    )


def _layers(blocks: Sequence[Block]) -> dict[int, list[Block]]:
    found: dict[int, list[Block]] = {}
    for block in sorted(blocks, key=lambda b: b.layer):
        found.setdefault(block.layer, []).append(block)
    return found


def _matched_layers(
    a: tuple[int, ...], b: tuple[int, ...]
) -> tuple[list[tuple[int, int]], list[str]]:
    if a == b or not a or not b:
        return list(zip(a, b, strict=False)), []
    if len(a) == len(b):
        return list(zip(a, b, strict=True)), ["the layers are numbered differently"]
    short, long = sorted((a, b), key=len)
    step = (len(long) - 1) / (len(short) - 1) if len(short) > 1 else 0.0
    pairs = [(short[i], long[int(i * step + 0.5)]) for i in range(len(short))]
    if short is not a:
        pairs = [(one, other) for other, one in pairs]
    text = (
        f"the models have {len(a)} and {len(b)} layers with an FFN; they are met at equal "
        "relative depth and compared by distribution and CKA"
    )
    return pairs, [text]


def _matched(left: Sequence[Block], right: Sequence[Block]) -> list[tuple[Block, Block]]:
    """Return pairs of blocks of one layer: the same name, else the same kind, else in order."""
    names = {block.name: block for block in right}
    pairs = [(block, names[block.name]) for block in left if block.name in names]
    rest_a = [b for b in left if b.name not in names]
    taken = {b.name for _, b in pairs}
    rest_b = [b for b in right if b.name not in taken]
    for same in (True, False):
        for one in list(rest_a):
            for other in rest_b:
                if not same or _kind(one) == _kind(other):
                    pairs.append((one, other))
                    rest_a.remove(one)
                    rest_b.remove(other)
                    break
    return pairs


def _kind(block: Block) -> tuple[str, bool]:
    return block.kind, block.experts > 0


def _reason(a: Block, b: Block, *, deep: bool) -> str:
    if a.d_model != b.d_model:
        return f"the streams have {a.d_model} and {b.d_model} channels"
    if deep:
        return "the models have different numbers of layers"
    if (a.experts > 0) != (b.experts > 0):
        return "a mixture of experts meets a dense block"
    return ""


def whole_mixtures(
    blocks: Sequence[Block], model: nn.Module, run: Callable[[], object]
) -> tuple[Block, ...]:
    """Return the blocks, the `out` of mixtures being what all experts give together.

    That is the output of the innermost module around the experts that is called once and gives
    one row a token; a mixture without one has no `out`.

    Args:
        blocks: what discovery found.
        model: their model.
        run: runs it once.
    """
    mixtures = [block for block in blocks if block.experts]
    if not mixtures:
        return tuple(blocks)
    around = {path for block in mixtures for path in _around(block.name)}
    shapes: dict[str, list[tuple[int, ...]]] = {}
    entering: dict[str, int] = {}
    with ExitStack() as stack:
        for path in around:
            hook = partial(_note_shape, shapes, path)
            stack.callback(model.get_submodule(path).register_forward_hook(hook).remove)
        for block in mixtures:
            if block.norm.module is not None:
                hook = partial(_note_rows, entering, block.name)
                norm = model.get_submodule(block.norm.module)
                stack.callback(norm.register_forward_hook(hook).remove)
        run()
    return tuple(
        _whole(block, shapes, entering) if block.experts else block for block in blocks
    )


def _around(name: str) -> list[str]:
    """Return a module's path and those around it, innermost first, three at most."""
    parts = name.split(".")
    return [".".join(parts[: len(parts) - i]) for i in range(min(3, len(parts)))]


def _note_shape(
    shapes: dict[str, list[tuple[int, ...]]], path: str, _m: object, _a: object, output: object
) -> None:
    found = output[0] if isinstance(output, tuple | list) and output else output
    shapes.setdefault(path, []).append(tuple(found.shape) if isinstance(found, Tensor) else ())


def _note_rows(
    entering: dict[str, int], name: str, _m: object, _a: object, output: object
) -> None:
    if isinstance(output, Tensor):
        entering[name] = output.shape[:-1].numel()


def _whole(
    block: Block, shapes: Mapping[str, list[tuple[int, ...]]], entering: Mapping[str, int]
) -> Block:
    taps = tuple(t for t in block.taps if t.role != "out")
    wanted = entering.get(block.name)
    for path in _around(block.name):
        seen = shapes.get(path, [])
        fits = len(seen) == 1 and seen[0][-1:] == (block.d_model,)
        if fits and wanted in {None, math.prod(seen[0][:-1])}:
            return replace(block, taps=(*taps, Tap("out", "output", path)))
    return replace(block, taps=taps)


def borrowed(
    blocks_a: Sequence[Block], blocks_b: Sequence[Block], model: nn.Module
) -> tuple[Block, ...]:
    """Return the candidate's blocks, and those of the reference that only its code shows.

    Where discovery found no block in the candidate, but all modules that the reference's taps
    read are there, the reference's block stands for it (with a flag).
    """
    known = {block.name for block in blocks_b}
    layers = {block.layer for block in blocks_b}
    modules = dict(model.named_modules(remove_duplicate=False))
    lent = [
        replace(block, flags=(*block.flags, "read through the reference's taps"))
        for block in blocks_a
        if block.name not in known
        and block.layer not in layers
        and all(tap.path in modules for tap in block.taps)
    ]
    return tuple(sorted([*blocks_b, *lent], key=lambda b: (b.layer, b.name)))


def named_pairs(pairing: Pairing) -> list[Mapping[str, object]]:
    """Return the pairs as plain values, for a manifest."""
    return [
        {"layer": p.a.layer, "a": p.a.name, "b": p.b.name, "reason": p.reason}
        for p in pairing.pairs
    ]
