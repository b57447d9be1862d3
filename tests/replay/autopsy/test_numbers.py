"""The SQNR that each bug predicts is the one that theory and other people's code give."""

from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ffn_probe.anatomy import Block, Norm, Projection
from ffn_probe.replay.autopsy.bugs import Bug, Case
from ffn_probe.replay.autopsy.gate_bugs import gate_bugs
from ffn_probe.replay.autopsy.layout_bugs import layout_bugs
from ffn_probe.replay.autopsy.norm_bugs import norm_bugs
from ffn_probe.replay.autopsy.quantized import late_block
from ffn_probe.replay.autopsy.search import hidden_fits
from ffn_probe.replay.autopsy.stage import Stage, predictions, sqnr_db, stage_of
from ffn_probe.replay.parts import NormPart, Parts
from ffn_probe.swaps.weights import Matrix
from ffn_probe.zoo.fingerprint import Match

WIDTH, D_FF, ROWS = 256, 512, 1024


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _unit_rows(seed: int) -> Matrix:
    weight = _normal(D_FF, WIDTH, seed=seed)
    return Matrix(weight / weight.norm(dim=-1, keepdim=True), None)


def _case(activation: str, *, glu: bool, norm: NormPart | None = None) -> Case:
    """Return a block whose gate and value are N(0, 1), and whose output is its hidden."""
    parts = Parts(
        norm=norm or NormPart("none"),
        gate=_unit_rows(1),
        value=_unit_rows(2) if glu else None,
        down=Matrix(torch.eye(D_FF), None),
        activation=Match(activation, 0.0),
    )
    names = ("gate", "up", "down") if glu else ("up", "down")
    block = Block(
        "ffn", 0, "glu" if glu else "mlp", activation, Norm("none"),
        {n: Projection(n) for n in names}, WIDTH, D_FF,
    )  # fmt: skip
    return Case(block, parts, block)


def _healthy(case: Case) -> Stage:
    x = _normal(ROWS, WIDTH, seed=3)
    return stage_of(case.parts, "normed", "out", x, case.parts.run({"normed": x})["out"])


def _predicted(stage: Stage, bugs: Iterable[Bug], name: str) -> float:
    bug = next(b for b in bugs if b.name == name)
    return sqnr_db(stage.base, predictions(stage, bug)[-1])


@pytest.mark.parametrize(
    ("right", "name", "expected"),
    [
        ("gelu", "activation: gelu_tanh instead of gelu", 74.09),
        ("gelu", "activation: quick_gelu instead of gelu", 39.50),
        ("gelu", "activation: silu instead of gelu", 16.33),
        ("gelu", "activation: relu instead of gelu", 14.23),
        ("silu", "activation: sigmoid instead of silu", 1.78),
    ],
)
def test_a_wrong_activation_of_an_mlp(right: str, name: str, expected: float) -> None:
    case = _case(right, glu=False)
    assert _predicted(_healthy(case), gate_bugs(case), name) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gate and up swapped", 2.26), ("concatenated read as interleaved", -3.01)],
)
def test_a_wrong_layout_of_a_swiglu(name: str, expected: float) -> None:
    case = _case("silu", glu=True)
    stage = _healthy(case)
    assert _predicted(stage, layout_bugs(case), name) == pytest.approx(expected, abs=0.2)


def test_a_missing_activation_of_a_swiglu_is_at_0_db() -> None:
    case = _case("silu", glu=True)
    found = _predicted(_healthy(case), gate_bugs(case), "activation missing")
    assert found == pytest.approx(0.0, abs=0.1)


def test_quick_gelu_and_the_tanh_form_are_off_by_their_known_maxima() -> None:
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    case = _case("gelu", glu=False)
    gap = {}
    for bug in gate_bugs(case):
        changed = bug.change(case.parts)
        assert changed is not None
        gap[bug.name] = float((changed.hidden(x, None) - F.gelu(x)).abs().max())
    quick = gap["activation: quick_gelu instead of gelu"]
    tanh = gap["activation: gelu_tanh instead of gelu"]
    assert quick == pytest.approx(0.0203349, abs=1e-6)
    assert tanh == pytest.approx(4.732e-4, abs=1e-6)


def _norm_case(form: str, eps: float) -> Case:
    return _case("silu", glu=True, norm=NormPart(form, torch.ones(WIDTH), None, eps))


def test_eps_moves_a_stream_of_rms_a_hundredth_by_4_percent() -> None:
    case = _norm_case("rmsnorm", 1e-6)
    x = _normal(ROWS, WIDTH, seed=5)
    x = 0.01 * x / x.square().mean(-1, keepdim=True).sqrt()
    stage = stage_of(case.parts, "resid", "normed", x, case.parts.norm.apply(x))
    found = _predicted(stage, norm_bugs(case), "eps 1e-05 instead of 1e-06")
    assert 10 ** (-found / 20) == pytest.approx(0.0418, abs=2e-4)


def test_the_two_cast_orders_differ_by_51_db_in_a_quarter_of_the_values() -> None:
    gain = (1 + 0.1 * _normal(WIDTH, seed=6)).bfloat16()
    case = _case("silu", glu=True, norm=NormPart("rmsnorm", gain, None, 1e-6))
    x = _normal(ROWS, WIDTH, seed=7).bfloat16()
    other = NormPart("rmsnorm_fp32", gain, None, 1e-6).apply(x)
    stage = stage_of(case.parts, "resid", "normed", x, other)
    healthy = stage.healthy[torch.bfloat16]["normed"]
    assert sqnr_db(healthy, other) == pytest.approx(51.0, abs=0.5)
    assert float((healthy != other).float().mean()) == pytest.approx(0.257, abs=0.03)
    assert stage.is_healthy
    best = hidden_fits(stage, norm_bugs(case))[0]
    assert best.bug.name == "cast order"
    assert best.after_db == float("inf")


def test_layernorm_run_as_rmsnorm_is_at_minus_20_log_r() -> None:
    case = _norm_case("layernorm", 1e-12)
    x = _normal(ROWS, WIDTH, seed=8)
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0) + 0.1
    stage = stage_of(case.parts, "resid", "normed", x, case.parts.norm.apply(x))
    found = _predicted(stage, norm_bugs(case), "LayerNorm run as RMSNorm")
    assert found == pytest.approx(20.03, abs=0.05)


def test_a_scale_rounded_after_quantizing_is_at_6_db_and_inflates_by_1_44() -> None:
    octave = torch.rand(512 * 128, 1, generator=torch.Generator().manual_seed(11))
    x = (_normal(512 * 128, 32, seed=9) * torch.exp2(octave)).reshape(512, 4096)
    made = late_block(x)  # the scales of blocks are spread evenly over an octave
    assert sqnr_db(x, made) == pytest.approx(5.7, abs=0.4)
    blocks = [t.reshape(-1, 32) for t in (made, x)]
    slopes = (blocks[0] * blocks[1]).sum(-1) / blocks[1].square().sum(-1)
    assert float(slopes.mean()) == pytest.approx(1.4427, abs=0.02)


def test_tanh_inside_the_noise_of_bfloat16_is_found_by_its_template() -> None:
    case = _case("gelu", glu=False)
    x = _normal(4 * ROWS, WIDTH, seed=10).bfloat16()
    gate = x.float() @ case.parts.gate.weight.t()
    seen = F.gelu(gate, approximate="tanh").bfloat16()
    stage = stage_of(case.parts, "normed", "out", x, seen)
    assert stage.is_healthy
    best = hidden_fits(stage, gate_bugs(case))[0]
    assert best.bug.name == "activation: gelu_tanh instead of gelu"
    assert best.z > 150
    assert abs(best.coefficient - 1) < 4 * best.coefficient / best.z  # standard errors


def test_erf_inside_the_noise_of_bfloat16_has_no_template_of_another_activation() -> None:
    case = _case("gelu", glu=False)
    x = _normal(ROWS, WIDTH, seed=10).bfloat16()
    seen = F.gelu(x.float() @ case.parts.gate.weight.t()).bfloat16()
    stage = stage_of(case.parts, "normed", "out", x, seen)
    assert hidden_fits(stage, gate_bugs(case)) == []
