"""Whatever numbers a damaged table holds, a run is explained in words and plain JSON."""

import json
import math

import numpy as np
import pytest

from ffn_probe.attribution.explain import attribution_of
from ffn_probe.attribution.pair_measures import measures_of
from ffn_probe.attribution.pair_tables import PairTables
from tests.attribution.test_expectations import gates, law, norm_effects
from tests.attribution.test_story import ADDING, cells, hypothesis
from tests.attribution.toy import (
    SEQUENCES,
    TOKENS,
    changed,
    effect,
    frame,
    joined,
    quick_gelu,
    tables,
)

EXTREMES = (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e308, -1e308, 5e-324)


def everything() -> PairTables:
    """Return tables with something in each of them."""
    candidate = changed(1, act=quick_gelu)
    plain = tables(candidate)
    rows = [*norm_effects(), *law("int8:hidden", 1e-3, 1e-3, layer=0)]
    rows += cells("kl", ADDING, TOKENS)
    parts = ("activation", "norm", "total", "alone:activation", "alone:norm")
    for part in parts:
        rows += effect("shapley", part, np.ones(SEQUENCES), layer=1)
    for part in ("back", "in", "back:norm"):
        rows += effect("patch", part, np.ones(SEQUENCES), layer=1)
    rows += effect("patch", "back_all", np.ones(SEQUENCES))
    for metric in ("expected", "observed"):
        rows += effect("theory", "power_sum", np.ones(SEQUENCES), metric=metric)
    return tables(
        candidate,
        effects=joined(plain.frames["effects"], frame("effects", rows)),
        activation_error=gates(plain, 1),
        hypotheses=frame("hypotheses", [hypothesis("quick_gelu", reached=True)]),
    )


@pytest.mark.parametrize("seed", range(12))
def test_any_numbers_are_explained(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = everything()
    for table in ("paired", "effects", "hypotheses"):
        data = given.frames[table]
        for column in data.select_dtypes("float64").columns:
            struck = rng.random(len(data)) < rng.choice([0.02, 0.5, 1.0])
            data.loc[struck, column] = rng.choice(EXTREMES, struck.sum())
    found = attribution_of(given)
    assert found.verdict
    assert len(json.loads(found.to_json())["blocks"]) == len(found.blocks)
    assert len(measures_of(given)) > 50


@pytest.mark.parametrize("value", EXTREMES, ids=str)
@pytest.mark.parametrize("table", ["paired", "effects"])
def test_one_number_everywhere_is_explained(table: str, value: float) -> None:
    given = everything()
    for column in given.frames[table].select_dtypes("float64").columns:
        given.frames[table][column] = value
    found = attribution_of(given)
    assert found.status in {"indistinguishable", "expected", "bug", "drift", "unexplained"}
    assert found.to_json()
    assert len(measures_of(given)) > 50


@pytest.mark.parametrize("value", EXTREMES, ids=str)
def test_channels_and_gates_of_any_numbers_are_explained(value: float) -> None:
    given = everything()
    channels = given.frames["paired_channels"]
    for name in ("sum_a", "sum_aa", "sum_ab"):
        channels[name] = [np.full_like(row, value) for row in channels[name]]
    errors = given.frames["activation_error"]
    for name in ("expected", "error"):
        errors[name] = [np.full(len(row), value) for row in errors[name]]
    assert attribution_of(given).to_json()
    assert len(measures_of(given)) > 50
