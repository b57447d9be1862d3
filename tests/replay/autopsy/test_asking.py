"""What can be asked of an autopsy, what it answers with, and what it refuses."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from ffn_probe.attribution.attribution import Hypothesis
from ffn_probe.errors import ExampleError, UnknownName
from ffn_probe.replay.autopsy import autopsy
from ffn_probe.runs.schema import KEYS, TABLES
from tests.replay.autopsy.hosts import batches, plain_clamped, reference, spread
from tests.replay.autopsy.ported_llama import PortedLlama


class _Silly(nn.Module):
    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        self.up, self.down = old.up, old.down

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.up(x)))


@pytest.fixture(scope="module")
def wrong() -> nn.Module:
    """The sample model ln-gelu with SiLU in layer 2."""
    model = copy.deepcopy(reference("ln-gelu"))
    model.layers[2].ffn = _Silly(model.layers[2].ffn)
    return model


def test_all_blocks_are_judged_in_one_pass_and_only_the_wrong_one_is_named(
    wrong: nn.Module,
) -> None:
    found = autopsy(reference("ln-gelu"), wrong, batches())
    assert {f.block for f in found.findings} == {f"layers.{i}.ffn" for i in range(4)}
    assert [(f.layer, f.stage) for f in found.bugs] == [(2, "ffn")]
    assert found.verdict.startswith(
        "Layer 2 (layers.2.ffn), activation: silu instead of gelu: measured "
    )
    assert found.verdict.endswith("Fix: use gelu in layers.2.ffn.")


def test_rows_are_those_of_the_table_of_hypotheses(wrong: nn.Module) -> None:
    rows = autopsy(reference("ln-gelu"), wrong, batches(), blocks=[2]).rows()
    assert set(rows[0]) == set(TABLES["hypotheses"].names) | {"fold"}
    assert set(KEYS) <= set(rows[0])
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    assert rows[0]["hypothesis"] == "activation: silu instead of gelu"
    assert rows[0]["reached"]
    assert not rows[-1]["reached"]


def test_the_table_holds_a_row_a_hypothesis(wrong: nn.Module) -> None:
    found = autopsy(reference("ln-gelu"), wrong, batches(), blocks=[2])
    table = found.table()
    assert list(table.columns) == list(Hypothesis.__dataclass_fields__)
    assert len(table) == len(found.hypotheses)


def test_the_excluded_bugs_are_told_with_what_they_leave(wrong: nn.Module) -> None:
    found = autopsy(reference("ln-gelu"), wrong, batches(), blocks=[2])
    left = dict(found.excluded)
    assert left["layers.2.ffn: activation: relu instead of gelu"] < 30
    assert "layers.2.ffn: activation: silu instead of gelu" not in left


def test_the_models_are_left_as_they_were(wrong: nn.Module) -> None:
    model = copy.deepcopy(reference("ln-gelu")).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    autopsy(model, wrong, batches(), blocks=[2])
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any("forward" in vars(m) for m in (*model.modules(), *wrong.modules()))


def test_a_generator_of_batches_will_do(wrong: nn.Module) -> None:
    found = autopsy(reference("ln-gelu"), wrong, (b for b in batches()), blocks=[2])
    assert [f.layer for f in found.bugs] == [2]


def test_no_batches_are_refused(wrong: nn.Module) -> None:
    with pytest.raises(ExampleError, match="no batches"):
        autopsy(reference("ln-gelu"), wrong, [])


def test_a_block_that_is_not_there_is_refused_with_a_guess(wrong: nn.Module) -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'layers\.2\.ffn'"):
        autopsy(reference("ln-gelu"), wrong, batches(), mapping={"layers.2.fn": "x"})
    with pytest.raises(UnknownName, match=r"no block 'layers\.2\.mlp'"):
        autopsy(
            reference("ln-gelu"), wrong, batches(), mapping={"layers.2.ffn": "layers.2.mlp"}
        )


def test_a_block_may_be_named_by_the_path_of_its_module() -> None:
    model = reference("llama")
    port = PortedLlama.of(model, up_first=True)
    mapping = {"model.layers.1.mlp": "stack.1.ffn"}
    found = autopsy(
        model, port, batches(), blocks=[1], mapping=mapping, found_candidate=()
    )  # as if discovery saw nothing
    assert [f.stage for f in found.findings] == ["ffn"]
    assert found.hypotheses[0].name == "gate and up swapped"


def test_a_block_without_its_like_is_told_as_not_judged() -> None:
    model = reference("llama")
    port = PortedLlama.of(model)
    found = autopsy(model, port, batches(), blocks=[1], found_candidate=())
    assert found.findings == ()
    assert "Not judged: model.layers.1.mlp (no block in the candidate" in found.verdict


def test_nan_in_the_candidate_alone_is_told_as_such() -> None:
    model = reference("ln-gelu")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[1].ffn.down.weight[3, 5] = math.nan
    found = autopsy(model, other, batches(), blocks=[1], rows=256)
    assert [f.stage for f in found.bugs] == ["ffn"]
    assert found.hypotheses[0].name == "weights differ"
    assert "224 of 21504 values are not finite in the candidate" in found.verdict


def test_a_clamp_that_few_tokens_reach_is_missed_by_none() -> None:
    def gates(x: Tensor) -> Tensor:
        return x.reshape(-1, 128)[:, ::2]

    model = spread(plain_clamped(), gate=1.9)
    other = copy.deepcopy(model)
    other.layers[1].ffn = _Unclamped(other.layers[1].ffn)
    seen: list[Tensor] = []
    hook = model.layers[1].ffn.gate_up.register_forward_hook(
        lambda _m, _i, output: seen.append(gates(output))
    )
    model(**batches()[0])
    hook.remove()
    beyond = (seen[0] > 7).any(-1)
    evenly = torch.linspace(0, 255, 28).round().long()
    assert 0 < int(beyond.sum()) < 12
    assert not bool(beyond[evenly].any())
    found = autopsy(model, other, batches(), blocks=[1], rows=32)
    assert found.bugs[0].hypotheses[0].name == "clamp missing"
    assert "On few tokens" in found.verdict


def test_what_is_measured_is_that_of_typical_rows(wrong: nn.Module) -> None:
    few = autopsy(reference("ln-gelu"), wrong, batches(), blocks=[2], rows=128)
    all_of_them = autopsy(reference("ln-gelu"), wrong, batches(), blocks=[2], rows=100_000)
    measured = [f.bugs[0].measured_db for f in (few, all_of_them)]
    assert measured[0] == pytest.approx(measured[1], abs=0.5)


class _Unclamped(nn.Module):
    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        self.gate_up, self.down = old.gate_up, old.down

    def forward(self, x: Tensor) -> Tensor:
        both = self.gate_up(x)
        gate, up = both[..., ::2], both[..., 1::2]
        return self.down((up + 1) * (gate * torch.sigmoid(1.702 * gate)))


def test_dropout_that_was_left_on_is_off_while_they_run() -> None:
    class Dropping(nn.Module):
        def __init__(self, old: nn.Module) -> None:
            super().__init__()
            self.old, self.drop = old, nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.old(x))

    other = copy.deepcopy(reference("ln-gelu"))
    other.layers[1].ffn = Dropping(other.layers[1].ffn)
    found = autopsy(reference("ln-gelu"), other.train(), batches(), blocks=[1])
    assert found.bugs == ()
    assert other.layers[1].ffn.drop.training


class _Neox(nn.Module):
    """A layer of GPT-NeoX, its FFN moved behind the attention."""

    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = old.input_layernorm
        self.post_attention_layernorm = old.post_attention_layernorm
        self.attention, self.mlp = old.attention, old.mlp

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        mixed = self.attention(self.input_layernorm(hidden_states), **kwargs)[0]
        stream = hidden_states + mixed
        return stream + self.mlp(self.post_attention_layernorm(stream))


def test_sequential_instead_of_parallel_is_named_in_gpt_neox() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, use_parallel_residual=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    for p in model.parameters():
        if p.dim() > 1:
            p.data = torch.randn_like(p) * p.shape[-1] ** -0.5
    healthy = autopsy(model, copy.deepcopy(model), batches())
    assert healthy.bugs == ()
    other = copy.deepcopy(model)
    other.gpt_neox.layers[1] = _Neox(other.gpt_neox.layers[1])
    found = autopsy(model, other.eval(), batches())
    assert [(f.layer, f.stage) for f in found.bugs] == [(1, "layer")]
    assert found.bugs[0].hypotheses[0].name == "sequential instead of parallel"
