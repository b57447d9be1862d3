"""Models written in unusual ways: what is found, what is not, and why."""

import pytest

from ffn_probe.discover import scan
from tests.discover.plain_models import Case
from tests.discover.test_architectures import assert_like
from tests.discover.unusual_models import LOOK_ALIKES, UNUSUAL


def named(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", UNUSUAL, ids=named)
def test_the_ffn_is_found_and_its_parts_rebuild_its_output(case: Case) -> None:
    blocks = scan(*case.build()).blocks
    assert_like(blocks, case.expected)
    assert max(block.recompute_error for block in blocks) < 1e-5


@pytest.mark.parametrize("case", LOOK_ALIKES, ids=named)
def test_what_only_looks_like_one_is_told_with_the_reason(case: Case) -> None:
    found = scan(*case.build())
    assert found.blocks == ()
    assert [s for s in found.skipped if case.reason in s.reason]
