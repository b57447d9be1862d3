"""Models written in unusual ways: what is found, what is not, and why."""

import pytest
import torch
import torch.ao.nn.quantized.dynamic as nnqd
from torch import nn

from ffn_probe.discover import scan
from ffn_probe.errors import ModelError
from tests.discover.plain_models import TOKENS, Case, D, Gated, Residual
from tests.discover.test_architectures import assert_like
from tests.discover.unusual_models import LOOK_ALIKES, UNNAMED, UNUSUAL


def named(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", UNUSUAL, ids=named)
def test_the_ffn_is_found_and_its_parts_rebuild_its_output(case: Case) -> None:
    blocks = scan(*case.build()).blocks
    assert_like(blocks, case.expected)
    assert max(block.recompute_error for block in blocks) < 1e-5


@pytest.mark.parametrize("case", UNNAMED, ids=named)
def test_an_activation_without_a_name_is_flagged_and_not_guessed(case: Case) -> None:
    block = scan(*case.build()).blocks[0]
    assert block.activation == "other"
    assert block.flags[0] == "no activation of the zoo fits"
    assert block.recompute_error == float("inf")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_packed_quantized_weights_are_refused_in_words() -> None:
    packed = nn.Sequential(nnqd.Linear(4, 8), nn.ReLU(), nnqd.Linear(8, 4))
    with pytest.raises(ModelError, match=r"2 modules hold packed quantized weights \(first: 0"):
        scan(packed, torch.randn(2, 4))


def test_an_rms_norm_without_an_eps_has_that_of_its_dtype() -> None:
    block = scan(Residual(Gated(), nn.RMSNorm(D)), torch.randn(2, TOKENS, D)).blocks[0]
    assert block.norm.eps == torch.finfo(torch.float32).eps


@pytest.mark.parametrize("case", LOOK_ALIKES, ids=named)
def test_what_only_looks_like_one_is_told_with_the_reason(case: Case) -> None:
    found = scan(*case.build())
    assert found.blocks == ()
    assert [s for s in found.skipped if case.reason in s.reason]
