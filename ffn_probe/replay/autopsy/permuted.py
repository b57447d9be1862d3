"""Whose neurons are whose: the permutation between two blocks, by their weights."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ffn_probe.replay.autopsy.bugs import Bug, Case, Change
from ffn_probe.replay.autopsy.layout_bugs import matrix, told
from ffn_probe.replay.parts import Parts
from ffn_probe.swaps.weights import Matrix

_ALIKE = 0.95
"""Mean cosine of matched rows from which on they are the same rows in another order."""
_MOST = 4096
"""Neurons up to which the assignment is solved; above, each row's nearest must be its own."""


def orders(case: Case) -> dict[str, Tensor]:
    """Return for each matrix which of the reference's neurons stands at each place.

    Empty where a matrix cannot be read, or its rows are not the reference's in any order.
    """
    found: dict[str, Tensor] = {}
    for name, own in case.matrices.items():
        healthy = matrix(case.parts, name)
        if healthy is None or healthy.weight.shape != own.weight.shape:
            return {}
        order = matched(_neurons(healthy, name), _neurons(own, name))
        if order is None:
            return {}
        found[name] = order
    expected = 2 if case.parts.value is None else 3
    return found if len(found) == expected else {}


def matched(
    healthy: Tensor,
    own: Tensor,
) -> Tensor | None:
    """Return the index of the healthy row that each own row is; None where they are not.

    The best assignment by cosine (Hungarian method).
    """
    first, second = _units(healthy), _units(own)
    if not (first.isfinite().all() and second.isfinite().all()):
        return None
    if float((first * second).sum(-1).mean()) > _ALIKE:
        return torch.arange(len(own))
    alike = (second @ first.t()).float()
    order = alike.argmax(-1)
    if len(set(order.tolist())) < len(order):
        if len(order) > _MOST:
            return None
        order = torch.from_numpy(np.asarray(linear_sum_assignment(-alike.numpy())[1]))
    mean = float(alike.gather(1, order[:, None]).mean())
    return order if mean > _ALIKE else None


def permuted_bugs(case: Case) -> Iterator[Bug]:
    """Yield the bug of neurons that are in one order here and in another there."""
    found = orders(case)
    if not found or consistent(found):
        return
    names = [told(case.parts, n) for n in _odd(found)]
    yield Bug(
        "neurons permuted", "gate", _permuted(found),
        "permute the rows of gate and up and the columns of down alike",
        ", ".join(names) + " apart from the rest", "order", 2,
    )  # fmt: skip


def consistent(found: Mapping[str, Tensor]) -> bool:
    """Return whether all matrices have their neurons in the same order."""
    orders = list(found.values())
    return all(torch.equal(orders[0], other) for other in orders[1:])


def is_identity(found: Mapping[str, Tensor]) -> bool:
    """Return whether the neurons are in the reference's order."""
    return all(torch.equal(o, torch.arange(len(o))) for o in found.values())


def _odd(found: Mapping[str, Tensor]) -> list[str]:
    """Return the matrices that are in another order than most, or than the reference."""
    for order in found.values():
        rest = [n for n, o in found.items() if not torch.equal(o, order)]
        if len(rest) < len(found) / 2:
            return rest
    return [n for n, o in found.items() if not torch.equal(o, torch.arange(len(o)))]


def _permuted(found: Mapping[str, Tensor]) -> Change:
    def change(parts: Parts) -> Parts:
        made = {"gate": _rows(parts.gate, found["gate"])}
        if parts.value is not None:
            made["value"] = _rows(parts.value, found["value"])
        down = Matrix(parts.down.weight[:, found["down"]], parts.down.bias)
        return parts.with_(**made, down=down)

    return change


def _rows(m: Matrix, order: Tensor) -> Matrix:
    return Matrix(m.weight[order], None if m.bias is None else m.bias[order])


def _neurons(m: Matrix, name: str) -> Tensor:
    weight: Tensor = m.weight.t() if name == "down" else m.weight
    return weight.detach().cpu().float()


def _units(rows: Tensor) -> Tensor:
    units: Tensor = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return units
