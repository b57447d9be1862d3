"""`ffn-probe scan`: ten unlike models without a word about their input, as table and JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.cli.examples import example_for
from ffn_probe.cli.scanning import skipped_lines
from ffn_probe.discover import Scan, Skipped
from ffn_probe.errors import ExampleError
from tests.cli.shell import CODE, refused, run
from tests.discover.architectures import Architecture
from tests.discover.test_architectures import assert_like, named

UNLIKE = (
    "llama", "bert", "t5_v1_1", "vit", "clip", "whisper", "wav2vec2_stable", "mixtral",
    "gpt_oss", "gpt2",
)  # fmt: skip
COLUMNS = ("layer", "block", "kind", "layout", "activation", "norm", "d_model", "d_ff",
           "experts", "taps", "error")  # fmt: skip


def saved(architecture: Architecture, folder: Path) -> Path:
    """Write the configuration alone, as a user would have it."""
    model = getattr(transformers, architecture.model)
    made = getattr(transformers, architecture.config_class or "", model.config_class)
    config = made(**architecture.config)
    config.architectures = [architecture.model]
    config.save_pretrained(folder)
    return folder


def scanned(folder: Path) -> dict[str, Any]:
    result = run("scan", folder, "--random", "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("architecture", named(UNLIKE), ids=lambda a: a.name)
def test_a_folder_with_a_configuration_is_enough(
    architecture: Architecture, tmp_path: Path
) -> None:
    found = scanned(saved(architecture, tmp_path))
    blocks = tuple(Block.from_dict(block) for block in found["blocks"])
    assert_like(blocks, architecture.expected)
    assert max(block.recompute_error for block in blocks) < 1e-5
    assert all(block.taps for block in blocks)


def test_the_same_scan_twice_is_the_same(tmp_path: Path) -> None:
    folder = saved(named(("mixtral",))[0], tmp_path)
    assert scanned(folder) == scanned(folder)


def test_the_table_has_every_column_and_says_which_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    shown = run("scan", saved(named(("gemma2",))[0], tmp_path), "--random").stdout
    assert all(column in shown for column in COLUMNS)
    assert "rmsnorm, 1+w, eps 1e-06, weight-then-cast" in shown
    assert "resid normed gate gate_act value hidden out" in shown
    assert "gelu_tanh" in shown


def test_a_narrow_terminal_gets_lines_that_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("scan", saved(named(("mixtral",))[0], tmp_path), "--random").stdout
    assert "layer 1: model.layers.1.mlp.experts\n" in shown
    assert "  glu, packed concatenated, silu; d_model 32, d_ff 48, 4 experts\n" in shown
    assert "  norm rmsnorm, eps 1e-05, cast-then-weight\n" in shown
    assert "  7 taps, error " in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_places_that_differ_in_numbers_are_told_once() -> None:
    reasons = [Skipped(f"layers.{n}.mixer.out", "mixes positions") for n in range(3)]
    shown = skipped_lines(Scan((), (*reasons, Skipped("head.1", "a head"))))
    assert shown == [
        "  mixes positions:",
        "    layers.*.mixer.out (3 places)",
        "  a head:",
        "    head.*",
    ]


class Config:
    def __init__(self) -> None:
        self.vocab_size, self.image_token_id = 9, 7

    def to_dict(self) -> dict[str, int]:
        return {}


class Text(nn.Module):
    """Takes ids, draws random numbers, counts its calls, and refuses batches of two rows."""

    def __init__(self, *, refuses: bool) -> None:
        super().__init__()
        self.config, self.refuses = Config(), refuses
        self.embedding = nn.Embedding(9, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        torch.rand(3)
        if self.refuses:
            raise ValueError("no rows, please")
        return self.embedding(input_ids) + (attention_mask is None)


def test_an_example_is_the_same_every_time_and_has_no_marked_token() -> None:
    model = Text(refuses=False).train()
    generator = torch.get_rng_state()
    first, second = example_for(model), example_for(model)
    assert first.keys() == second.keys() == {"input_ids", "attention_mask"}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(first["input_ids"].flatten().tolist()) <= {4, 5, 6, 8}
    assert model.training
    assert model.calls == 0
    assert torch.equal(generator, torch.get_rng_state())


def test_a_model_that_refuses_every_input_says_what_was_tried() -> None:
    model = Text(refuses=True).train()
    with pytest.raises(ExampleError) as caught:
        example_for(model)
    told = str(caught.value)
    assert "no example is known for Text (forward takes input_ids, attention_mask)" in told
    assert "input_ids=int64[2, 16]" in told
    assert "ValueError: no rows, please" in told
    assert "--data" in told
    assert model.training
    assert model.calls == 0


def test_a_model_without_a_configuration_asks_for_data() -> None:
    with pytest.raises(ExampleError, match="no example is known for Linear: pass --data"):
        example_for(nn.Linear(2, 2))


def test_packed_weights_are_the_reason_and_not_the_input_they_refuse() -> None:
    assert "1 weights are quantized or packed (first: layers.0.up.weight" in refused(
        "scan", f"{CODE}:packed"
    )
