"""Theory stands beside what was seen, and a swap that theory tells is no bug."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ffn_probe.attribution.attribution import Attribution, Theory
from ffn_probe.attribution.explain import attribution_of
from ffn_probe.attribution.pair_tables import PairTables
from ffn_probe.attribution.theory import ln_to_rms_error
from ffn_probe.sketches.bit_codes import bit_codes
from tests.attribution.toy import (
    LAYERS,
    Toy,
    changed,
    effect,
    frame,
    gelu,
    joined,
    layer_norm,
    model,
    name,
    quick_gelu,
    rms_norm,
    run,
    tables,
)

SWAP = {"swap": {"norm": "rmsnorm", "how": "naive"}}
EVERYWHERE = tuple(Toy(b.up, b.down, rms_norm) for b in model())


def norm_effects(factor: float = 1.0) -> list[dict[str, Any]]:
    """Return what a replay writes of LN -> RMS; `factor` on what theory predicts."""
    rows = []
    for layer, roles in enumerate(run(model())[0]):
        x = roles["resid"]
        r = x.mean(-1) / x.std(-1)
        signal = (layer_norm(x) ** 2).sum(-1)
        told = np.array([[ln_to_rms_error(float(v)) for v in row] for row in r]) * signal
        seen = (rms_norm(x) - layer_norm(x)) ** 2
        root = np.sqrt(1 + r**2)[..., None]
        parts = {
            "observed": seen.sum((1, 2)), "predicted": factor * told.sum(1),
            "energy": signal.sum(1), "scale": (((1 - root) * rms_norm(x)) ** 2).sum((1, 2)),
            "mean_leakage": (r**2).sum(1) * x.shape[-1],
        }  # fmt: skip
        for part, values in parts.items():
            rows += effect("norm", part, values, layer=layer)
    return rows


def swapped(rows: list[dict[str, Any]], about: dict[str, Any] | None = None) -> Attribution:
    given = tables(EVERYWHERE, about=about)
    effects = joined(given.frames["effects"], frame("effects", rows))
    return attribution_of(tables(EVERYWHERE, about=about, effects=effects))


def of(found: Attribution, which: str, layer: int = 0) -> Theory:
    return next(t for t in found.blocks[layer].theory if t.name == which)


# Norm


def test_a_norm_swap_is_what_theory_expects() -> None:
    found = swapped(norm_effects(), SWAP)
    assert found.status == "expected"
    assert "Theory expects it: norm " in found.verdict
    assert found.verdict.endswith("seen in layer 0, and so in 2 other blocks.")
    for layer in range(LAYERS):
        told = of(found, "norm", layer)
        assert told.verdict == "expected"
        assert told.observed == pytest.approx(told.expected, abs=1e-6)


def test_the_level_of_a_norm_swap_is_that_of_its_stage() -> None:
    found = swapped(norm_effects(), SWAP)
    stage = found.blocks[1].stages[0]
    assert (stage.stage, stage.injected_db) == (
        "norm",
        pytest.approx(of(found, "norm", 1).observed),
    )


def test_a_norm_swap_that_is_worse_than_theory_is_unexplained() -> None:
    found = swapped(norm_effects(factor=0.5), SWAP)
    assert found.status == "unexplained"
    assert of(found, "norm").verdict == "unexplained"
    assert "Theory does not tell layer 0's norm" in found.verdict
    assert "(and 2 more levels)" in found.verdict


def test_the_causes_of_a_norm_swap_are_shares_of_its_energy() -> None:
    split = {c.part: c for c in swapped(norm_effects(), SWAP).blocks[2].norm_split}
    assert [*split] == ["scale", "mean_leakage"]
    assert split["mean_leakage"].share.value > 0.9
    r = run(model())[0][2]["resid"]
    r = r.mean(-1) / r.std(-1)
    assert split["mean_leakage"].energy == pytest.approx((r**2).sum() * 24)


def test_what_nobody_swapped_is_told_by_theory_and_not_expected() -> None:
    found = swapped(norm_effects())
    assert found.status == "drift"
    assert "Formulas of both models tell it: norm " in found.verdict
    assert "expects" not in found.verdict


def test_a_swap_that_theory_has_no_word_for_is_a_drift() -> None:
    assert swapped([], SWAP).status == "drift"


# Activation


def gates(own: PairTables, layer: int, *, factor: float = 1.0) -> pd.DataFrame:
    """Return the row of `activation_error` of quick GELU for GELU in one layer."""
    gate = run(model())[0][layer]["gate"].ravel()
    apart = (quick_gelu(gate) - gelu(gate)) ** 2
    codes, where = np.unique(bit_codes(gate, 3), return_inverse=True)
    sums = np.bincount(where, apart)
    row = {
        "fold": -1, "layer": layer, "block": name(layer), "role": "gate", "codes": codes,
        "counts": np.bincount(where), "expected": sums * factor, "error": sums,
    }  # fmt: skip
    return joined(own.frames["activation_error"], frame("activation_error", [row]))


@pytest.mark.parametrize(("factor", "word"), [(1.0, "expected"), (2.0, "unexplained")])
def test_an_activation_swap_is_told_by_its_formulas(factor: float, word: str) -> None:
    candidate = changed(1, act=quick_gelu)
    rows = gates(tables(candidate), 1, factor=factor)
    about = {"swap": {"activation": "quick_gelu"}}
    found = attribution_of(tables(candidate, activation_error=rows, about=about))
    told = of(found, "activation", 1)
    assert (found.status, told.verdict) == (word, word)
    stage = next(s for s in found.blocks[1].stages if s.stage == "activation")
    assert told.observed == pytest.approx(stage.injected_db)


# Formats


def law(part: str, expected: float, seen: float, *, layer: int) -> list[dict[str, Any]]:
    energies = {"expected_error": expected, "error": seen, "energy": 1.0}
    return [
        row
        for metric, value in energies.items()
        for row in effect("theory", part, np.full(8, value), layer=layer, metric=metric)
    ]


@pytest.mark.parametrize(
    ("seen", "word"), [(1e-3, "expected"), (3e-3, "unexplained"), (1e-15, "indistinguishable")]
)
def test_a_format_is_told_by_its_law(seen: float, word: str) -> None:
    found = swapped(law("int8:hidden", 1e-3, seen, layer=0))
    told = of(found, "int8:hidden")
    assert (told.verdict, told.unit) == (word, "dB")
    assert told.expected == pytest.approx(30.0)
    assert "127" in told.source or "52.87" in told.source


def test_quantized_hidden_values_are_expected_where_nothing_else_drifts() -> None:
    def rounded(x: np.ndarray) -> np.ndarray:
        step = np.abs(gelu(x)).max() / 127
        return np.rint(gelu(x) / step) * step

    candidate = changed(0, act=rounded)
    gate = run(model())[0][0]["gate"]
    signal, error = (gelu(gate) ** 2).sum(), ((rounded(gate) - gelu(gate)) ** 2).sum()
    crest = np.abs(gelu(gate)).max() / np.sqrt((gelu(gate) ** 2).mean())
    expected = signal * 10 ** (-(20 * math.log10(127 * math.sqrt(12) / crest)) / 10)
    rows = law("int8:hidden", expected / signal, error / signal, layer=0)
    effects = joined(tables(candidate).frames["effects"], frame("effects", rows))
    about = {"swap": {"quantize": {"hidden": "int8:tensor"}}}
    found = attribution_of(tables(candidate, effects=effects, about=about))
    assert found.status == "expected"
    assert found.blocks[0].stages[2].injected_db == pytest.approx(
        of(found, "int8:hidden").observed
    )


# Numbers


def numbers(part: str, expected: float, seen: np.ndarray, layer: int = 0) -> list[dict]:
    rows = effect("theory", part, np.full(seen.size, expected), layer=layer, metric="expected")
    return rows + effect("theory", part, seen, layer=layer, metric="observed")


@pytest.mark.parametrize(
    ("seen", "word"), [(0.747, "expected"), (0.8, "expected"), (0.9, "unexplained")]
)
def test_a_ratio_may_be_ten_per_cent_off(seen: float, word: str) -> None:
    told = of(swapped(numbers("std_ratio", 0.747, np.full(8, seen))), "std_ratio")
    assert (told.verdict, told.observed) == (word, pytest.approx(seen))


def test_a_mean_whose_interval_holds_theory_is_expected() -> None:
    wide = 0.01 + 0.05 * np.random.default_rng(0).standard_normal(16)
    told = of(swapped(numbers("mean_hidden_candidate", 0.012, wide)), "mean_hidden_candidate")
    assert told.verdict == "expected"
    assert told.tolerance > 0.1 * 0.012
    sharp = of(swapped(numbers("mean_hidden_candidate", 0.012, np.full(8, 0.03))),
               "mean_hidden_candidate")  # fmt: skip
    assert sharp.verdict == "unexplained"


def test_powers_that_add_are_told_of_the_whole_model() -> None:
    found = swapped(numbers("power_sum", 2.0, np.full(8, 2.05), layer=-1))
    [told] = found.theory
    assert (told.name, told.verdict) == ("power_sum", "expected")
    assert "independent error powers add" in told.source
