"""A 2 x 2 adds up, says when its parts do not, and abstains when it cannot know."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffn_probe.attribution.factorial import CELLS, FactorialError, factorial
from ffn_probe.attribution.shapley import coalitions, shapley_values

SEEDS = {
    "v00": np.array([1.4296, 1.4178]), "v10": np.array([1.4312, 1.4376]),
    "v01": np.array([1.3286, 1.3445]), "v11": np.array([1.3412, 1.3258]),
}  # fmt: skip
"""Validation loss of four small models, LN/GELU first, each trained from two seeds."""


def cells(first: float, second: float, joint: float, *, noise: float = 0.02) -> dict:
    """Return 16 folds in which the factors add that much, and that much more together."""
    rng = np.random.default_rng(2)
    base = {"v00": 0.0, "v10": first, "v01": second, "v11": first + second + joint}
    return {k: v * (1 + noise * rng.standard_normal(16)) for k, v in base.items()}


@given(st.integers(0, 10_000), st.integers(1, 20))
def test_main_effects_add_to_the_total(seed: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    found = factorial({name: rng.standard_normal(folds) for name in CELLS})
    assert found.main[0].value + found.main[1].value == pytest.approx(
        found.total.value, abs=1e-12
    )


def test_main_effects_are_the_shapley_values_of_two_players() -> None:
    found = factorial(SEEDS)
    value = {
        chosen: float(SEEDS[f"v{int('norm' in chosen)}{int('activation' in chosen)}"].mean())
        for chosen in coalitions(("norm", "activation"))
    }
    expected = shapley_values(("norm", "activation"), value)
    assert found.main[0].value == pytest.approx(float(expected["norm"]))
    assert found.main[1].value == pytest.approx(float(expected["activation"]))


def test_the_effects_of_one_seed_are_those_of_its_cells() -> None:
    found = factorial({k: v[:1] for k, v in SEEDS.items()})
    assert found.main[1].value == pytest.approx(-0.0955, abs=1e-4)
    assert found.main[0].value == pytest.approx(0.0071, abs=1e-4)
    assert found.interaction.value == pytest.approx(0.0110, abs=1e-4)


def test_two_seeds_resolve_the_activation_and_neither_norm_nor_interaction() -> None:
    found = factorial(SEEDS, spread=0.01, unit="nats", metric="loss")
    assert found.main[1].excludes_zero
    assert not found.main[0].excludes_zero
    assert not found.interaction.excludes_zero
    assert "norm +0.00383 [-0.01, +0.0177] nats cannot be told from zero" in found.sentence
    assert "activation -0.094" in found.sentence
    assert "interaction -0.0138" in found.sentence
    assert "cannot be told from zero" in found.sentence.rsplit(";", 1)[1]


def test_two_seeds_without_a_known_spread_say_that_they_are_too_few() -> None:
    found = factorial(SEEDS)
    assert "too few folds" in found.sentence
    assert np.isnan(found.total.low)


def test_swaps_that_add_are_separable_with_their_shares() -> None:
    found = factorial(cells(0.0005, 0.1417, 0.0006), unit="relative energy")
    assert found.separable
    assert found.main[1].value / found.total.value == pytest.approx(0.994, abs=0.01)
    assert "interaction" in found.sentence
    assert "not separable" not in found.sentence


def test_swaps_that_need_each_other_are_not_separable() -> None:
    found = factorial(cells(0.05, 0.05, 0.1))
    assert not found.separable
    assert found.interaction.excludes_zero
    assert "50 % of the total: not separable" in found.sentence


def test_an_interaction_within_noise_is_not_claimed() -> None:
    found = factorial(cells(1.0, 1.0, 0.0, noise=0.3))
    assert not found.interaction.excludes_zero
    assert "cannot be told from zero" in found.sentence


def test_results_are_per_term() -> None:
    count = np.arange(1.0, 17.0)
    summed = {name: value * count for name, value in cells(0.1, 0.3, 0.0, noise=0).items()}
    found = factorial(summed, count=count)
    assert found.cells == pytest.approx((0.0, 0.1, 0.3, 0.4))
    assert found.total.low == pytest.approx(0.4)


def test_nothing_swapped_is_nothing_told() -> None:
    found = factorial({name: np.zeros(16) for name in CELLS})
    assert found.separable
    assert found.sentence.count("cannot be told from zero") == 2
    assert not found.total.excludes_zero


def test_a_cell_that_is_not_finite_is_said() -> None:
    broken = {name: np.full(8, np.nan) for name in CELLS}
    assert "not finite" in factorial(broken).sentence


def test_a_missing_cell_and_unlike_folds_are_told() -> None:
    with pytest.raises(FactorialError, match="lacks v01, v11"):
        factorial({"v00": np.zeros(2), "v10": np.zeros(2)})
    with pytest.raises(FactorialError, match="unlike numbers of folds: v00 has 2, v10 has 3"):
        factorial({name: np.zeros(2 + (name == "v10")) for name in CELLS})
    with pytest.raises(FactorialError, match="2 folds have 3 counts"):
        factorial({name: np.zeros(2) for name in CELLS}, count=np.ones(3))
