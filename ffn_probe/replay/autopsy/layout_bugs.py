"""Bugs of how gate and value lie in one tensor, and of the biases of projections."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ffn_probe.replay.autopsy.bugs import Bug, Case, Change
from ffn_probe.replay.parts import Parts
from ffn_probe.swaps.weights import Matrix

BLOCKS = (8, 16, 32, 64, 128)
"""Rows of a part of block-interleaved layouts."""

PROJECTIONS = ("gate", "value", "down")


def layout_bugs(case: Case) -> Iterator[Bug]:
    """Yield what could be wrong with the weights of a block like this one."""
    if case.parts.value is not None:
        yield from _fused(case)
        yield from _doubled(case)
    yield from _biases(case)


def matrix(parts: Parts, name: str) -> Matrix | None:
    """Return a matrix of a block by its name there."""
    return {"gate": parts.gate, "value": parts.value, "down": parts.down}[name]


def told(parts: Parts, name: str) -> str:
    """Return what a matrix is called: in an MLP the first one is its up projection."""
    if name == "down":
        return "down"
    return "gate" if name == "gate" and parts.value is not None else "up"


def remade(name: str, function: Callable[[Matrix], Matrix | None]) -> Change:
    """Return a change of one matrix."""

    def change(parts: Parts) -> Parts | None:
        old = matrix(parts, name)
        new = None if old is None else function(old)
        return None if new is None else parts.with_(**{name: new})

    return change


# ---- gate and value in one tensor -------------------------------------------------------


def _fused(case: Case) -> Iterator[Bug]:
    separate = case.block.layout == "separate" and case.candidate.layout == "separate"
    yield Bug(
        "gate and up swapped", "gate", _swapped, "hidden = act(gate) * up: name them the other "
        "way round", slot="layout", rank=0 if separate else 1,
    )  # fmt: skip
    yield Bug(
        "fused halves in the wrong order", "gate", _swapped,
        f"take the gate from the other half of {case.block.projections['gate'].path}",
        slot="layout", rank=1 if separate else 0,
    )  # fmt: skip
    width = case.block.d_ff
    sizes = [1, *(size for size in BLOCKS if size < width and width % size == 0)]
    for size in sizes:
        name = "interleaved" if size == 1 else f"block-interleaved ({size})"
        for order, rank in (("gate first", 1), ("up first", 2)):
            variant = "" if order == "gate first" else order
            yield Bug(
                f"{name} read as concatenated", "gate", _reread(size, order, stored=True),
                "gate = rows [0::2], up = rows [1::2]" if size == 1 else
                f"gate and up take turns every {size} rows", variant, "layout", rank,
            )  # fmt: skip
            yield Bug(
                f"concatenated read as {name}", "gate", _reread(size, order, stored=False),
                "gate = the first half of the rows, up = the second", variant, "layout", rank,
            )  # fmt: skip


def _swapped(parts: Parts) -> Parts | None:
    if parts.value is None:
        return None
    return parts.with_(gate=parts.value, value=parts.gate)


def _reread(size: int, order: str, *, stored: bool) -> Change:
    """Return the change of a fused tensor written in one layout and read in another."""
    second = order == "up first"

    def change(parts: Parts) -> Parts | None:
        if parts.value is None:
            return None
        pair = (parts.gate, parts.value)
        if stored and second:
            pair = (parts.value, parts.gate)
        read = _mixed(pair, lambda a, b: _laid(a, b, size, stored=stored))
        if not stored and second:
            read = (read[1], read[0])
        return parts.with_(gate=read[0], value=read[1])

    return change


def _mixed(
    pair: tuple[Matrix, Matrix], function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> tuple[Matrix, Matrix]:
    first, second = pair
    weights = function(first.weight, second.weight)
    if first.bias is None or second.bias is None:
        return Matrix(weights[0], None), Matrix(weights[1], None)
    biases = function(first.bias, second.bias)
    return Matrix(weights[0], biases[0]), Matrix(weights[1], biases[1])


def _laid(first: Tensor, second: Tensor, size: int, *, stored: bool) -> tuple[Tensor, Tensor]:
    """Return the halves of what is stored in turns, or the turns of stored halves."""
    count, rest = len(first), first.shape[1:]
    if stored:
        turns = [half.reshape(-1, size, *rest) for half in (first, second)]
        whole = torch.stack(turns, 1).flatten(0, 2)
        return whole[:count], whole[count:]
    read = torch.cat([first, second]).reshape(-1, 2, size, *rest)
    return read[:, 0].flatten(0, 1), read[:, 1].flatten(0, 1)


def _doubled(case: Case) -> Iterator[Bug]:
    path = case.block.projections
    yield Bug(
        "gate weights loaded into up", "value", lambda p: p.with_(value=p.gate),
        f"load the weight of {path['up'].path}", slot="load", rank=2,
    )  # fmt: skip
    yield Bug(
        "up weights loaded into gate", "gate",
        lambda p: None if p.value is None else p.with_(gate=p.value),
        f"load the weight of {path['gate'].path}", slot="load", rank=2,
    )  # fmt: skip


# ---- biases -----------------------------------------------------------------------------


def _biases(case: Case) -> Iterator[Bug]:
    biased = [n for n in PROJECTIONS if _bias(case.parts, n) is not None]
    for name in biased:
        word = told(case.parts, name)
        yield Bug(
            "projection bias dropped", name, remade(name, lambda m: Matrix(m.weight, None)),
            f"add the bias of {path_of(case, name)}", word, f"bias {name}",
        )  # fmt: skip
        yield Bug(
            "projection bias added twice", name, remade(name, _twice_biased),
            f"add the bias of {path_of(case, name)} once", word, f"bias {name}", 2,
        )  # fmt: skip
    if len(biased) > 1:
        yield Bug(
            "projection bias dropped", "out", _without_biases, "add the biases", "all", "bias"
        )


def _bias(parts: Parts, name: str) -> Tensor | None:
    found = matrix(parts, name)
    return None if found is None else found.bias


def path_of(case: Case, name: str) -> str:
    """Return the path of the projection that a matrix is."""
    key = {"value": "up", "down": "down"}.get(name, told(case.parts, "gate"))
    return case.block.projections[key].path


def _twice_biased(m: Matrix) -> Matrix | None:
    return None if m.bias is None else Matrix(m.weight, 2 * m.bias)


def _without_biases(parts: Parts) -> Parts:
    kept = {n: matrix(parts, n) for n in PROJECTIONS}
    return parts.with_(**{n: Matrix(m.weight, None) for n, m in kept.items() if m is not None})
