import math

import pytest
import torch

from ffn_probe import discover
from ffn_probe.replay.parts import parts_of
from ffn_probe.replay.passes import run_model
from ffn_probe.replay.patching import bisected, block_of_parts, can_patch, patched
from sample_runs.tiny_lm import held_back, load
from tests.replay.planted import with_quick_gelu, with_rms_norms


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    return held_back(count=1, sequences=2, length=64)[0]


def puts(source: torch.nn.Module, into: torch.nn.Module, batch, layers):
    """Return replacements of blocks of `into` by those of `source`."""
    theirs, own = discover(source, batch), discover(into, batch)
    return [(own[i], block_of_parts(parts_of(source, theirs[i]))) for i in layers]


def test_putting_the_right_block_back_repairs_the_output(batch):
    reference, candidate = load("ln-gelu"), with_quick_gelu(2)
    want = run_model(reference, batch)
    for layer in range(4):
        got = patched(candidate, batch, puts(reference, candidate, batch, [layer]))
        assert (float((got - want).norm()) < 1e-3) == (layer == 2)
    same = patched(reference, batch, puts(candidate, reference, batch, [2]))
    assert torch.allclose(same, run_model(candidate, batch), atol=1e-5)


def test_all_blocks_back_leave_what_is_outside_of_them(batch):
    reference, candidate = load("ln-gelu"), with_rms_norms()
    every = puts(reference, candidate, batch, range(4))
    assert torch.allclose(
        patched(candidate, batch, every), run_model(reference, batch), atol=1e-4
    )
    with torch.no_grad():
        candidate.head.weight.mul_(2)
    got = patched(candidate, batch, every)
    assert torch.allclose(got, 2 * run_model(reference, batch), atol=1e-3)


def test_a_patched_model_is_as_before_afterwards(batch):
    model = load("ln-gelu")
    before = run_model(model, batch)
    patched(model, batch, puts(with_quick_gelu(0), model, batch, [0]))
    assert torch.equal(run_model(model, batch), before)
    assert not any("forward" in vars(module) for module in model.modules())


def test_dense_blocks_can_be_patched(batch):
    assert all(can_patch(block) for block in discover(load("rms-swiglu"), batch))


@pytest.mark.parametrize("count", [1, 2, 7, 80])
def test_bisection_finds_the_block_in_about_log2_runs(count):
    for culprit in range(count):
        found, known = bisected(count, lambda m, c=culprit: 3.0 if m <= c else 0.5)
        assert found == culprit
        assert len(known) <= 2 + math.ceil(math.log2(count)) if count > 1 else 2
