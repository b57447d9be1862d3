"""Bugs of loading: the right numbers in the wrong place, or some of them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ffn_probe.replay.autopsy.bugs import Bug, Case, Change
from ffn_probe.replay.autopsy.layout_bugs import PROJECTIONS, matrix, path_of, remade, told
from ffn_probe.replay.autopsy.norm_bugs import effective_gain
from ffn_probe.replay.parts import Parts, mapped
from ffn_probe.swaps.weights import Matrix


def loading_bugs(case: Case) -> Iterator[Bug]:
    """Yield what could have gone wrong when the weights of a block were loaded."""
    yield from _transposed(case)
    yield from _layers(case)
    yield from _folded(case)
    yield from _sliced(case)


def _transposed(case: Case) -> Iterator[Bug]:
    for name in PROJECTIONS:
        if matrix(case.parts, name) is not None:
            yield Bug(
                "weight transposed", name, remade(name, _turned),
                f"transpose the weight of {path_of(case, name)}", told(case.parts, name),
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
        for part in PROJECTIONS:
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
