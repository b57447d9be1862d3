"""The curves without torch are those of torch, and a dip is where they are least."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from ffn_probe.figures.activation_curve import CURVES, DIPS
from ffn_probe.zoo.activations import ACTIVATIONS
from ffn_probe.zoo.gates import GATES

KNOWN = {entry.name: entry for entry in ACTIVATIONS}
JOINT = {entry.name: entry for entry in GATES}
X = np.linspace(-15, 15, 601)


@pytest.mark.parametrize("name", [n for n in CURVES if n in KNOWN])
def test_a_curve_is_the_activation(name: str) -> None:
    expected = KNOWN[name].function(torch.tensor(X), **KNOWN[name].params).numpy()
    np.testing.assert_allclose(CURVES[name](X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in CURVES if n in JOINT])
def test_the_curve_of_a_clamped_form_is_what_it_makes_of_the_gate(name: str) -> None:
    gate, entry = torch.tensor(X), JOINT[name]
    one = torch.ones_like(gate)
    per_value = entry.function(gate, one, **entry.params) - entry.function(
        gate, 0 * one, **entry.params
    )
    np.testing.assert_allclose(CURVES[name](X), per_value.numpy(), rtol=1e-12, atol=1e-12)


def test_every_curve_is_of_a_known_activation() -> None:
    assert set(CURVES) <= set(KNOWN) | set(JOINT)
    assert set(DIPS) <= set(CURVES)


@pytest.mark.parametrize("name", list(CURVES))
def test_a_dip_is_where_the_curve_is_least_inside_of_its_ends(name: str) -> None:
    least = minimize_scalar(
        lambda x: float(CURVES[name](np.array([x]))[0]), bounds=(-4, -0.1), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    inside = -3.9 < least.x < -0.11 and least.fun < float(CURVES[name](np.array([-4.0]))[0])
    flat = np.ptp(CURVES[name](np.linspace(-4, -0.1, 9))) < 1e-12
    assert (name in DIPS) == (inside and not flat)
    if name in DIPS:
        assert least.x == pytest.approx(DIPS[name], abs=1e-6)
