"""Exact Shapley values of a set function given by its value on every coalition.

With the parts of a block as players and the error energy as value, the shares of the parts add
to the whole error exactly, whatever order the parts were changed in (Shapley 1953).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np
from jaxtyping import Float64

from ffn_probe.errors import FfnProbeError

MOST_PLAYERS = 12  # 4096 values; more is a mistake


class ShapleyError(FfnProbeError, ValueError):
    """A set function lacks a coalition, or has too many players."""


def coalitions(players: Sequence[str]) -> tuple[frozenset[str], ...]:
    """Return every set of players, the empty one first, then by size in the given order.

    >>> [sorted(s) for s in coalitions(("a", "b"))]
    [[], ['a'], ['b'], ['a', 'b']]

    Raises:
        ShapleyError: a player is named twice, or there are more than 12.
    """
    names = tuple(players)
    if len(set(names)) != len(names):
        raise ShapleyError(f"the players {names} name one twice")
    if len(names) > MOST_PLAYERS:
        raise ShapleyError(
            f"{len(names)} players have 2^{len(names)} coalitions; at most {MOST_PLAYERS}"
        )
    return tuple(
        frozenset(chosen)
        for size in range(len(names) + 1)
        for chosen in combinations(names, size)
    )


def shapley_values(
    players: Sequence[str],
    value: Mapping[frozenset[str], float | Float64[np.ndarray, "..."]],
) -> dict[str, Float64[np.ndarray, "..."]]:
    """Return what each player adds to the value, averaged over all orders of joining.

    Args:
        players: the names.
        value: the value of every coalition: a number, or an array (one a fold), all of one
            shape and in one unit that adds (energies, nats; never dB).

    The values add to `value[all] - value[none]` (efficiency); a player that never changes the
    value gets 0; players that always change it alike get the same.

    >>> table = {(): 0.0, ("a",): 1.0, ("b",): 2.0, ("a", "b"): 5.0}
    >>> found = shapley_values("ab", {frozenset(k): v for k, v in table.items()})
    >>> float(found["a"]), float(found["b"])
    (2.0, 3.0)

    Raises:
        ShapleyError: a coalition has no value, or `coalitions` refuses the players.
    """
    everyone = coalitions(players)
    missing = [sorted(chosen) for chosen in everyone if chosen not in value]
    if missing:
        raise ShapleyError(
            f"{len(missing)} of {len(everyone)} coalitions have no value (first: {missing[0]})"
            "; see coalitions(players)"
        )
    known = {chosen: np.asarray(value[chosen], np.float64) for chosen in everyone}
    return {player: _value(player, len(players), known) for player in players}


def _value(
    player: str, count: int, known: Mapping[frozenset[str], Float64[np.ndarray, "..."]]
) -> Float64[np.ndarray, "..."]:
    total: np.ndarray = np.zeros_like(known[frozenset()])
    for chosen, without in known.items():
        if player not in chosen:
            size = len(chosen)
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            total = np.asarray(total + weight * (known[chosen | {player}] - without))
    return total
