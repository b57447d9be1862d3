"""Replays of models as transformers builds them, with one matrix of one block changed."""

import copy

import pandas as pd
import pytest
import torch

from ffn_probe import discover
from ffn_probe.replay import Options, replay
from tests.discover.architectures import ARCHITECTURES

ONCE = Options(noise=1, patch=1, rows=64)
BY_NAME = {a.name: a for a in ARCHITECTURES}
DENSE = [
    "phi3",
    "gpt_neox",
    "falcon",
    "opt_350m",
    "olmo2",
    "gemma2",
    "cohere",
    "bert",
    "t5_v1_1",
]
MIXED = ["mixtral", "qwen2_moe", "dbrx", "llama4"]


def scaled(model: torch.nn.Module, path: str) -> torch.nn.Module:
    """Return a copy with the matrix at a module or parameter scaled."""
    other = copy.deepcopy(model)
    named = dict(other.named_parameters())
    with torch.no_grad():
        (named[path] if path in named else named[f"{path}.weight"]).mul_(1.5)
    return other


def local(frame: pd.DataFrame) -> list[str]:
    rows = frame[(frame["view"] == "local") & (frame["role"] == "out")]
    sums = rows.groupby("block")[["error", "energy_a"]].sum()
    return list(sums.index[sums["error"] > 1e-9 * sums["energy_a"]])


@pytest.mark.parametrize("name", DENSE + MIXED)
def test_the_changed_block_is_the_only_one_with_an_error_of_its_own(name, tmp_path):
    model, example = BY_NAME[name].build(noise=0.1)
    blocks = discover(model, example)
    block = next((b for b in blocks if b.experts), blocks[-1])
    candidate = scaled(model, block.projections["down"].path)
    run = replay(model, candidate, [example], to=tmp_path / "r", options=ONCE)
    frame = run.table("paired")
    assert local(frame[frame["reason"] == ""]) == [block.name]
    noise = frame[(frame["view"] == "noise") & (frame["reason"] == "")]
    assert noise["error"].sum() <= 1e-9 * noise["energy_a"].sum()
    if not block.experts:
        assert not any(block.name in text for text in run.manifest.warnings)
        patch = run.table("effects").query("analysis == 'patch' and metric == 'error'")
        left = patch.groupby("part")["value"].sum()
        assert left["back_all"] < 1e-6 * left["none"]
