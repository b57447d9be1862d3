from dataclasses import replace

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from ffn_probe import discover
from ffn_probe.anatomy import Block
from ffn_probe.errors import CompareError, UnknownName
from ffn_probe.replay.apart import trained_apart
from ffn_probe.replay.pairing import borrowed, paired, whole_mixtures
from sample_runs.tiny_lm import held_back, load
from tests.replay.planted import with_quick_gelu, with_scaled

BATCH = held_back(count=1, sequences=2, length=32)[0]


@pytest.fixture(scope="module")
def blocks() -> tuple[Block, ...]:
    return discover(load("rms-swiglu"), BATCH)


def names(pairs) -> list[tuple[str, str]]:
    return [(p.a.name, p.b.name) for p in pairs]


def test_blocks_of_other_names_are_met_by_layer(blocks):
    other = [replace(b, name=f"h.{b.layer}.mlp") for b in blocks]
    found = paired(blocks, other)
    assert names(found.pairs) == [(f"layers.{i}.ffn", f"h.{i}.mlp") for i in range(4)]
    assert found.notes == ()
    assert all(p.reason == "" for p in found.pairs)


def test_two_blocks_of_a_layer_are_met_by_name_then_by_kind(blocks):
    one = [replace(blocks[0], name="a"), replace(blocks[0], name="b", kind="mlp")]
    other = [replace(blocks[0], name="x", kind="mlp"), replace(blocks[0], name="a")]
    assert sorted(names(paired(one, other).pairs)) == [("a", "a"), ("b", "x")]
    other = [replace(blocks[0], name="x", kind="mlp"), replace(blocks[0], name="y")]
    assert sorted(names(paired(one, other).pairs)) == [("a", "y"), ("b", "x")]


def test_a_mapping_comes_first(blocks):
    mapping = {"layers.0.ffn": "layers.3.ffn"}
    found = paired(blocks, blocks, mapping)
    assert ("layers.0.ffn", "layers.3.ffn") in names(found.pairs)
    with pytest.raises(UnknownName, match=r"layers\.8"):
        paired(blocks, blocks, {"layers.0.ffn": "layers.8.ffn"})
    with pytest.raises(CompareError, match="mapping"):
        paired(blocks, blocks, "no-such-file.json")


def test_what_has_no_partner_is_told(blocks):
    extra = replace(blocks[0], name="layers.0.second")
    found = paired([*blocks, extra], blocks)
    assert [b.name for b in found.only_a] == ["layers.0.second"]
    assert found.only_b == ()


def test_another_width_is_a_reason(blocks):
    found = paired(blocks, [replace(b, d_model=64) for b in blocks])
    assert {p.reason for p in found.pairs} == {"the streams have 96 and 64 channels"}


def test_a_block_that_discovery_misses_is_read_through_the_reference_s_taps(blocks):
    model = load("rms-swiglu")
    found = borrowed(blocks, blocks[1:], model)
    assert [b.layer for b in found] == [0, 1, 2, 3]
    assert "reference" in found[0].flags[0]
    assert found[1].flags == ()
    assert borrowed(blocks, blocks[1:], torch.nn.Linear(2, 2)) == blocks[1:]


def test_a_mixture_is_judged_by_what_its_experts_give_together():
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 24,
             "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    config = MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=4)
    model = MixtralForCausalLM(config).eval()
    found = whole_mixtures(discover(model, BATCH), model, lambda: model(**BATCH))
    out = [tap for block in found for tap in block.taps if tap.role == "out"]
    assert [(tap.how, tap.labels) for tap in out] == [("output", "")]
    shapes = []
    hook = model.get_submodule(out[0].path).register_forward_hook(
        lambda _m, _a, output: shapes.append(output.shape[-1])
    )
    model(**BATCH)
    hook.remove()
    assert shapes == [16]


@pytest.mark.parametrize("other", ["ln-swiglu", "rms-swiglu", "rms-gelu"])
def test_models_trained_apart_are_told_from(other):
    a, b = load("ln-gelu"), load(other)
    pairs = paired(discover(a, BATCH), discover(b, BATCH)).pairs
    assert "trained apart" in trained_apart(a, b, BATCH, pairs)


@pytest.mark.parametrize(
    "change",
    [
        lambda: with_quick_gelu(0),
        lambda: with_scaled("ln-gelu", "layers.0.attn.proj.weight", 0.0),
        lambda: with_scaled("ln-gelu", "tokens.weight", -1.0),
        lambda: load("ln-gelu").bfloat16(),
    ],
)
def test_models_of_one_origin_are_not(change):
    a, b = load("ln-gelu"), change()
    pairs = paired(discover(a, BATCH), discover(b, BATCH)).pairs
    assert trained_apart(a, b, BATCH, pairs) == ""
