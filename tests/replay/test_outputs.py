import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from ffn_probe.errors import ModelError
from ffn_probe.replay.outputs import OutputSums, Scoring, output_of, scoring_of
from ffn_probe.replay.passes import run_model
from sample_runs.tiny_lm import held_back, load, loss

SMALL = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2,
}  # fmt: skip


def totals(sums: OutputSums) -> dict[str, tuple[float, int]]:
    found: dict[str, tuple[float, int]] = {}
    for row in sums.rows():
        value, count = found.get(row["metric"], (0.0, 0))
        found[row["metric"]] = (value + row["value"], count + row["count"])
    return found


def two_logits() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(3, 6, 11, generator=generator)
    b = a + 0.3 * torch.randn(3, 6, 11, generator=generator)
    return a, b, {"input_ids": torch.randint(11, (3, 6), generator=generator)}


def test_kl_and_first_choices_are_those_of_torch():
    a, b, batch = two_logits()
    sums = OutputSums(Scoring(logits=True, causal=True))
    sums.add(a, b, batch, torch.tensor([0, 1, 2]), None)
    found = totals(sums)
    p, q = a.double().softmax(-1), b.double().softmax(-1)
    assert found["kl"][0] == pytest.approx(float((p * (p.log() - q.log())).sum()), rel=1e-9)
    assert found["kl"][1] == 18
    assert found["top1"][0] == int((a.argmax(-1) == b.argmax(-1)).sum())
    assert found["error"] == (pytest.approx(float((b - a).double().square().sum())), 18 * 11)


def test_the_loss_is_that_of_the_next_token():
    model, batch = load("ln-gelu"), held_back(count=1, sequences=2, length=32)[0]
    with torch.no_grad():
        logits = model(**batch)
    sums = OutputSums(Scoring(logits=True, causal=True))
    sums.add(logits, logits, batch, torch.tensor([0, 1]), None)
    value, count = totals(sums)["loss_a"]
    assert value / count == pytest.approx(float(loss(logits, batch["input_ids"])), rel=1e-5)
    assert totals(sums)["loss_b"] == (value, count)


def test_padding_counts_nowhere():
    a, b, batch = two_logits()
    real = torch.ones(3, 6, dtype=torch.bool)
    real[1, 4:] = False
    sums, short = (OutputSums(Scoring(logits=True, causal=True)) for _ in range(2))
    sums.add(a, b, batch, torch.tensor([0, 1, 2]), real)
    for i, keep in enumerate((6, 4, 6)):
        ids = {"input_ids": batch["input_ids"][i : i + 1, :keep]}
        short.add(a[i : i + 1, :keep], b[i : i + 1, :keep], ids, torch.tensor([i]), None)
    for metric, (value, count) in totals(short).items():
        assert totals(sums)[metric] == (pytest.approx(value), count), metric


def test_labels_are_taken_as_they_are_where_they_are_given():
    a, b, batch = two_logits()
    labels = torch.full((3, 6), -100)
    labels[0, 2] = 7
    sums = OutputSums(Scoring(logits=True, causal=False))
    sums.add(a, b, {**batch, "labels": labels}, torch.tensor([0, 1, 2]), None)
    expected = functional.cross_entropy(a[0, 2:3], torch.tensor([7]))
    assert totals(sums)["loss_a"] == (pytest.approx(float(expected)), 1)


@pytest.mark.parametrize(
    ("make", "causal"),
    [
        (lambda: LlamaForCausalLM(LlamaConfig(**SMALL)), True),
        (lambda: BertForMaskedLM(BertConfig(**SMALL)), False),
    ],
)
def test_a_causal_model_is_told_from_one_that_sees_both_ways(make, causal):
    torch.manual_seed(0)
    model, batch = make().eval(), {"input_ids": torch.randint(50, (2, 8))}
    output = run_model(model, batch)
    assert scoring_of(model, run_model, batch, output) == Scoring(logits=True, causal=causal)


def test_hidden_states_are_no_logits():
    batch = {"input_ids": torch.randint(50, (2, 8))}
    assert not scoring_of(nn.Identity(), run_model, batch, torch.randn(2, 8, 16)).logits
    assert not scoring_of(nn.Identity(), run_model, batch, torch.randn(2, 50)).logits


def test_an_output_without_a_tensor_is_an_error():
    with pytest.raises(ModelError, match="no floating tensor"):
        output_of({"steps": 3})
    assert output_of((torch.tensor([1]), torch.tensor([2.0]))).tolist() == [2.0]
