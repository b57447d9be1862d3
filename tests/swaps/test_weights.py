from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Norm, Projection
from ffn_probe.discover.discover import discover
from ffn_probe.errors import ModelError, UnknownName
from ffn_probe.swaps.interpose import interposed, readers
from ffn_probe.swaps.weights import Matrix, put_parameter, read_matrix
from tests.discover.plain_models import ConvFfn, Residual

D, H = 32, 48
IDS = {"input_ids": torch.arange(5, 21).view(2, 8)}
TINY = {
    "vocab_size": 64, "hidden_size": D, "intermediate_size": H, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def made(name: str, **config: Any) -> nn.Module:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def seen(model: nn.Module, example: Any, block: Block) -> dict[str, Tensor]:
    """Return the tensor of each role of a block."""
    found: dict[str, Tensor] = {}

    def watch(block: Block, tap: Any, value: Tensor) -> None:
        del block
        found[tap.role] = value.detach().clone()

    with interposed(model, readers(block), watch), torch.no_grad():
        model(**example) if isinstance(example, dict) else model(example)
    return found


def check(model: nn.Module, example: Any, block: Block) -> None:
    """Check that every matrix makes the role behind it from the role before."""
    roles = seen(model, example, block)
    value = "value" if block.kind == "glu" else "gate"
    steps = [("up", "normed", value), ("down", "hidden", "out")]
    steps += [("gate", "normed", "gate")] if block.kind == "glu" else []
    for name, before, after in steps:
        matrix = read_matrix(model, block, name)
        expected = F.linear(roles[before], matrix.weight, matrix.bias)
        assert torch.allclose(expected, roles[after], rtol=1e-4, atol=1e-5), name


DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "separate": ("LlamaForCausalLM", TINY),
    "fused": ("Phi3ForCausalLM", TINY),
    "transposed": ("GPT2LMHeadModel", {"n_embd": D, "n_layer": 2, "n_head": 4}),
    "biases": ("GPTNeoXForCausalLM", {k: v for k, v in TINY.items() if "key_value" not in k}),
    "inline": ("OPTForCausalLM", {**TINY, "ffn_dim": H, "word_embed_proj_dim": D}),
}


@pytest.mark.parametrize("name", sorted(DENSE))
def test_a_matrix_makes_the_role_behind_it(name: str) -> None:
    model_name, config = DENSE[name]
    model = made(model_name, **config)
    for block in discover(model, IDS):
        check(model, IDS, block)


class Layer(nn.Module):
    """x + ffn(norm(x)), and what a test puts in for gate, up and down."""

    def __init__(self, gate: nn.Module, up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.norm, self.gate, self.up, self.down = nn.LayerNorm(D), gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Transposed(nn.Module):
    """A matrix stored [in, out] in a module whose class nobody knows."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, out) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Halved(nn.Linear):
    """A linear layer that does not use its weight as it stands."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 0.5 * self.weight, self.bias)


class LowRank(nn.Module):
    """A base and a delta in one module (LoRA), with dropout on the delta."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, out)
        self.a, self.b = nn.Linear(width, 4, bias=False), nn.Linear(4, out, bias=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(self.dropout(x)))


def normed(width: int, out: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(width, out))


MODULES: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "transposed": Transposed,
    "halved": Halved,
    "weight norm": normed,
}


def layer(name: str, *, d_ff: int = H) -> nn.Module:
    torch.manual_seed(0)
    make = {**MODULES, "low rank": LowRank}[name]
    return Layer(make(D, d_ff), make(D, d_ff), make(d_ff, D)).eval()


@pytest.mark.parametrize("name", sorted(MODULES))
@pytest.mark.parametrize("d_ff", [H, D])
def test_a_matrix_is_what_its_module_does(name: str, d_ff: int) -> None:
    model, x = layer(name, d_ff=d_ff), torch.randn(2, 5, D)
    (block,) = discover(model, x)
    check(model, x, block)


def test_a_convolution_over_one_position_is_a_matrix() -> None:
    torch.manual_seed(0)
    model, x = Residual(ConvFfn()).eval(), torch.randn(2, 10, D)
    (block,) = discover(model, x)
    check(model, x, block)
    assert read_matrix(model, block, "up").parameter == "ffn.expand.weight"


def test_a_module_is_measured_in_evaluation_mode_and_left_in_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LowRank(D, H)).eval()
    expected = read_matrix(model, block_of("0"), "up")
    state = torch.get_rng_state()
    model.train()
    matrix = read_matrix(model, block_of("0"), "up")
    assert torch.equal(matrix.weight, expected.weight)
    assert model[0].dropout.training
    assert torch.equal(state, torch.get_rng_state())


def test_more_unit_vectors_than_go_at_once_are_measured() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Halved(1500, 8))
    block = Block("b", 0, "mlp", "relu", Norm("none"), {"up": Projection("0")}, 1500, 8)
    matrix = read_matrix(model, block, "up")
    assert torch.allclose(matrix.weight, 0.5 * model[0].weight, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("linear", "up.weight"), ("transposed", "up.weight"), ("halved", ""), ("weight norm", "")],
)
def test_a_matrix_names_the_parameter_it_is_a_view_of(name: str, parameter: str) -> None:
    model, x = layer(name), torch.randn(2, 5, D)
    (block,) = discover(model, x)
    matrix = read_matrix(model, block, "up")
    assert matrix.parameter == parameter
    if parameter:
        held = model.get_parameter(parameter)
        assert matrix.weight.data_ptr() == held.data_ptr()


@pytest.mark.parametrize("part", ["first", "second", "even", "odd"])
def test_a_part_of_a_fused_matrix_is_its_rows(part: str) -> None:
    model = nn.Sequential(nn.Linear(D, 2 * H))
    rows = {
        "first": slice(0, H), "second": slice(H, None), "even": slice(0, None, 2),
        "odd": slice(1, None, 2),
    }[part]  # fmt: skip
    matrix = read_matrix(model, block_of("0", part), "up")
    assert torch.equal(matrix.weight, model[0].weight[rows])
    assert matrix.bias is not None
    assert torch.equal(matrix.bias, model[0].bias[rows])


def block_of(path: str, part: str = "all") -> Block:
    up = Projection(path, part)
    return Block("b", 0, "mlp", "relu", Norm("none"), {"up": up}, D, H)


def expert(model: nn.Module, name: str, index: int) -> Matrix:
    return read_matrix(model, discover(model, IDS)[0], name, expert=index)


@pytest.mark.parametrize("index", [0, 3])
def test_packed_experts_are_read_one_by_one(index: int) -> None:
    model = made("MixtralForCausalLM", **TINY, **EXPERTS)
    packed = model.model.layers[0].mlp.experts
    assert torch.equal(expert(model, "gate", index).weight, packed.gate_up_proj[index, :H])
    assert torch.equal(expert(model, "up", index).weight, packed.gate_up_proj[index, H:])
    assert torch.equal(expert(model, "down", index).weight, packed.down_proj[index])


@pytest.mark.parametrize("index", [0, 3])
def test_interleaved_experts_that_are_transposed_are_read_with_their_biases(index: int) -> None:
    model = made("GptOssForCausalLM", **TINY, **EXPERTS, head_dim=8)
    packed = model.model.layers[0].mlp.experts
    gate, down = expert(model, "gate", index), expert(model, "down", index)
    assert torch.equal(gate.weight, packed.gate_up_proj[index].t()[::2])
    assert gate.bias is not None
    assert torch.equal(gate.bias, packed.gate_up_proj_bias[index, ::2])
    assert torch.equal(down.weight, packed.down_proj[index].t())
    assert down.bias is not None
    assert torch.equal(down.bias, packed.down_proj_bias[index])


@pytest.mark.parametrize("index", [0, 3])
def test_experts_that_stand_one_below_the_other_are_read_one_by_one(index: int) -> None:
    ffn = {"hidden_size": D, "ffn_hidden_size": H, "moe_num_experts": 4, "moe_top_k": 2}
    attention = {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}
    config = {"d_model": D, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": 64}
    model = made("DbrxForCausalLM", **config, ffn_config=ffn, attn_config=attention)
    stack = model.transformer.blocks[0].ffn.experts.mlp
    assert torch.equal(expert(model, "gate", index).weight, stack.w1.view(4, H, D)[index])
    assert torch.equal(expert(model, "up", index).weight, stack.v1.view(4, H, D)[index])
    assert torch.equal(expert(model, "down", index).weight, stack.w2.view(4, H, D)[index].t())


def test_a_projection_that_a_block_has_not_is_met_with_those_it_has() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'up'"):
        read_matrix(nn.Sequential(nn.Linear(D, H)), block_of("0"), "ups")


def test_what_is_no_matrix_says_so() -> None:
    with pytest.raises(ModelError, match=r"0\.weight has the shape \(48, 16\)"):
        read_matrix(nn.Sequential(nn.Linear(16, H)), block_of("0"), "up")
    with pytest.raises(ModelError, match="is no module and no parameter"):
        read_matrix(nn.Sequential(nn.Linear(16, H)), block_of("1.up"), "up")


# ---- put_parameter ----------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight


def test_a_parameter_is_replaced_wherever_it_is_held_and_put_back() -> None:
    model = Tied()
    old, order = model.a.weight, list(model.state_dict())
    values = old.detach().clone()
    with ExitStack() as stack:
        new = put_parameter(model, old, torch.zeros(4, 4), stack)
        assert model.a.weight is new
        assert model.b.weight is new
        assert not bool(new.any())
        assert list(model.state_dict()) == order
    assert model.a.weight is old
    assert model.b.weight is old
    assert torch.equal(old, values)


@pytest.mark.parametrize("learned", [True, False])
def test_a_new_parameter_is_learned_as_the_old_one_was(*, learned: bool) -> None:
    model = Tied()
    model.a.bias.requires_grad_(learned)
    with ExitStack() as stack:
        new = put_parameter(model, model.a.bias, torch.zeros(4), stack)
        assert new.requires_grad == learned
        assert new.grad_fn is None


def test_two_replacements_are_undone_in_order() -> None:
    model = Tied()
    old = model.a.weight
    with ExitStack() as stack:
        first = put_parameter(model, old, torch.zeros(4, 4), stack)
        put_parameter(model, first, torch.ones(4, 4), stack)
        assert bool((model.b.weight == 1).all())
    assert model.a.weight is old
