"""The drift at the output: by tokens, with floors, and by what there is to compare."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from ffn_probe.attribution.attribution import Output
from ffn_probe.attribution.output_drift import output_drift
from tests.attribution.toy import SEQUENCES, TOKENS, effect, frame, model, tables

HEALTHY = {"error": 0.0, "energy": 1e4, "kl": 0.0, "top1": float(TOKENS)}


def output(
    candidate: Mapping[str, float], noise: Mapping[str, float] | None = None
) -> Output | None:
    """Return the drift of sums that are the same in every fold."""
    rows = [
        row
        for part, metrics in (("candidate", candidate), ("noise", noise or {}))
        for metric, value in metrics.items()
        for row in effect(
            "output", part, np.full(SEQUENCES, value), metric=metric, count=TOKENS
        )
    ]
    return output_drift(tables(model(), effects=frame("effects", rows)))


def told(candidate: Mapping[str, float], noise: Mapping[str, float] | None = None) -> Output:
    found = output(candidate, noise)
    assert found is not None
    return found


def test_equal_outputs_are_indistinguishable() -> None:
    found = told(HEALTHY)
    assert (found.status, found.sqnr_db) == ("indistinguishable", math.inf)
    assert (found.kl.value, found.top1.value) == (0.0, 1.0)
    assert found.tokens == SEQUENCES * TOKENS


def test_logits_that_differ_are_a_drift_even_where_the_choice_does_not() -> None:
    """A constant on all logits of a token changes no probability, and is no rounding."""
    found = told(HEALTHY | {"error": 1.0})
    assert (found.status, found.kl.value) == ("drift", 0.0)
    assert found.sqnr_db == pytest.approx(40.0)


def test_the_floor_is_the_references_own() -> None:
    found = told(HEALTHY | {"error": 1.0}, {"error": 1.0, "energy": 1e4, "kl": 2e-3})
    assert found.status == "indistinguishable"
    assert found.floor_db == pytest.approx(40.0)
    assert found.kl_floor == pytest.approx(2e-3 / TOKENS)


def test_outputs_that_are_not_finite_are_a_drift() -> None:
    found = told(HEALTHY | {"error": math.nan, "kl": math.nan})
    assert found.status == "drift"
    assert math.isnan(found.sqnr_db)
    assert math.isnan(found.kl.value)


@pytest.mark.parametrize(("kl", "status"), [(0.0, "indistinguishable"), (1e-3, "drift")])
def test_where_only_probabilities_are_known_they_are_judged(kl: float, status: str) -> None:
    assert told({"kl": kl * TOKENS, "top1": 1.0}).status == status
    assert told({"kl": kl * TOKENS}, {"kl": kl * TOKENS}).status == "indistinguishable"


def test_the_loss_is_the_candidates_less_the_references() -> None:
    found = told(HEALTHY | {"loss_a": 12.0, "loss_b": 18.0})
    assert found.loss_difference.value == pytest.approx(6 / TOKENS)
    assert math.isnan(told(HEALTHY).loss_difference.value)


def test_an_interval_is_by_folds_of_sequences() -> None:
    values = np.random.default_rng(0).gamma(2, size=SEQUENCES)
    rows = effect("output", "candidate", values, metric="kl", count=TOKENS)
    found = output_drift(tables(model(), effects=frame("effects", rows)))
    assert found is not None
    assert found.kl.value == pytest.approx(values.sum() / SEQUENCES / TOKENS)
    assert found.kl.low < found.kl.value < found.kl.high


def test_a_run_without_outputs_has_none() -> None:
    assert output({}) is None
