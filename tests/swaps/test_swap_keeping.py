"""Swaps that keep what a model computes, called through `swap`."""

import pytest
import torch

from ffn_probe.discover import discover
from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.swaps import swap
from sample_runs import tiny_lm
from tests.swaps.states import batch, db, logits, state


@pytest.mark.parametrize(("norms", "count"), [("ffn", 4), ("all", 9)])
@pytest.mark.parametrize("name", ["ln-gelu", "ln-swiglu"])
def test_layernorms_become_rmsnorms_and_the_logits_stay(
    name: str, norms: str, count: int
) -> None:
    model = tiny_lm.load(name)
    before, out = state(model), logits(model)
    with swap(model, norm="rmsnorm", how="exact", norms=norms, example=batch()) as done:
        assert len(done.changed) == count
        assert discover(model, batch())[0].norm.kind == "rmsnorm"
        gap = (logits(model) - out).abs().max().item()
        assert gap <= 1e-5 * out.abs().max().item()
        assert done.error["sqnr_db"] == pytest.approx(db(out, logits(model)), abs=0.1)
    assert state(model) == before
    with swap(model, norm="rmsnorm", norms=norms, example=batch()):
        assert db(out, logits(model)) < 35


def test_one_block_can_be_converted_alone() -> None:
    model = tiny_lm.load("ln-gelu")
    with swap(model, norm="rmsnorm", how="exact", blocks=[1], example=batch()) as done:
        kinds = [block.norm.kind for block in discover(model, batch())]
    assert kinds == ["layernorm", "rmsnorm", "layernorm", "layernorm"]
    assert [(c.block, c.path) for c in done.changed] == [("layers.1.ffn", "layers.1.ffn_norm")]
    assert len(done.left) == 8


def test_an_exact_swap_that_is_impossible_says_why_and_changes_nothing() -> None:
    model = tiny_lm.load("rms-gelu")
    before = state(model)
    swapping = swap(model, norm="layernorm", how="exact", example=batch())
    with pytest.raises(SwapError, match="mean"), swapping:
        pass
    with (
        pytest.raises(UnknownName, match="dyt"),
        swap(model, norm="dyt", how="exact", example=batch()),
    ):
        pass
    found = discover(model, batch())
    with (
        pytest.raises(SwapError, match="pass example="),
        swap(model, norm="layernorm", how="exact", found=found),
    ):
        pass
    assert state(model) == before


def test_smooth_scales_leave_the_logits_bit_for_bit() -> None:
    model = tiny_lm.load("rms-swiglu")
    before, out = state(model), logits(model)
    with swap(
        model, gating="smooth_swiglu", example=batch(), calibration=[batch(), batch(20)]
    ) as done:
        assert torch.equal(logits(model), out)
        assert state(model) != before
    assert [c.sqnr_db for c in done.changed] == [float("inf")] * 4
    assert state(model) == before


def test_scales_do_not_pass_a_gelu() -> None:
    model = tiny_lm.load("ln-gelu")
    swapping = swap(model, gating="smooth_swiglu", example=batch(), calibration=[batch()])
    with pytest.raises(SwapError, match="cannot pass its gelu"), swapping:
        pass
