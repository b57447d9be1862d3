"""Who did it, in one block: its parts taken from the candidate in every combination.

The reference's residual stream goes through a block made of parts of both models; the energy of
what comes out different is the value of a coalition, of which Shapley values are taken.
"""

import torch
from torch import Tensor

from ffn_probe.attribution.shapley import coalitions, shapley_values
from ffn_probe.replay.parts import NormPart, Parts
from ffn_probe.runs import FOLDS
from ffn_probe.swaps.weights import Matrix

_FIELDS = {
    "norm": ("norm",),
    "activation": ("activation", "meet"),
    "w_gate": ("gate",),
    "w_up": ("value",),
    "w_down": ("down",),
}


def players_of(parts: Parts) -> dict[str, tuple[str, ...]]:
    """Return player -> fields of Parts; the first matrix of an MLP is its up projection."""
    if parts.value is not None:
        return dict(_FIELDS)
    found = {k: v for k, v in _FIELDS.items() if k not in {"w_gate", "w_up"}}
    return {**found, "w_up": ("gate",)}


def comparable(a: Parts, b: Parts) -> str:
    """Return why the parts of two blocks cannot stand in for each other, "" when they can."""
    if (a.value is None) != (b.value is None):
        return "one block is gated and the other is not"
    for name in ("gate", "value", "down"):
        one, other = getattr(a, name), getattr(b, name)
        if one is not None and one.weight.shape != other.weight.shape:
            shapes = f"{tuple(one.weight.shape)} and {tuple(other.weight.shape)}"
            return f"the {name} projections have the shapes {shapes}"
    return ""


def differing(a: Parts, b: Parts) -> tuple[str, ...]:
    """Return the players whose parts are not the same, bit for bit."""
    return tuple(
        player
        for player, fields in players_of(a).items()
        if any(not same_part(getattr(a, f), getattr(b, f)) for f in fields)
    )


def same_part(one: object, other: object) -> bool:
    """Return whether two parts are the same, bit for bit."""
    if isinstance(one, Matrix) and isinstance(other, Matrix):
        return _equal(one.weight, other.weight) and _equal(one.bias, other.bias)
    if isinstance(one, NormPart) and isinstance(other, NormPart):
        same = (one.form, one.eps) == (other.form, other.eps)
        return same and _equal(one.weight, other.weight) and _equal(one.bias, other.bias)
    if hasattr(one, "params") and hasattr(other, "params"):
        return (one.name, dict(one.params)) == (other.name, dict(other.params))  # type: ignore[attr-defined]
    return one is other or one == other


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and bool(torch.equal(one, other.to(one.device)))


def mixed(a: Parts, b: Parts, chosen: frozenset[str]) -> Parts:
    """Return the reference's block with the chosen players of the candidate."""
    fields = [f for p, names in players_of(a).items() if p in chosen for f in names]
    return a.with_(**{name: getattr(b, name) for name in fields})


@torch.no_grad()
def shares(
    a: Parts, b: Parts, resid: Tensor, folds: Tensor, *, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return the error energy at `out` of every player by fold, its Shapley value.

    Args:
        a: the reference's block.
        b: the candidate's, see `comparable`.
        resid: rows of the reference's residual stream, [rows, d_model].
        folds: the fold of each row.
        dtype: in which the blocks are computed.

    Returns:
        player -> float64 [16], with "total" (all players) and "alone:<player>" beside them.
    """
    names = tuple(players_of(a))
    moving = differing(a, b)
    energies: dict[frozenset[str], Tensor] = {}
    base, table = None, _Table(a, b, resid.to(dtype), dtype)
    for chosen in coalitions(moving):
        out = table.out(chosen)
        base = out if base is None else base
        error = (out - base).double().square().sum(1)
        energies[chosen] = torch.zeros(FOLDS, dtype=torch.float64).index_add_(
            0, folds.cpu(), error.cpu()
        )
    values = shapley_values(moving, {k: v.numpy() for k, v in energies.items()})
    found = {n: torch.zeros(FOLDS, dtype=torch.float64) for n in names}
    found |= {player: torch.as_tensor(value) for player, value in values.items()}
    found["total"] = energies[frozenset(moving)]
    for player in names:
        alone = frozenset({player} & set(moving))
        found[f"alone:{player}"] = energies[alone]
    return found


class _Table:
    """Evaluates coalitions, computing no stage twice for the same inputs."""

    def __init__(self, a: Parts, b: Parts, resid: Tensor, dtype: torch.dtype) -> None:
        self.a, self.b, self.resid, self.dtype = a, b, resid, dtype
        self.memo: dict[tuple[str, frozenset[str]], Tensor] = {}

    def out(self, chosen: frozenset[str]) -> Tensor:
        parts = mixed(self.a, self.b, chosen)
        given = {"resid": self.resid}
        stages = (
            ("normed", {"norm"}),
            ("gate", {"norm", "w_gate"} if parts.value is not None else {"norm", "w_up"}),
            ("value", {"norm", "w_up"}),
        )
        for role, depends in stages:
            key = (role, chosen & depends)
            if key in self.memo:
                given[role] = self.memo[key]
        found = parts.run(given, dtype=self.dtype)
        for role, depends in stages:
            if role in found:
                self.memo[role, chosen & depends] = found[role]
        return found["out"]


__all__ = ["comparable", "differing", "mixed", "players_of", "same_part", "shares"]
