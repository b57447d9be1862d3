"""Bugs in mixtures of experts: packed ones of transformers, and experts as modules."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ffn_probe.replay.autopsy import Autopsy, autopsy
from tests.replay.autopsy.naming import FLOOR

NARROW = torch.bfloat16


def _spread(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if "norm" not in name:
            width = p.shape[1] if "gate_up" in name else p.shape[-1]
            p.data = torch.randn_like(p) * (0.3 if p.dim() < 2 else width**-0.5)
    return model.eval()


@pytest.fixture(scope="module")
def mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    return _spread(MixtralForCausalLM(config))


@pytest.fixture(scope="module")
def gpt_oss() -> nn.Module:
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        num_experts_per_tok=2,
    )  # fmt: skip
    return _spread(GptOssForCausalLM(config))


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)
        self.act = functional.silu

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """A norm and a top-2 mixture of four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.router = nn.LayerNorm(32), nn.Linear(32, 4)
        self.experts = nn.ModuleList(Expert() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x).reshape(-1, 32)
        weight, index = self.router(rows).softmax(-1).topk(2)
        total = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            row, place = (index == e).nonzero(as_tuple=True)
            total.index_add_(0, row, expert(rows[row]) * weight[row, place, None])
        return x + total.view_as(x)


def listed() -> nn.Module:
    return _spread(nn.Sequential(Layer(), Layer()))


def _judged(model: nn.Module, other: nn.Module) -> Autopsy:
    batch = {"input_ids": torch.randint(0, 64, (4, 32), generator=_seeded())}
    return autopsy(model, other, [batch])


def _judged_rows(model: nn.Module, other: nn.Module) -> Autopsy:
    return autopsy(model, other, [torch.randn(4, 32, 32, generator=_seeded())])


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("dtype", [torch.float32, NARROW])
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_a_mixture_cast_or_not_has_no_bug(
    name: str, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    found = _judged(model, copy.deepcopy(model).to(dtype))
    assert found.unpaired == ()
    assert found.verdict.startswith(FLOOR), found.verdict
    assert found.hypotheses == ()


@pytest.mark.parametrize("dtype", [torch.float32, NARROW])
def test_another_activation_in_packed_experts_is_named(
    mixtral: nn.Module, dtype: torch.dtype
) -> None:
    other = copy.deepcopy(mixtral)
    other.model.layers[1].mlp.experts.act_fn = nn.GELU()
    found = _judged(mixtral, other.to(dtype))
    assert [(f.layer, f.status, f.experts) for f in found.bugs] == [(1, "bug", (0, 1, 2, 3))]
    assert found.hypotheses[0].name == "activation: gelu instead of silu"
    assert "Seen in experts 0, 1, 2, 3 of 4." in found.verdict


def test_halves_in_the_wrong_order_in_packed_experts_are_named(mixtral: nn.Module) -> None:
    other = copy.deepcopy(mixtral)
    packed = other.model.layers[1].mlp.experts.gate_up_proj
    packed.data = packed.data.roll(48, 1)
    found = _judged(mixtral, other)
    assert found.bugs[0].hypotheses[0].name == "fused halves in the wrong order"


def test_the_wrong_alpha_of_clamped_experts_is_named(gpt_oss: nn.Module) -> None:
    other = copy.deepcopy(gpt_oss)
    other.model.layers[0].mlp.experts.alpha = 1.0
    found = _judged(gpt_oss, other)
    assert [f.layer for f in found.bugs] == [0]
    assert found.bugs[0].hypotheses[0].name == "beta 1 instead of 1.702"


def test_one_expert_with_the_weights_of_another_is_told_by_its_number(
    mixtral: nn.Module,
) -> None:
    other = copy.deepcopy(mixtral)
    down = other.model.layers[1].mlp.experts.down_proj
    down.data[2] = down.data[1]
    found = _judged(mixtral, other)
    assert [f.experts for f in found.bugs] == [(2,)]
    best = found.bugs[0].hypotheses[0]
    assert (best.name, best.variant) == ("weights of expert 1", "down")
    assert [row["expert"] for row in found.rows() if row["reached"]] == [2]


def test_a_wrong_eps_before_a_mixture_is_named(mixtral: nn.Module) -> None:
    other = copy.deepcopy(mixtral)
    other.model.layers[1].post_attention_layernorm.variance_epsilon = 1e-2
    found = _judged(mixtral, other)
    assert found.bugs[0].stage == "norm"
    assert found.bugs[0].hypotheses[0].name == "eps 0.01 instead of 1e-05"


def test_experts_that_are_modules_are_judged_one_by_one() -> None:
    model = listed()
    other = copy.deepcopy(model)
    other[1].experts[3].act = functional.relu
    found = _judged_rows(model, other)
    assert [(f.layer, f.experts) for f in found.bugs] == [(1, (3,))]
    assert found.bugs[0].hypotheses[0].name == "activation: relu instead of silu"


def test_experts_that_are_modules_and_healthy_have_no_bug() -> None:
    model = listed()
    found = _judged_rows(model, copy.deepcopy(model))
    assert found.verdict.startswith(FLOOR)
    assert found.unpaired == ()


def test_other_experts_than_the_references_are_not_judged(mixtral: nn.Module) -> None:
    from tests.replay.autopsy.hosts import reference

    batch = {"input_ids": torch.randint(0, 64, (2, 16), generator=_seeded())}
    found = autopsy(mixtral, reference("llama"), [batch])
    assert found.findings == ()
    assert found.unpaired[0][1] == "4 experts here, 0 there"
