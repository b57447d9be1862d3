"""Shapley values share a whole among its parts, exactly."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffn_probe.attribution.attribution import PLAYERS
from ffn_probe.attribution.shapley import ShapleyError, coalitions, shapley_values


def game(players: tuple[str, ...], seed: int, shape: tuple[int, ...] = ()) -> dict:
    rng = np.random.default_rng(seed)
    return {chosen: rng.standard_normal(shape) for chosen in coalitions(players)}


@given(st.integers(1, 5), st.integers(0, 10_000))
def test_the_values_add_to_the_whole(count: int, seed: int) -> None:
    players = PLAYERS[:count]
    value = game(players, seed, (16,))
    found = shapley_values(players, value)
    total = value[frozenset(players)] - value[frozenset()]
    np.testing.assert_allclose(sum(found.values()), total, atol=1e-12)


def test_the_values_are_the_mean_over_all_orders_of_joining() -> None:
    players = PLAYERS[:4]
    value = game(players, 3)
    joined = dict.fromkeys(players, 0.0)
    orders = list(permutations(players))
    for order in orders:
        for i, player in enumerate(order):
            step = value[frozenset(order[: i + 1])] - value[frozenset(order[:i])]
            joined[player] += float(step) / len(orders)
    found = shapley_values(players, value)
    assert {k: pytest.approx(float(v)) for k, v in found.items()} == joined


def test_a_player_that_changes_nothing_gets_nothing() -> None:
    value = game(("a", "b"), 1)
    idle = {chosen: value[chosen - {"c"}] for chosen in coalitions(("a", "b", "c"))}
    found = shapley_values(("a", "b", "c"), idle)
    assert float(found["c"]) == 0.0
    assert float(found["a"]) == pytest.approx(float(shapley_values(("a", "b"), value)["a"]))


def test_players_that_act_alike_get_alike() -> None:
    value = {chosen: float(len(chosen) ** 2) for chosen in coalitions(PLAYERS)}
    found = shapley_values(PLAYERS, value)
    assert [float(v) for v in found.values()] == pytest.approx([5.0] * 5)


def test_the_cross_term_of_two_errors_is_halved_between_them() -> None:
    """|x + y|^2 = |x|^2 + |y|^2 + 2 x.y: each gets its energy and half of the cross term."""
    rng = np.random.default_rng(0)
    errors = {"norm": rng.standard_normal(50), "activation": 3 * rng.standard_normal(50)}
    value = {
        chosen: float(np.sum(sum((errors[p] for p in chosen), np.zeros(50)) ** 2))
        for chosen in coalitions(tuple(errors))
    }
    found = shapley_values(tuple(errors), value)
    cross = errors["norm"] @ errors["activation"]
    assert float(found["norm"]) == pytest.approx(errors["norm"] @ errors["norm"] + cross)


def test_a_missing_coalition_is_named() -> None:
    value = game(("a", "b"), 1)
    del value[frozenset("b")]
    with pytest.raises(ShapleyError, match=r"1 of 4 coalitions have no value \(first: \['b'\]"):
        shapley_values(("a", "b"), value)


def test_a_player_named_twice_and_a_crowd_are_refused() -> None:
    with pytest.raises(ShapleyError, match="name one twice"):
        coalitions(("a", "a"))
    with pytest.raises(ShapleyError, match=r"13 players have 2\^13 coalitions; at most 12"):
        coalitions([f"p{i}" for i in range(13)])
