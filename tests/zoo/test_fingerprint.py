"""Fingerprints name every form of the zoo, and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ffn_probe.zoo.activations import ACTIVATIONS, activation
from ffn_probe.zoo.fingerprint import (
    apply_match,
    identify_activation,
    identify_gate,
    identify_norm,
)
from ffn_probe.zoo.gates import GATES
from ffn_probe.zoo.norms import NORMS

GRID = torch.linspace(-24, 24, 4001, dtype=torch.float64)


def rows(width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, width, generator=generator, dtype=torch.float64)
    scales = torch.tensor([1.0, 1e-2, 30.0, 1e-4], dtype=torch.float64)
    return (x + 0.5) * scales[torch.arange(40) % 4][:, None]


@pytest.mark.parametrize("entry", ACTIVATIONS, ids=lambda e: e.name)
def test_every_activation_is_named_by_its_values(entry: object) -> None:
    name, params = entry.name, dict(entry.params)  # type: ignore[attr-defined]
    changed = {"swish_beta": {"beta": 1.3}}.get(name, params)
    values = activation(name).function(GRID, **changed)
    found = identify_activation(GRID, values)
    assert found is not None
    assert found.name == name
    assert torch.allclose(apply_match(found, GRID, None), values, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [torch.sin, lambda x: F.silu(x) + 1e-3 * x, lambda x: F.gelu(x) * 1.01],
)
def test_what_is_not_in_the_zoo_is_not_named(wrong: object) -> None:
    assert identify_activation(GRID, wrong(GRID)) is None  # type: ignore[operator]


@pytest.mark.parametrize("form", GATES, ids=lambda g: g.name)
def test_every_joint_form_is_named(form: object) -> None:
    g = GRID[torch.randperm(len(GRID), generator=torch.Generator().manual_seed(1))]
    hidden = form.function(g, GRID, **form.params)  # type: ignore[attr-defined]
    found = identify_gate(g, GRID, hidden)
    assert found is not None
    assert found.name == form.name  # type: ignore[attr-defined]


def test_a_clamp_limit_is_measured() -> None:
    g = GRID[torch.randperm(len(GRID), generator=torch.Generator().manual_seed(1))]
    hidden = GATES[0].function(g, GRID, limit=6.5)
    found = identify_gate(g, GRID, hidden)
    assert found is not None
    assert found.params["limit"] == pytest.approx(6.5)


@pytest.mark.parametrize("form", [n for n in NORMS if n.name != "dyt"], ids=lambda n: n.name)
@pytest.mark.parametrize("eps", [1e-5, 1e-6, 1e-8])
def test_every_norm_is_named_with_its_gain_and_eps(form: object, eps: float) -> None:
    weight = torch.rand(64, dtype=torch.float64) + 0.2
    y = form.function(rows(), weight, None, eps)  # type: ignore[attr-defined]
    found = identify_norm(rows(), y, weight, None)
    assert found is not None
    assert (found.kind, found.gain) == (form.kind, form.gain)  # type: ignore[attr-defined]
    if form.kind != "other":  # type: ignore[attr-defined]
        assert found.eps == eps


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_gain_of_a_fresh_one_plus_w_norm_is_told_from_w(value: float) -> None:
    weight = torch.full((64,), value, dtype=torch.float64)
    normal = F.layer_norm(rows(), (64,))
    plain = identify_norm(rows(), normal * weight, weight, None)
    shifted = identify_norm(rows(), normal * (1 + weight), weight, None)
    assert shifted is not None
    assert shifted.gain == "1+w"
    assert value == 0.0 or (plain is not None and plain.gain == "w")


def test_dynamic_tanh_is_named() -> None:
    weight = torch.rand(64, dtype=torch.float64) + 0.5
    found = identify_norm(rows(), weight * torch.tanh(0.5 * rows()), weight, None)
    assert found is not None
    assert found.function == "dyt"


def test_a_matrix_product_is_no_norm() -> None:
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    assert identify_norm(rows(), rows() @ mixing, None, None) is None


def test_silu_minimum_and_gelu_forms_have_their_published_values() -> None:
    x = torch.linspace(-6, 6, 2_000_001, dtype=torch.float64)
    silu = F.silu(x)
    assert float(silu.min()) == pytest.approx(-0.278465, abs=1e-6)
    assert float(x[silu.argmin()]) == pytest.approx(-1.278465, abs=1e-5)
    gelu = F.gelu(x)
    assert float((activation("quick_gelu").function(x) - gelu).abs().max()) == pytest.approx(
        0.0203349, abs=1e-6
    )
    assert float((activation("gelu_tanh").function(x) - gelu).abs().max()) == pytest.approx(
        4.732e-4, abs=1e-6
    )
