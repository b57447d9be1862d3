"""Activations and gates that are put in: their values, their drift, where they stand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_probe.discover import discover
from ffn_probe.errors import AttachError, ExampleError, SwapError
from ffn_probe.probes import record
from ffn_probe.runs import Run
from ffn_probe.swaps import swap
from sample_runs import tiny_lm
from tests.probes.models import tiny, tokens
from tests.swaps.plain import Glu, Mlp, Shared, drawn, hidden_of, rows, straight
from tests.swaps.states import batch, db, logits, state

WIDE = 64


def normal(count: int = 8000, width: int = WIDE) -> Tensor:
    """Return values whose every pair of halves is a pair of independent N(0, 1)."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, count, width, generator=generator, dtype=torch.float64)


def line(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, 64001, dtype=torch.float64)[None, :, None].repeat(
        1, 1, WIDE
    )


def acted(activation: str, x: Tensor) -> Tensor:
    """Return what enters the down projection of an MLP whose gate is x."""
    model = straight(Mlp(WIDE, WIDE)).double()
    with swap(model, activation=activation, example=(normal(4),)):
        return hidden_of(model, x)


def test_silu_has_its_minimum_where_it_should() -> None:
    x = (
        torch.linspace(-2, -1, 64001, dtype=torch.float64)
        .reshape(1, -1, 1)
        .expand(-1, -1, WIDE)
    )
    y = acted("silu", x)[0, :, 0]
    assert y.min().item() == pytest.approx(-0.278465, abs=1e-6)
    assert x[0, y.argmin(), 0].item() == pytest.approx(-1.278465, abs=2e-5)


@pytest.mark.parametrize(
    ("name", "largest"), [("quick_gelu", 0.0203349), ("gelu_tanh", 4.732e-4)]
)
def test_approximate_gelus_are_off_by_what_is_known(name: str, largest: float) -> None:
    x = line(-6, 6)
    exact = x[0, :, 0] * torch.special.ndtr(x[0, :, 0])
    assert (acted(name, x)[0, :, 0] - exact).abs().max().item() == pytest.approx(
        largest, rel=2e-4
    )


DRIFT = [
    ("gelu", "gelu_tanh", 74.09),
    ("gelu", "quick_gelu", 39.50),
    ("gelu", "silu", 16.33),
    ("gelu", "relu", 14.23),
    ("silu", "sigmoid", 1.78),
]


@pytest.mark.parametrize(("right", "wrong", "expected"), DRIFT)
def test_a_wrong_activation_drifts_by_what_theory_says(
    right: str, wrong: str, expected: float
) -> None:
    x = normal()
    assert db(acted(right, x), acted(wrong, x)) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("swish_beta:beta=1.5", lambda x: torch.as_tensor(x.numpy() * expit(1.5 * x.numpy()))),
        ("leaky_relu:negative_slope=0.1", lambda x: x.clamp(min=0) + 0.1 * x.clamp(max=0)),
        ("relu2", lambda x: x.clamp(min=0) ** 2),
        ("elu:alpha=0.5", lambda x: torch.where(x > 0, x, 0.5 * torch.expm1(x))),
    ],
)
def test_parameters_behind_the_name_are_used(
    name: str, by_hand: Callable[[Tensor], Tensor]
) -> None:
    x = normal(50)
    torch.testing.assert_close(acted(name, x), torch.as_tensor(by_hand(x)))


# ---- gates ------------------------------------------------------------------------------


def met(gating: str, x: Tensor) -> Tensor:
    """Return the hidden tensor of a GLU whose gate and value are the halves of x."""
    half = x.shape[-1] // 2
    model = straight(Glu(2 * half, half)).double()
    model.norm = nn.Identity()
    with torch.no_grad():
        model.up.weight.copy_(torch.eye(2 * half)[half:])
    with swap(model, gating=gating, example=(x[:, :4],)):
        return hidden_of(model, x)


MOMENTS = [
    ("swiglu", 0.35578, 21.785), ("geglu", 0.42522, 21.647), ("bilinear", 1.0, 9.0),
    ("reglu", 0.5, 18.0), ("glu", None, 4.59),
]  # fmt: skip


@pytest.mark.parametrize(("gating", "second", "kurtosis"), MOMENTS)
def test_gated_hidden_tensors_have_the_known_moments(
    gating: str, second: float | None, kurtosis: float
) -> None:
    h = met(gating, normal(30000))
    if second is not None:
        assert h.square().mean().item() == pytest.approx(second, rel=0.01)
    found = (h**4).mean() / h.square().mean() ** 2
    assert found.item() == pytest.approx(kurtosis, rel=0.08)


@pytest.mark.parametrize("gating", ["swiglu", "geglu", "reglu"])
@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_the_mean_of_a_gated_hidden_is_half_the_covariance(gating: str, rho: float) -> None:
    x = normal(20000)
    gate, other = x.chunk(2, -1)
    value = rho * gate + math.sqrt(1 - rho**2) * other
    assert met(gating, torch.cat([gate, value], -1)).mean().item() == pytest.approx(
        rho / 2, abs=0.005
    )


def test_gate_and_value_exchanged_are_what_the_fingerprint_says() -> None:
    gate, value = normal(20000).chunk(2, -1)
    one, other = (met("swiglu", torch.cat(pair, -1)) for pair in ((gate, value), (value, gate)))
    assert db(one, other) == pytest.approx(2.26, abs=0.05)
    cosine = F.cosine_similarity(one.flatten(), other.flatten(), dim=0)
    assert cosine.item() == pytest.approx(0.7027, abs=0.003)


def _gpt_oss(g: Tensor, u: Tensor) -> Tensor:
    g, u = g.clamp(max=7), u.clamp(-7, 7)
    return (u + 1) * g * torch.sigmoid(1.702 * g)


JOINT = [
    ("gpt_oss_swiglu:limit=7", _gpt_oss),
    ("clamped_swiglu", lambda g, u: F.silu(g.clamp(max=10)) * u.clamp(-10, 10)),
    ("clamped_swiglu:limit=2", lambda g, u: F.silu(g.clamp(max=2)) * u.clamp(-2, 2)),
]


@pytest.mark.parametrize(("name", "by_hand"), JOINT, ids=[n for n, _ in JOINT])
def test_joint_gates_clamp_and_shift(
    name: str, by_hand: Callable[[Tensor, Tensor], Tensor]
) -> None:
    x = 6 * normal(200)
    h = met(name, x)
    torch.testing.assert_close(h, by_hand(*x.chunk(2, -1)))
    if name.startswith("gpt"):
        assert h.max().item() <= 56.0 + 1e-3
        assert h.min().item() >= -42.0 - 1e-3


# ---- between GLU and MLP ----------------------------------------------------------------


def test_an_mlp_made_a_glu_is_the_mlp_bit_for_bit_and_trains() -> None:
    model = tiny_lm.load("ln-gelu")
    out = logits(model)
    with swap(model, gating="gated", example=batch()) as done:
        assert torch.equal(logits(model), out)
        block = discover(model, batch())[2]
        path = model.get_submodule(block.projections["up"].path)
        tiny_lm.loss(model(**batch()), batch()["input_ids"]).backward()
        assert path.weight.grad.abs().max().item() > 0
        assert path.bias.grad.abs().max().item() > 0
    assert (block.kind, block.activation) == ("glu", "gelu")
    assert block.projections["gate"].path == "layers.2.ffn.up"
    assert "value_path" in done.changed[2].note
    assert not any("value_path" in name for name in model.state_dict())


def test_an_mlp_can_become_a_glu_with_another_activation() -> None:
    model, x = drawn(Mlp()), rows()
    with swap(model, gating="swiglu", example=(x,)):
        torch.testing.assert_close(hidden_of(model, x), F.silu(model.up(x)))
        assert discover(model, (x,))[0].activation == "silu"
    with swap(model, gating="gated", activation="relu", example=(x,)):
        torch.testing.assert_close(hidden_of(model, x), F.relu(model.up(x)))


def test_a_glu_made_an_mlp_has_the_mean_of_its_value_path() -> None:
    model, x = drawn(Glu()), rows(400)
    calibration = [(x[:1],), (x[1:],)]
    mean = model.up(model.norm(x)).mean((0, 1))
    expected = x + model.down(F.silu(model.gate(model.norm(x))) * mean)
    with swap(model, gating="mlp", example=(x,), calibration=calibration) as done:
        torch.testing.assert_close(model(x), expected)
        assert discover(model, (x,))[0].kind == "mlp"
    assert "mean of the value path" in done.changed[0].note


def test_a_sequence_of_layers_is_not_made_longer_by_a_value_path() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ffn = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.ffn(x)

    model, x = drawn(Steps()), rows()
    out = model(x)
    with swap(model, gating="gated", example=(x,)):
        assert len(model.ffn) == 3
        assert torch.equal(model(x), out)
        assert discover(model, (x,))[0].kind == "glu"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("ln-gelu", {"gating": "clamped_swiglu"}, "needs a value path"),
    ("ln-gelu", {"gating": "gpt_oss_swiglu"}, "needs a value path"),
    ("rms-swiglu", {"gating": "mlp"}, r"pass calibration="),
    ("rms-swiglu", {"activation": "relu", "how": "matched"}, r"pass calibration="),
]


@pytest.mark.parametrize(("name", "wish", "reason"), REFUSED)
def test_what_cannot_be_done_is_refused_with_the_reason(
    name: str, wish: dict[str, Any], reason: str
) -> None:
    model = tiny_lm.load(name)
    before = state(model)
    with pytest.raises(SwapError, match=reason), swap(model, example=batch(), **wish):
        pass
    assert state(model) == before


def test_an_empty_calibration_is_an_error() -> None:
    model = tiny_lm.load("rms-swiglu")
    swapping = swap(model, gating="mlp", example=batch(), calibration=[])
    with pytest.raises(ExampleError, match="no calibration batches"), swapping:
        pass


# ---- matched, places, probes ------------------------------------------------------------


@pytest.mark.parametrize("name", ["ln-gelu", "rms-swiglu"])
def test_matched_gives_the_hidden_tensor_its_rms_back(name: str) -> None:
    model = tiny_lm.load(name)
    x = torch.randn(4, 40, 96, generator=torch.Generator().manual_seed(1))
    ffn = model.layers[1].ffn
    before = hidden_of(ffn, x)
    normal_input = [batch()]
    seen: list[Tensor] = []
    hook = ffn.down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits(model)
    with swap(
        model, activation="relu", how="matched", blocks=[1], example=batch(),
        calibration=normal_input,
    ) as done:  # fmt: skip
        seen[1:] = []
        logits(model)
        old, new = seen
        assert not torch.equal(hidden_of(ffn, x), before)
    hook.remove()
    assert new.square().mean().sqrt().item() == pytest.approx(old.square().mean().sqrt().item())
    assert done.changed[0].sqnr_db == pytest.approx(db(old, new), abs=0.01)
    assert db(old, new) < 20


def test_matched_scales_a_new_glu_and_not_one_that_equals_its_mlp() -> None:
    model, x = drawn(Mlp()), rows()
    before = hidden_of(model, x)
    wish: dict[str, Any] = {"how": "matched", "example": (x,), "calibration": [(x,)]}
    with swap(model, gating="reglu", **wish) as done:
        after = hidden_of(model, x)
    rms = [h.square().mean().sqrt().item() for h in (before, after)]
    assert rms[1] == pytest.approx(rms[0], rel=1e-5)
    assert done.changed[0].note.startswith(
        "value path value_path, one at the start, hidden times"
    )
    with swap(model, gating="gated", **wish) as done:
        torch.testing.assert_close(hidden_of(model, x), before, rtol=0, atol=0)
    assert done.changed[0].sqnr_db is None


@pytest.mark.parametrize(("name", "same"), [("ln-gelu", "gelu"), ("rms-swiglu", "silu")])
@pytest.mark.parametrize("how", ["naive", "matched"])
def test_a_swap_to_the_same_activation_changes_nothing(name: str, same: str, how: str) -> None:
    model = tiny_lm.load(name)
    before = state(model)
    with swap(model, activation=same, how=how, example=batch(), calibration=[batch()]) as done:
        assert state(model) == before
    assert done.changed == ()
    assert [item.why.split()[-1] for item in done.left] == ["already"] * 4


def zero_share(run: Run, site: str) -> float:
    histogram = run.summary(site).histogram
    return float(histogram.zeros / histogram.count)


@pytest.mark.parametrize("name", ["ln-gelu", "rms-swiglu"])
def test_discovery_and_a_recording_see_the_new_activation(name: str, tmp_path: Path) -> None:
    model = tiny_lm.load(name)
    wish = {"activation": "relu", "norm": "rmsnorm_1p", "blocks": [1, 2]}
    with swap(model, example=batch(), **wish):
        blocks = discover(model, batch())
        run = record(model, [batch(), batch(32)], to=tmp_path / "run", rows="all")
    own = "gelu" if name == "ln-gelu" else "silu"
    assert [b.activation for b in blocks] == [own, "relu", "relu", own]
    assert [b.norm.function == "rmsnorm_1p" for b in blocks] == [False, True, True, False]
    role = "hidden" if name == "ln-gelu" else "gate_act"
    zeros = {block.layer: zero_share(run, f"{block.name}/{role}") for block in blocks}
    assert zeros[1] > 0.2
    assert zeros[2] > 0.2
    assert max(zeros[0], zeros[3]) < 0.001


def test_blocks_that_share_an_activation_module_are_told_apart() -> None:
    model, x = drawn(Shared()), rows()
    h = model.second.norm
    with swap(model, activation="relu", blocks="second", example=(x,)):
        middle = model.first(x)
        torch.testing.assert_close(middle, x + model.first.down(F.gelu(model.first.up(h(x)))))
        expected = middle + model.second.down(F.relu(model.second.up(h(middle))))
        torch.testing.assert_close(model(x), expected)


class Meeting(nn.Module):
    """Where gate and value of several blocks meet."""

    def forward(self, gate: Tensor, value: Tensor) -> Tensor:
        return F.silu(gate) * value


class MetInOnePlace(nn.Module):
    """Two GLUs whose gates and values meet in one and the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting, self.first, self.second = Meeting(), Glu(), Glu()

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.first, self.second):
            h = block.norm(x)
            x = x + block.down(2.0 * self.meeting(block.gate(h), block.up(h)))
        return x


@pytest.mark.parametrize("name", ["first", "second"])
def test_blocks_whose_tensors_pass_one_place_are_told_apart(name: str) -> None:
    model, x = drawn(MetInOnePlace()), rows()
    expected = x
    for block in (model.first, model.second):
        h = block.norm(expected)
        act = F.relu if block is model.get_submodule(name) else F.silu
        expected = expected + block.down(2.0 * act(block.gate(h)) * block.up(h))
    with swap(model, activation="relu", blocks=name, example=(x,)):
        torch.testing.assert_close(model(x), expected)


def test_an_activation_in_place_is_read_before_it_writes() -> None:
    class InPlace(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(F.silu(self.up(self.norm(x)), inplace=True))

    model, x = drawn(InPlace(norm=nn.LayerNorm(16))), rows()
    with swap(model, activation="mish", example=(x,)), torch.no_grad():
        expected = x + model.down(F.mish(model.up(model.norm(x))))
        torch.testing.assert_close(model(x), expected)


def test_a_later_swap_of_the_same_activation_wins_also_with_blocks_found_before() -> None:
    model, x = drawn(Glu()), rows()
    found = discover(model, (x,))
    with (
        swap(model, activation="relu", found=found),
        swap(model, activation="mish", found=found),
    ):
        expected = F.mish(model.gate(model.norm(x))) * model.up(model.norm(x))
        torch.testing.assert_close(hidden_of(model, x), expected)


def test_gradients_flow_through_what_was_put_in() -> None:
    model, x = drawn(Glu()).double(), rows().double()
    with swap(model, activation="softplus", norm="rmsnorm", example=(x,)):
        assert torch.autograd.gradcheck(model, (x.clone().requires_grad_(),))


class Strange(nn.Module):
    """A GLU with an activation of its own, behind one that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.known, self.strange = Glu(), Glu()

    def forward(self, x: Tensor) -> Tensor:
        x = self.known(x)
        h = self.strange.norm(x)
        gate = self.strange.gate(h)
        return x + self.strange.down(gate.sin() * self.strange.up(h))


def test_a_flagged_block_is_left_unless_it_is_named() -> None:
    model, x = drawn(Strange()), rows()
    with swap(model, activation="relu", example=(x,)) as done:
        assert [c.block for c in done.changed] == ["known"]
    assert done.left[0].path == "strange"
    assert "no activation of the zoo fits" in done.left[0].why
    with swap(model, activation="relu", blocks="strange", example=(x,)):
        assert {b.activation for b in discover(model, (x,))} == {"silu", "relu"}
    wish: dict[str, Any] = {"gating": "mlp", "example": (x,), "calibration": [(x,)]}
    with (
        pytest.raises(SwapError, match="say with activation="),
        swap(model, blocks="strange", **wish),
    ):
        pass


@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradients_are_those_of_the_swapped_model_under_checkpointing(
    *, checkpointing: bool
) -> None:
    found = []
    for way in (None, checkpointing):
        model, given = tiny(checkpointing=way).train(), tokens()
        with swap(model, activation="relu", norm="dyt", example=given):
            model(**given).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found)


def test_a_swap_that_the_example_does_not_reach_is_refused() -> None:
    class Optional(Glu):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.shape[1] > 4 else x

    model, x = drawn(Optional()), rows()
    found, before = discover(model, (x,)), state(model)
    for wish in ({"activation": "mish"}, {"quantize": {"hidden": "int8"}}):
        swapping = swap(model, found=found, example=(x[:, :3],), **wish)
        with pytest.raises(SwapError, match="never passed the place"), swapping:
            pass
    assert state(model) == before


def test_blocks_found_in_another_model_are_refused() -> None:
    model = tiny_lm.load("ln-gelu")
    found = discover(model, batch())
    model.layers = model.layers[:2]
    swapping = swap(model, activation="silu", found=found)
    with pytest.raises(AttachError, match="which the model does not have"), swapping:
        pass
