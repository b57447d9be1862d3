"""The error of an activation falls into the regions where the two curves are apart."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, ndtr

from ffn_probe.attribution.regions import EDGES, gate_errors, regions
from ffn_probe.attribution.theory import GELU_DIP, SILU_DIP
from ffn_probe.sketches.bit_codes import bit_codes

GATE = 1.5 * np.random.default_rng(0).standard_normal(200_000)


def row(gate: np.ndarray, error: np.ndarray) -> pd.DataFrame:
    codes, where = np.unique(bit_codes(gate, 3), return_inverse=True)
    sums = np.bincount(where, error)
    columns = {"codes": codes, "counts": np.bincount(where), "expected": sums, "error": sums}
    return pd.DataFrame([columns])


def curves(name: str) -> np.ndarray:
    other = {"silu": GATE * expit(GATE), "relu": np.maximum(GATE, 0)}[name]
    return np.asarray((other - GATE * ndtr(GATE)) ** 2)


def test_the_regions_cover_every_gate_once() -> None:
    ends = [(low, high) for _, low, high in EDGES]
    assert ends[0][0] == -np.inf
    assert ends[-1][1] == np.inf
    assert all(a[1] == b[0] for a, b in pairwise(ends))
    assert ends[1][0] < SILU_DIP < GELU_DIP < ends[1][1] < 0


@pytest.mark.parametrize("name", ["silu", "relu"])
def test_the_shares_are_those_of_the_gates_themselves(name: str) -> None:
    error = curves(name)
    found = regions(row(GATE, error))
    assert sum(r.share for r in found) == pytest.approx(1.0)
    assert sum(r.gate_share for r in found) == pytest.approx(1.0)
    for region in found:
        inside = (region.low <= GATE) & (region.high > GATE)
        # A bin is an eighth of an octave wide, and stands on one side of an edge as a whole.
        assert region.share == pytest.approx(error[inside].sum() / error.sum(), abs=0.02)
        assert region.gate_share == pytest.approx(inside.mean(), abs=0.02)


@pytest.mark.parametrize("name", ["silu", "relu"])
def test_half_of_the_error_is_left_of_zero(name: str) -> None:
    """SiLU and ReLU differ from GELU by even functions of the gate."""
    found = {r.name: r.share for r in regions(row(GATE, curves(name)))}
    half = found["negative tail"] + found["dip"] + found["origin"] / 2
    assert half == pytest.approx(0.5, abs=0.02)


def test_silu_errs_in_the_tail_and_relu_does_not() -> None:
    relu, silu = (
        {r.name: r.share for r in regions(row(GATE, curves(n)))} for n in ("relu", "silu")
    )
    assert silu["negative tail"] > 0.05 > 5 * relu["negative tail"]


def test_an_error_at_one_gate_is_in_its_region() -> None:
    for gate, name in (
        (-5.0, "negative tail"),
        (-1.0, "dip"),
        (0.0, "origin"),
        (3.0, "positive"),
    ):
        [only] = [r for r in regions(row(np.array([gate]), np.ones(1))) if r.share]
        assert (only.name, only.share, only.gate_share) == (name, 1.0, 1.0)


def test_gates_that_are_not_finite_are_left_out() -> None:
    gate = np.array([np.nan, np.inf, -np.inf, 1.0])
    gates, counts, _, error = gate_errors(row(gate, np.ones(4)))
    assert (gates.size, counts.sum(), error.sum()) == (1, 1, 1)


def test_rows_of_several_windows_are_added() -> None:
    twice = pd.concat([row(GATE, curves("silu"))] * 2)
    once = regions(row(GATE, curves("silu")))
    for one, both in zip(once, regions(twice), strict=True):
        assert (both.name, both.gate_share) == (one.name, one.gate_share)
        assert both.share == pytest.approx(one.share)


def test_no_rows_and_no_error_have_no_regions() -> None:
    assert regions(row(GATE, np.zeros_like(GATE))) == ()
    assert regions(row(GATE, curves("silu")).iloc[:0]) == ()
