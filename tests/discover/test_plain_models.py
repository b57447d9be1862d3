"""Models that are not from transformers: what is found, what is not, what cannot be read."""

from collections.abc import Iterable

import pytest
import torch
from _pytest.mark import ParameterSet

from ffn_probe.discover import discover, scan
from ffn_probe.errors import ModelError
from tests.discover.plain_models import FOUND, NOT_FFN, UNREADABLE, Case
from tests.discover.test_architectures import assert_like


def cases(of: Iterable[Case]) -> list[ParameterSet]:
    """Return a test case each."""
    return [pytest.param(case, id=case.name) for case in of]


@pytest.fixture(autouse=True)
def _no_fused_encoder() -> None:
    torch.backends.mha.set_fastpath_enabled(False)


@pytest.mark.parametrize("case", cases(FOUND))
def test_the_ffn_is_found_as_written(case: Case) -> None:
    assert_like(scan(*case.build()).blocks, case.expected)


@pytest.mark.parametrize("case", cases(FOUND))
def test_the_parts_rebuild_the_output(case: Case) -> None:
    errors = [block.recompute_error for block in scan(*case.build()).blocks]
    assert errors
    assert max(errors) < 1e-5


@pytest.mark.parametrize("case", cases(NOT_FFN))
def test_what_only_looks_like_one_is_not_found(case: Case) -> None:
    assert scan(*case.build()).blocks == ()


@pytest.mark.parametrize("case", cases(NOT_FFN))
def test_a_model_without_an_ffn_is_an_error_in_words(case: Case) -> None:
    with pytest.raises(ModelError, match="no FFN"):
        discover(*case.build())


@pytest.mark.parametrize("case", cases([c for c in NOT_FFN if c.reason]))
def test_what_is_near_is_told_with_the_reason(case: Case) -> None:
    assert [s for s in scan(*case.build()).skipped if case.reason in s.reason]


@pytest.mark.parametrize("case", cases(UNREADABLE))
def test_the_unreadable_is_told_and_not_guessed(case: Case) -> None:
    found = scan(*case.build())
    assert found.blocks == ()
    assert [s for s in found.skipped if case.reason in s.reason]
