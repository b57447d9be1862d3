import numpy as np
import pytest
import torch
from torch.nn import functional

from ffn_probe.replay.regions import ActivationError
from ffn_probe.sketches.histogram import BitHistogram
from ffn_probe.zoo.fingerprint import Match


@pytest.fixture(scope="module")
def gate() -> torch.Tensor:
    return 2 * torch.randn(400, 32, generator=torch.Generator().manual_seed(0))


def test_the_errors_of_all_gates_add_to_the_whole(gate):
    held = ActivationError(Match("gelu", 0.0), Match("silu", 0.0))
    a, b = functional.gelu(gate), functional.silu(gate)
    for part in (slice(0, 100), slice(100, None)):
        held.add(gate[part], a[part], b[part])
    row = held.row()
    whole = float((b.double() - a.double()).square().sum())
    assert row["error"].sum() == pytest.approx(whole, rel=1e-9)
    assert row["expected"].sum() == pytest.approx(whole, rel=1e-5)
    histogram = BitHistogram.of(gate.numpy(), bits=3)
    assert row["counts"].sum() == gate.numel()
    assert sorted(row["codes"]) == sorted(histogram.codes)


def test_what_is_no_formula_is_seen_and_not_expected(gate):
    held = ActivationError(Match("gelu", 0.0), Match("gelu", 0.0))
    held.add(gate, functional.gelu(gate), functional.gelu(gate) + 0.1)
    row = held.row()
    assert row["expected"].sum() == 0
    assert row["error"].sum() == pytest.approx(0.01 * gate.numel(), rel=1e-4)


def test_values_that_are_not_finite_are_left_out(gate):
    bad = gate.clone()
    bad[0, 0], bad[1, 1] = np.nan, np.inf
    held = ActivationError(Match("gelu", 0.0), Match("silu", 0.0))
    held.add(bad, functional.gelu(bad), functional.silu(bad))
    assert held.row()["counts"].sum() == gate.numel() - 2
    assert np.isfinite(held.row()["error"]).all()
