from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.discover.discover import discover
from ffn_probe.errors import SwapError
from ffn_probe.formats import fake_quantize
from ffn_probe.swaps.folds import HOMOGENEOUS, fold_gain, fold_hidden, smooth
from ffn_probe.swaps.quantized import Quantizer, quantize_role
from ffn_probe.swaps.rotation import hadamard, rotate_hidden
from ffn_probe.swaps.scales import hidden_absmax, smooth_scales
from sample_runs import tiny_lm

D, H = 32, 48


class Glu(nn.Module):
    """x + ffn(norm(x)) with a gate; `between` stands before the down projection."""

    def __init__(
        self,
        d_model: int = D,
        d_ff: int = H,
        *,
        bias: bool = False,
        between: nn.Module | None = None,
        act: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.between = between or nn.Identity()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(self.between(self.act(self.gate(y)) * self.up(y)))


class Mlp(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor], d_ff: int = H) -> None:
        super().__init__()
        self.norm, self.act = nn.LayerNorm(D), act
        self.up, self.down = nn.Linear(D, d_ff), nn.Linear(d_ff, D)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "silu": F.silu,
}


def ready(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().to(dtype)


def example(dtype: torch.dtype = torch.float64, *, tokens: int = 12, width: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, tokens, width, generator=generator, dtype=dtype)


def only_block(model: nn.Module, x: Any) -> Block:
    (block,) = discover(model, x)
    return block


def run(model: nn.Module, x: Any) -> Tensor:
    with torch.no_grad():
        out = model(**x) if isinstance(x, dict) else model(x)
    return out if isinstance(out, Tensor) else out[0]


def random_scales(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(size, generator=generator, dtype=torch.float64) * 3 + 0.1


def twos(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.pow(2.0, torch.randint(-6, 7, (size,), generator=generator)).double()


def db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2)))


def int8_rows(values: Tensor) -> np.ndarray:
    """Return a round trip through int8 with one scale a row."""
    return fake_quantize(values.numpy(), "int8", granularity="token").astype(np.float64)


# ---- scales through hidden --------------------------------------------------------------


def test_scaling_the_hidden_tensor_of_a_glu_keeps_its_output_to_rounding() -> None:
    model, x = ready(lambda: Glu(bias=True)), example()
    block, before = only_block(model, x), run(model, x)
    with ExitStack() as stack:
        done = fold_hidden(model, block, random_scales(H), x, stack)
        after = run(model, x)
    assert float((before - after).abs().max() / before.abs().max()) < 1e-15
    assert done.sqnr_db > 300
    assert set(done.parameters) == {"up.weight", "up.bias", "down.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_powers_of_two_fold_bit_for_bit(dtype: torch.dtype) -> None:
    model, x = ready(Glu, dtype), example(dtype)
    block = only_block(model, x)
    with ExitStack() as stack:
        done = fold_hidden(model, block, twos(H), x, stack)
        assert done.rounded == 0
        up, down = model.up.weight.clone(), model.down.weight.clone()
    assert torch.equal(up, model.up.weight * twos(H)[:, None].to(dtype))
    assert torch.equal(down, model.down.weight / twos(H).to(dtype))


def test_factors_that_are_no_powers_of_two_are_counted_as_rounded() -> None:
    model, x = ready(Glu, torch.float32), example(torch.float32)
    with ExitStack() as stack:
        done = fold_hidden(model, only_block(model, x), random_scales(H), x, stack)
    assert done.rounded > H * D


def test_an_underflow_is_counted_and_an_overflow_refused() -> None:
    model, x = ready(Glu, torch.float16), example(torch.float16)
    block = only_block(model, x)
    small = torch.full((H,), 2.0**-12, dtype=torch.float64)
    with ExitStack() as stack:
        assert fold_hidden(model, block, small, x, stack).rounded > 0
    with pytest.raises(SwapError, match="too large for float16"), ExitStack() as stack:
        fold_hidden(model, block, torch.full((H,), 2.0**-30, dtype=torch.float64), x, stack)


@pytest.mark.parametrize("name", sorted(HOMOGENEOUS))
def test_a_homogeneous_activation_lets_positive_factors_pass(name: str) -> None:
    model, x = ready(lambda: Mlp(ACTS[name])), example()
    block, before = only_block(model, x), run(model, x)
    assert block.activation == name
    with ExitStack() as stack:
        fold_hidden(model, block, random_scales(H), x, stack)
        tops = hidden_absmax(model, [block], [x])[block.name]
        after = run(model, x)
    plain = hidden_absmax(model, [block], [x])[block.name]
    assert torch.allclose(before, after, rtol=1e-13, atol=1e-13)
    assert torch.allclose(tops, plain * random_scales(H))


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_a_curved_activation_lets_none_pass(name: str) -> None:
    model, x = ready(lambda: Mlp(ACTS[name])), example()
    with pytest.raises(SwapError, match=f"cannot pass its {name}, only relu"):
        fold_hidden(model, only_block(model, x), random_scales(H), x, ExitStack())


def test_a_clamp_between_gate_and_value_lets_none_pass() -> None:
    class Clamped(Glu):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            gate = self.gate(y).clamp(max=0.4)
            return x + self.down(F.silu(gate) * self.up(y).clamp(-0.4, 0.4))

    model, x = ready(Clamped), example()
    with pytest.raises(SwapError, match="clamped_swiglu: clamps or offsets"):
        fold_hidden(model, only_block(model, x), random_scales(H), x, ExitStack())


def test_a_norm_before_down_is_seen_on_the_example_and_undone() -> None:
    model, x = ready(lambda: Glu(between=nn.LayerNorm(H))), example()
    block, before = only_block(model, x), run(model, x)
    with pytest.raises(SwapError, match="does not let a factor pass"), ExitStack() as stack:
        fold_hidden(model, block, random_scales(H), x, stack)
    assert torch.equal(before, run(model, x))


def test_a_low_rank_delta_beside_up_is_seen_on_the_example_and_undone() -> None:
    class Delta(Glu):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(D, 4, bias=False), nn.Linear(4, H, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return x + self.down(F.silu(self.gate(y)) * (self.up(y) + self.b(self.a(y))))

    model, x = ready(Delta), example()
    block, before = only_block(model, x), run(model, x)
    with pytest.raises(SwapError, match="a low-rank delta"), ExitStack() as stack:
        fold_hidden(model, block, random_scales(H), x, stack)
    assert torch.equal(before, run(model, x))


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (torch.ones(H - 1), "has 48 hidden channels"),
        (torch.zeros(H), "finite and not zero, not 0.0"),
        (torch.full((H,), float("nan")), "not nan"),
    ],
)
def test_factors_that_are_none_are_refused(scales: Tensor, message: str) -> None:
    model, x = ready(Glu), example()
    with pytest.raises(SwapError, match=message):
        fold_hidden(model, only_block(model, x), scales, x, ExitStack())


def test_a_negative_factor_passes_a_glu_and_no_relu() -> None:
    model, x = ready(Glu), example()
    before = run(model, x)
    with ExitStack() as stack:
        fold_hidden(model, only_block(model, x), -random_scales(H), x, stack)
        assert torch.allclose(before, run(model, x), rtol=1e-13, atol=1e-13)
    model = ready(lambda: Mlp(F.relu))
    with pytest.raises(SwapError, match="finite and positive"):
        fold_hidden(model, only_block(model, x), -random_scales(H), x, ExitStack())


def test_a_matrix_that_is_shared_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Glu(), Glu()
            self.b.down.weight = self.a.down.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    model, x = ready(Two), example()
    with pytest.raises(SwapError, match=r"down.weight of 'a' is shared with b.down.weight"):
        fold_hidden(model, discover(model, x)[0], random_scales(H), x, ExitStack())


def test_undo_puts_the_very_parameters_back() -> None:
    model, x = ready(lambda: Glu(bias=True)), example()
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    with ExitStack() as stack:
        fold_hidden(model, only_block(model, x), random_scales(H), x, stack)
        assert id(model.up.weight) != before["up.weight"][0]
    for name, parameter in model.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])


TINY = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "separate": ("LlamaForCausalLM", TINY),
    "fused": ("Phi3ForCausalLM", TINY),
    "packed experts": ("MixtralForCausalLM", TINY | EXPERTS),
    "transposed": (
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "activation_function": "relu"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_layout_of_matrices_is_folded(name: str) -> None:
    model_name, config = MODELS[name]
    torch.manual_seed(0)
    cls = getattr(transformers, model_name)
    model = cls(cls.config_class(**config)).eval()
    ids = {
        "input_ids": torch.randint(5, 60, (2, 8), generator=torch.Generator().manual_seed(3))
    }
    before = run(model, ids)
    block = discover(model, ids)[1]
    with ExitStack() as stack:
        done = fold_hidden(model, block, random_scales(block.d_ff), ids, stack)
        changed = hidden_absmax(model, [block], [ids])[block.name]
        after = run(model, ids)
    plain = hidden_absmax(model, [block], [ids])[block.name]
    assert done.sqnr_db > 115
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-6)
    assert torch.allclose(changed, plain * random_scales(block.d_ff), rtol=1e-4)


# ---- smoothing --------------------------------------------------------------------------


def test_scales_bring_every_channel_to_the_median() -> None:
    absmax = torch.tensor([1.0, 50.0, 2.0, 0.0, 4.0, 0.5])
    exact = smooth_scales(absmax, base=None)
    assert (absmax.double() * exact).tolist() == pytest.approx([2.0, 2.0, 2.0, 0.0, 2.0, 2.0])
    rounded = (absmax.double() * smooth_scales(absmax))[absmax > 0]
    assert float(rounded.max() / rounded.min()) <= 2.0
    assert smooth_scales(absmax, base=4).log2().div(2).frac().abs().max() == 0
    assert smooth_scales(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_an_absmax_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(SwapError, match="an absmax is a finite number from 0 up"):
        smooth_scales(torch.tensor([1.0, bad]))


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(SwapError, match=r"positive number, not 0\.0"):
        smooth_scales(torch.ones(2), level=0.0)


def w8a8_db(model: Glu, x: Tensor) -> tuple[float, float]:
    """Return the SQNR of int8 hidden (one scale a token), and of the product with int8 down."""
    y = model.norm(x)
    hidden = (F.silu(model.gate(y)) * model.up(y)).detach()[0]
    weight = model.down.weight.detach()
    out = (hidden @ weight.T).numpy()
    stored = int8_rows(hidden)
    return db(hidden.numpy(), stored), db(out, stored @ int8_rows(weight).T)


def test_smoothing_eight_channels_of_50_takes_w8a8_from_13_to_34_db() -> None:
    torch.manual_seed(0)
    model = Glu(512, 1024).eval().double()
    with torch.no_grad():
        for linear in (model.gate, model.up, model.down):
            linear.weight.normal_(std=linear.in_features**-0.5)
        model.up.weight[:8] *= 50
        model.down.weight[:, :8] /= 50
    x = torch.randn(1, 512, 512, dtype=torch.float64)
    block, before = only_block(model, x), w8a8_db(model, x)
    out = run(model, x)
    with ExitStack() as stack:
        scales = smooth_scales(hidden_absmax(model, [block], [x])[block.name], base=None)
        fold_hidden(model, block, scales, x, stack)
        after = w8a8_db(model, x)
        assert float((run(model, x) - out).abs().max() / out.abs().max()) < 2e-15
    assert before == pytest.approx((26.1, 13.1), abs=0.5)
    assert after[1] == pytest.approx(33.9, abs=0.5)


def test_smoothing_a_sample_model_changes_no_logit_and_calms_every_block() -> None:
    model = tiny_lm.load("ln-swiglu")
    batches = tiny_lm.held_back(count=2, sequences=2, length=64)
    blocks, before = discover(model, batches[0]), run(model, batches[0])
    spread = hidden_absmax(model, blocks, batches)
    with ExitStack() as stack:
        done = smooth(model, blocks, batches, stack)
        calm = hidden_absmax(model, blocks, batches)
        after = run(model, batches[0])
    assert torch.equal(before, after)
    assert [fold.rounded for fold in done] == [0, 0, 0, 0]
    for block in blocks:
        wild, tame = spread[block.name], calm[block.name]
        assert float(wild.max() / wild.min()) > 3
        assert float(tame.max() / tame.min()) <= 2.0


def test_smoothing_is_all_or_nothing() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Glu(), Mlp(F.gelu)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    model, x = ready(Both), example()
    before = {name: id(p) for name, p in model.named_parameters()}
    with pytest.raises(SwapError, match="'b' is an MLP"), ExitStack() as stack:
        smooth(model, discover(model, x), [x], stack)
    assert before == {name: id(p) for name, p in model.named_parameters()}


def test_a_token_of_nan_sets_no_absmax() -> None:
    model, x = ready(Glu), example()
    block, spoilt = only_block(model, x), x.clone()
    spoilt[0, 3] = float("nan")
    tops = hidden_absmax(model, [block], [spoilt])[block.name]
    kept = hidden_absmax(model, [block], [x[1:], x[:1, :3], x[:1, 4:]])[block.name]
    assert torch.allclose(tops, kept)


def test_a_block_that_never_ran_has_no_absmax() -> None:
    model, x = ready(Glu), example()
    block = only_block(model, x)
    with pytest.raises(SwapError, match="never ran on the calibration batches"):
        hidden_absmax(model, [block], [])


# ---- the norm's gain --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ln-gelu", "ln-swiglu", "rms-gelu", "rms-swiglu"])
def test_folding_the_gain_leaves_a_unit_norm_and_the_same_logits(name: str) -> None:
    model = tiny_lm.load(name).double()
    batch = tiny_lm.held_back(count=1, sequences=2, length=64)[0]
    blocks, before = discover(model, batch), run(model, batch)
    with ExitStack() as stack:
        done = fold_gain(model, blocks, batch, stack)
        after = run(model, batch)
        norms = [layer.ffn_norm for layer in model.layers]
        assert all(bool((norm.weight == 1).all()) for norm in norms)
        assert all(not bool(norm.bias.any()) for norm in norms if hasattr(norm, "bias"))
    assert float((before - after).abs().max() / before.abs().max()) < 1e-14
    assert len(done) == 4
    assert done[0].high > done[0].low
    assert torch.equal(before, run(model, batch))


def test_a_gain_of_one_plus_w_is_folded_whole() -> None:
    torch.manual_seed(0)
    cls = transformers.GemmaForCausalLM
    model = cls(cls.config_class(**TINY, head_dim=8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = {"input_ids": torch.arange(5, 13)[None]}
    blocks, before = discover(model, ids), run(model, ids)
    with ExitStack() as stack:
        fold_gain(model, blocks, ids, stack)
        assert not bool(model.model.layers[0].post_attention_layernorm.weight.any())
        assert torch.allclose(before, run(model, ids), rtol=1e-4, atol=1e-5)


def test_a_gain_that_something_else_reads_is_refused() -> None:
    class Reread(Glu):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return y.tanh() + x + self.down(F.silu(self.gate(y)) * self.up(y))

    model, x = ready(Reread), example()
    with pytest.raises(SwapError, match=r"read by what is no matrix: 'tanh'.*Nothing was"):
        fold_gain(model, discover(model, x), x, ExitStack())


def test_a_block_without_a_norm_has_no_gain_to_fold() -> None:
    class Bare(Glu):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(F.silu(self.gate(x)) * self.up(x))

    model, x = ready(Bare), example()
    with pytest.raises(SwapError, match="no LayerNorm or RMSNorm module stands before"):
        fold_gain(model, discover(model, x), x, ExitStack())


def test_a_norm_without_vectors_has_nothing_to_fold() -> None:
    model, x = ready(Glu), example()
    model.norm = nn.LayerNorm(D, elementwise_affine=False)
    with pytest.raises(SwapError, match="norm has neither gain nor bias"):
        fold_gain(model, discover(model, x), x, ExitStack())


def test_a_gain_that_two_norms_share_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Glu(), Glu()
            self.b.norm.weight = self.a.norm.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    model, x = ready(Two), example()
    with pytest.raises(SwapError, match="is also a parameter of another module"):
        fold_gain(model, discover(model, x)[:1], x, ExitStack())


def test_folding_the_gain_frees_int8_of_one_loud_channel() -> None:
    torch.manual_seed(0)
    model = Glu(1024, 64).eval().double()
    with torch.no_grad():
        model.norm.weight[3] = 10.0
    x = torch.randn(1, 256, 1024, dtype=torch.float64)

    def others() -> float:
        rows = model.norm(x).detach()[0]
        keep = np.arange(1024) != 3
        return db(rows.numpy()[:, keep], int8_rows(rows)[:, keep])

    before = others()
    with ExitStack() as stack:
        fold_gain(model, discover(model, x), x, stack)
        after = others()
    assert before == pytest.approx(32.5, abs=0.7)
    assert after == pytest.approx(41.9, abs=0.7)


# ---- rotation ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 8, 12, 48, 384])
@pytest.mark.parametrize("seed", [None, 0])
def test_a_hadamard_matrix_is_orthonormal(size: int, seed: int | None) -> None:
    matrix = hadamard(size, seed=seed)
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-14)


def test_a_hadamard_matrix_is_scipys() -> None:
    from scipy.linalg import hadamard as theirs

    expected = torch.from_numpy(theirs(64).astype(float)) / 8
    assert torch.allclose(hadamard(64), expected)


def test_the_trap_of_a_rotation_without_signs() -> None:
    """The hidden tensor of ReLU^2 has a mean, which an unsigned rotation gathers."""
    generator = np.random.default_rng(0)
    hidden = torch.from_numpy(np.maximum(generator.standard_normal((512, 4096)), 0) ** 2)

    def turned(seed: int | None) -> float:
        rows = hidden @ hadamard(4096, seed=seed).T
        return db(rows.numpy(), int8_rows(rows))

    assert db(hidden.numpy(), int8_rows(hidden)) == pytest.approx(35.5, abs=0.3)
    assert turned(None) == pytest.approx(24.5, abs=0.3)
    assert turned(1) == pytest.approx(41.3, abs=0.3)


@pytest.mark.parametrize("name", ["relu2", "silu"])
def test_a_rotated_block_computes_what_it_did(name: str) -> None:
    model, x = ready(lambda: Mlp(ACTS[name])), example()
    block, before = only_block(model, x), run(model, x)
    with ExitStack() as stack:
        rotate_hidden(model, block, stack)
        assert torch.allclose(before, run(model, x), rtol=1e-12, atol=1e-12)
    assert torch.equal(before, run(model, x))


def test_a_quantization_after_a_rotation_sees_the_rotated_tensor() -> None:
    model, x = ready(lambda: Mlp(ACTS["relu2"], 256)), example(tokens=200)
    block, before = only_block(model, x), run(model, x)

    def left(*, rotated: bool) -> float:
        with ExitStack() as stack:
            if rotated:
                rotate_hidden(model, block, stack)
            quantize_role(model, block, "hidden", Quantizer.parse("int4:token"), stack)
            return db((before - x).numpy(), (run(model, x) - x).numpy())

    assert left(rotated=True) > left(rotated=False) + 2
