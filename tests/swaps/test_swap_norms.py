"""Norms that are put in compute what their names say, on what was stored or refitted."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ffn_probe.discover import discover
from ffn_probe.errors import SwapError
from ffn_probe.swaps import swap
from sample_runs import tiny_lm
from tests.swaps.plain import Mlp, Shared, drawn, rows
from tests.swaps.states import batch, db, logits, state

EPS = 1e-5


def _rms(x: np.ndarray, of: int | None = None) -> np.ndarray:
    return np.sqrt((x[..., :of] ** 2).mean(-1, keepdims=True) + EPS)


def _centred(x: np.ndarray) -> np.ndarray:
    away = x - x.mean(-1, keepdims=True)
    return away / np.sqrt((away**2).mean(-1, keepdims=True) + EPS)


Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
BY_HAND: tuple[tuple[str, Formula], ...] = (
    ("rmsnorm", lambda x, w, *_: w * x / _rms(x)),
    ("rmsnorm_fp32", lambda x, w, *_: w * x / _rms(x)),
    ("rmsnorm_native", lambda x, w, *_: w * x / _rms(x)),
    ("rmsnorm_1p", lambda x, w, *_: (1 + w) * x / _rms(x)),
    (
        "rmsnorm_eps_outside",
        lambda x, w, *_: w * x / (np.sqrt((x**2).mean(-1, keepdims=True)) + EPS),
    ),
    (
        "rmsnorm:eps=0.25",
        lambda x, w, *_: w * x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.25),
    ),
    ("layernorm_nobias", lambda x, w, *_: w * _centred(x)),
    ("layernorm_1p", lambda x, w, b: (1 + w) * _centred(x) + b),
    ("prmsnorm", lambda x, w, *_: w * x / _rms(x, 1)),
    ("l2norm", lambda x, w, *_: w * x / np.sqrt((x**2).sum(-1, keepdims=True))),
    ("dyt", lambda x, w, b: w * np.tanh(0.5 * x) + b),
    ("dyt:alpha=0.7", lambda x, w, b: w * np.tanh(0.7 * x) + b),
    ("none", lambda x, *_: x),
)


def normed(model: nn.Module) -> nn.LayerNorm:
    found = model.norm
    assert isinstance(found, nn.LayerNorm)
    return found


@pytest.mark.parametrize(("name", "by_hand"), BY_HAND, ids=[n for n, _ in BY_HAND])
def test_a_norm_reads_the_stored_vectors_in_its_own_way(name: str, by_hand: Formula) -> None:
    model = drawn(Mlp(norm=nn.LayerNorm(16))).double()
    x = rows().double() + 0.4
    w, b = (p.detach().numpy() for p in (normed(model).weight, normed(model).bias))
    expected = by_hand(x.numpy(), w, b)
    with swap(model, norm=name, example=(x,)):
        np.testing.assert_allclose(model.norm(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("how", ["rmsnorm", "rmsnorm_fp32"])
def test_an_rmsnorm_is_torchs(how: str) -> None:
    model, x = drawn(Mlp(norm=nn.LayerNorm(16))), rows() + 0.2
    expected = torch.nn.functional.rms_norm(x, (16,), normed(model).weight, eps=EPS)
    with swap(model, norm=how, example=(x,)):
        torch.testing.assert_close(model.norm(x), expected, rtol=2e-6, atol=2e-6)


def test_the_gain_is_the_very_parameter_of_before_and_trains() -> None:
    model, x = drawn(Mlp(norm=nn.LayerNorm(16))), rows()
    weight, bias = normed(model).weight, normed(model).bias
    with swap(model, norm="rmsnorm", example=(x,)) as done:
        assert model.norm.weight is weight
        assert list(model.state_dict()) == ["norm.weight", "up.weight", "down.weight"]
        model(x).square().sum().backward()
    assert weight.grad is not None
    assert bias.grad is None
    assert done.changed[0].note == "bias dropped"
    assert normed(model).bias is bias


RATIOS = [(0.01, 40.00), (0.1, 20.03), (0.3, 10.74)]


@pytest.mark.parametrize(("ratio", "expected"), RATIOS)
def test_a_naive_rmsnorm_is_off_by_the_mean_over_the_deviation(
    ratio: float, expected: float
) -> None:
    model = Mlp(64, 64, nn.LayerNorm(64, eps=0.0)).double()
    x = rows(200, 64).double()
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0) + ratio
    before = model.norm(x).detach()
    with swap(model, norm="rmsnorm", example=(x,)):
        found = db(before, model.norm(x).detach())
    theory = -10 * math.log10(2 - 2 / math.sqrt(1 + ratio**2))
    assert found == pytest.approx(theory, abs=1e-6)
    assert found == pytest.approx(expected, abs=0.01)
    assert found == pytest.approx(-20 * math.log10(ratio), abs=0.3 if ratio == 0.3 else 0.04)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_trained_model_drifts_as_its_means_predict_within_a_tenth_db(layer: int) -> None:
    model = tiny_lm.load("ln-gelu")
    with torch.no_grad():
        model.layers[layer].ffn_norm.weight.fill_(1.0)
        model.layers[layer].ffn_norm.bias.zero_()
    seen: list[Tensor] = []
    norm = model.layers[layer].ffn_norm
    hook = norm.register_forward_hook(lambda _, args, out: seen.extend((args[0], out)))
    logits(model)
    hook.remove()
    stream, before = seen
    square = (stream.mean(-1) / stream.std(-1, correction=0)) ** 2
    predicted = -10 * math.log10(float((2 - 2 / torch.sqrt(1 + square)).mean()))
    with swap(model, norm="rmsnorm", blocks=[layer], example=batch()):
        after = model.layers[layer].ffn_norm(stream).detach()
    assert db(before, after) == pytest.approx(predicted, abs=0.1)
    assert 25 < predicted < 40


@pytest.mark.parametrize("name", ["rmsnorm", "rmsnorm_1p", "prmsnorm", "dyt", "none"])
def test_matched_gives_every_channel_the_mean_and_variance_of_before(name: str) -> None:
    model = drawn(Mlp(norm=nn.LayerNorm(16))).double()
    with torch.no_grad():
        normed(model).weight[3] = -0.8
    batches = [(rows(60, seed=s).double() + 0.3,) for s in (3, 4)]
    x = torch.cat([b[0] for b in batches])
    before = model.norm(x).detach()
    with swap(model, norm=name, how="matched", example=batches[0], calibration=batches) as done:
        after = model.norm(x).detach()
        assert model.norm.weight[3].item() < (-1 if name == "rmsnorm_1p" else 0)
    for moment in (torch.mean, torch.var):
        torch.testing.assert_close(moment(after, (0, 1)), moment(before, (0, 1)))
    assert done.changed[0].sqnr_db == pytest.approx(db(before, after), abs=1e-6)


def test_matched_keeps_the_sign_of_a_gain_that_is_one_plus_what_is_stored() -> None:
    class Gemma(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(16))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.rms_norm(x, (16,), 1 + self.weight, 1e-6)

    model, x = drawn(Mlp(norm=Gemma())), rows(60)
    with torch.no_grad():
        model.norm.weight[:2] = torch.tensor([-0.5, -1.4])
    with swap(model, norm="layernorm", how="matched", example=(x,), calibration=[(x,)]):
        signs = model.norm.weight.sign().tolist()
    assert signs == [1.0, -1.0, *[1.0] * 14]


def test_matched_is_nearer_than_naive() -> None:
    model = tiny_lm.load("ln-gelu")
    reference = logits(model)
    found = []
    for how in ("naive", "matched"):
        with swap(
            model, norm="rmsnorm", norms="all", how=how, example=batch(), calibration=[batch()]
        ):
            found.append(db(reference, logits(model)))
    assert found[0] < 20
    assert found[1] > found[0] + 15


SAME = [("ln-gelu", "layernorm"), ("rms-gelu", "rmsnorm"), ("rms-swiglu", "rmsnorm_fp32")]


@pytest.mark.parametrize(("name", "norm"), SAME)
def test_a_swap_to_the_same_norm_changes_nothing(name: str, norm: str) -> None:
    model = tiny_lm.load(name)
    before, out = state(model), logits(model)
    with swap(model, norm=norm, example=batch()) as done:
        assert state(model) == before
        assert torch.equal(logits(model), out)
    assert done.changed == ()
    assert [item.why for item in done.left] == [f"it is {norm} already"] * 4


def test_cast_conventions_tell_apart_in_bfloat16_alone() -> None:
    model = Mlp(512, 16, nn.RMSNorm(512, eps=1e-6))
    with torch.no_grad():
        model.norm.weight.copy_(1 + 0.2 * rows(2, 512)[0, 0])
    model = model.to(torch.bfloat16)
    x = rows(800, 512).to(torch.bfloat16)
    with swap(model, norm="rmsnorm_fp32:eps=1e-5", example=(x,)):
        gemma = model.norm(x).detach()
    with swap(model, norm="rmsnorm:eps=1e-5", example=(x,)):
        llama = model.norm(x).detach()
    assert db(gemma, llama) == pytest.approx(51.0, abs=0.3)
    assert float((gemma != llama).float().mean()) == pytest.approx(0.257, abs=0.03)


def test_a_cast_convention_is_one_of_its_own_where_it_makes_a_difference() -> None:
    model = tiny_lm.load("rms-gelu")
    with swap(model, norm="rmsnorm", dtype="bf16", example=batch()) as done:
        assert len(done.changed) == 5
    with swap(model, norm="rmsnorm_fp32", dtype="bf16", example=batch()) as done:
        assert [c.part for c in done.changed] == ["dtype"]
    half = model.to(torch.bfloat16)
    with swap(half, norm="rmsnorm_native", example=batch()) as done:
        assert len(done.changed) == 4


def test_every_norm_of_the_model_or_of_the_blocks_that_were_chosen() -> None:
    model = tiny_lm.load("ln-gelu")
    with swap(model, norm="rmsnorm", norms="all", example=batch()) as done:
        assert not any(isinstance(m, nn.LayerNorm) for m in model.modules())
    assert len(done.changed) == 9
    with swap(model, norm="rmsnorm", blocks=[0, -1], example=batch()) as done:
        kinds = [block.norm.kind for block in discover(model, batch())]
    assert kinds == ["rmsnorm", "layernorm", "layernorm", "rmsnorm"]
    assert [c.path for c in done.changed] == ["layers.0.ffn_norm", "layers.3.ffn_norm"]


def test_a_norm_in_two_places_stays_one_module() -> None:
    model, x = drawn(Shared()), rows()
    before = state(model)
    with swap(model, norm="rmsnorm", example=(x,)) as done:
        assert model.first.norm is model.second.norm
        assert not isinstance(model.first.norm, nn.LayerNorm)
    assert len(done.changed) == 1
    assert state(model) == before


def test_hooks_on_a_norm_watch_the_one_that_replaces_it() -> None:
    model, x = drawn(Mlp(norm=nn.LayerNorm(16))), rows()
    seen: list[Tensor] = []
    hook = model.norm.register_forward_hook(lambda _, __, out: seen.append(out))
    with swap(model, norm="rmsnorm", example=(x,)):
        seen.clear()
        model(x)
        torch.testing.assert_close(seen[0], model.norm(x))
        hook.remove()
    seen.clear()
    model(x)
    assert not seen


def test_a_norm_that_is_no_module_is_put_in_where_it_is_read() -> None:
    class Inline(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            h = nn.functional.layer_norm(x, (16,), self.scale, None, 1e-6)
            return x + self.down(self.act(self.up(h)))

    model = Inline()
    model.scale = nn.Parameter(torch.ones(16))
    drawn(model)
    x = rows() + 0.5
    before = state(model)
    with swap(model, norm="rmsnorm", example=(x,)) as done:
        found = discover(model, (x,))[0].norm
        h = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * model.scale
        torch.testing.assert_close(model(x), x + model.down(model.act(model.up(h))))
    assert (found.function, found.eps, done.changed[0].note) == ("rmsnorm", 1e-6, "inline")
    assert state(model) == before


def test_an_inline_norm_that_is_scaled_before_it_is_read_is_refused() -> None:
    class Scaled(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            shift = x.mean(1, keepdim=True).sigmoid()
            h = nn.functional.layer_norm(x, (16,)) * (1 + shift)
            return x + self.down(self.act(self.up(h)))

    model, x = drawn(Scaled()), rows()
    before = state(model)
    with (
        pytest.raises(SwapError, match="scales or mixes"),
        swap(model, norm="rmsnorm", example=(x,)),
    ):
        pass
    assert state(model) == before


def test_a_parametrized_norm_is_refused() -> None:
    model, x = drawn(Mlp(norm=nn.LayerNorm(16))), rows()
    nn.utils.parametrize.register_parametrization(model.norm, "weight", nn.Identity())
    with (
        pytest.raises(SwapError, match="not its own parameters"),
        swap(model, norm="rmsnorm", example=(x,)),
    ):
        pass


def test_a_model_without_norms_has_none_to_swap() -> None:
    model, x = drawn(Mlp()), rows()
    with (
        pytest.raises(SwapError, match=r"applies to nothing .*no norm stands before it"),
        swap(model, norm="rmsnorm", example=(x,)),
    ):
        pass


def test_a_fused_encoder_layer_computes_with_what_was_put_in() -> None:
    options = {"batch_first": True, "norm_first": True, "activation": "gelu"}
    model = drawn(nn.TransformerEncoderLayer(16, 2, 32, **options))
    x = rows()
    middle = x + model._sa_block(model.norm1(x), None, None)
    h = nn.functional.rms_norm(middle, (16,), model.norm2.weight, eps=EPS)
    expected = middle + model.linear2(model.linear1(h).relu())
    with torch.no_grad(), swap(model, norm="rmsnorm", activation="relu", example=(x,)):
        torch.testing.assert_close(model(x), expected)
