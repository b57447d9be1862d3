"""Bugs of how gate and value lie in one tensor, and of what was loaded where."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ffn_probe.replay.autopsy.bugs import Bug, Case, Change
from ffn_probe.replay.autopsy.norm_bugs import effective_gain
from ffn_probe.replay.parts import Parts, mapped
from ffn_probe.swaps.weights import Matrix

BLOCKS = (8, 16, 32, 64, 128)
"""Rows of a part of block-interleaved layouts."""

_PROJECTIONS = ("gate", "value", "down")


def layout_bugs(case: Case) -> Iterator[Bug]:
    """Yield what could be wrong with the weights of a block like this one."""
    if case.parts.value is not None:
        yield from _fused(case)
        yield from _doubled(case)
    yield from _biases(case)
    yield from _transposed(case)
    yield from _layers(case)
    yield from _folded(case)
    yield from _sliced(case)


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
    biased = [n for n in _PROJECTIONS if _bias(case.parts, n) is not None]
    for name in biased:
        word = told(case.parts, name)
        yield Bug(
            "projection bias dropped", name, remade(name, lambda m: Matrix(m.weight, None)),
            f"add the bias of {_path(case, name)}", word, f"bias {name}",
        )  # fmt: skip
        yield Bug(
            "projection bias added twice", name, remade(name, _twice_biased),
            f"add the bias of {_path(case, name)} once", word, f"bias {name}", 2,
        )  # fmt: skip
    if len(biased) > 1:
        yield Bug(
            "projection bias dropped", "out", _without_biases, "add the biases", "all", "bias"
        )


def _bias(parts: Parts, name: str) -> Tensor | None:
    found = matrix(parts, name)
    return None if found is None else found.bias


def _path(case: Case, name: str) -> str:
    key = {"value": "up", "down": "down"}.get(name, told(case.parts, "gate"))
    return case.block.projections[key].path


def _twice_biased(m: Matrix) -> Matrix | None:
    return None if m.bias is None else Matrix(m.weight, 2 * m.bias)


def _without_biases(parts: Parts) -> Parts:
    kept = {n: matrix(parts, n) for n in _PROJECTIONS}
    return parts.with_(**{n: Matrix(m.weight, None) for n, m in kept.items() if m is not None})


# ---- the right numbers in the wrong place -----------------------------------------------


def _transposed(case: Case) -> Iterator[Bug]:
    for name in _PROJECTIONS:
        if matrix(case.parts, name) is not None:
            yield Bug(
                "weight transposed", name, remade(name, _turned),
                f"transpose the weight of {_path(case, name)}", told(case.parts, name),
                f"weight {name}", 1,
            )  # fmt: skip


def _turned(m: Matrix) -> Matrix:
    """Return the transposed weight, or where it is not square its buffer read the other way."""
    turned = m.weight.t()
    if turned.shape != m.weight.shape:
        turned = turned.reshape(m.weight.shape)
    return Matrix(turned, m.bias)


def _layers(case: Case) -> Iterator[Bug]:
    for name, other in _likely_layers(case):
        fix = f"load the weights of {case.block.name}, not of {name}"
        for part in _PROJECTIONS:
            theirs = matrix(other, part)
            if theirs is not None and matrix(case.parts, part) is not None:
                yield Bug(
                    f"weights of {name}", part, remade(part, _always(theirs)), fix,
                    told(case.parts, part), f"weight {part}", 2,
                )  # fmt: skip
        yield Bug(f"weights of {name}", "out", _of_layer(other), fix, "all", "weights", 1)


def _likely_layers(case: Case) -> Iterator[tuple[str, Parts]]:
    """Yield the other blocks with a matrix that the candidate has here; all, if unreadable."""
    device = case.parts.gate.weight.device
    for name, other in case.others.items():
        theirs = [matrix(other, part) for part in case.matrices]
        pairs = zip(theirs, case.matrices.values(), strict=True)
        if not case.matrices or any(t is not None and _alike(t, own) for t, own in pairs):
            yield name, mapped(other, lambda x: x.to(device))


def _alike(a: Matrix, b: Matrix) -> bool:
    """Return whether the first rows of two matrices point the same way."""
    first, second = (m.weight[:4].detach().cpu().float().flatten() for m in (a, b))
    if first.shape != second.shape:
        return False
    return float(torch.cosine_similarity(first, second, dim=0)) > 0.9


def _always(m: Matrix) -> Callable[[Matrix], Matrix | None]:
    return lambda old: m if old.weight.shape == m.weight.shape else None


def _of_layer(other: Parts) -> Change:
    def change(parts: Parts) -> Parts | None:
        if parts.gate.weight.shape != other.gate.weight.shape:
            return None
        return parts.with_(gate=other.gate, value=other.value, down=other.down)

    return change


def _folded(case: Case) -> Iterator[Bug]:
    gain = effective_gain(case.parts.norm)
    if gain is None:
        return
    where = case.block.norm.module or "the norm"

    def times(m: Matrix) -> Matrix:
        return Matrix(m.weight * gain, m.bias)

    def change(parts: Parts) -> Parts | None:
        value = None if parts.value is None else times(parts.value)
        return parts.with_(gate=times(parts.gate), value=value)

    yield Bug(
        "gain folded twice", "gate", change,
        f"set the gain of {where} to one after folding it", slot="fold",
    )  # fmt: skip
    if case.parts.value is not None:
        for name in ("gate", "value"):
            yield Bug(
                "gain folded twice", name, remade(name, times),
                f"fold the gain of {where} into neither or both of gate and up",
                told(case.parts, name), "fold", 2,
            )  # fmt: skip


def _sliced(case: Case) -> Iterator[Bug]:
    """Yield blocks that use only some of the neurons."""
    width = case.block.d_ff
    own = case.matrices.get("down")
    seen = {case.candidate.d_ff, own.weight.shape[1] if own is not None else width}
    sizes = {width // 2, *(s for s in seen if 0 < s < width)}
    for size in sorted(sizes):
        for place, rows in _slices(width, size).items():
            yield Bug(
                "wrong d_ff slice", "hidden", _kept(rows), f"use all {width} neurons",
                f"{place} {size} of {width}", "slice", 2,
            )  # fmt: skip


def _slices(width: int, size: int) -> dict[str, Tensor]:
    index = torch.arange(width)
    found = {"first": index[:size], "last": index[width - size :]}
    if width % size == 0:
        found["every"] = index[:: width // size]
    return found


def _kept(rows: Tensor) -> Change:
    def change(parts: Parts) -> Parts:
        value = None if parts.value is None else _rows(parts.value, rows)
        down = Matrix(parts.down.weight[:, rows], parts.down.bias)
        return parts.with_(gate=_rows(parts.gate, rows), value=value, down=down)

    return change


def _rows(m: Matrix, rows: Tensor) -> Matrix:
    return Matrix(m.weight[rows], None if m.bias is None else m.bias[rows])
