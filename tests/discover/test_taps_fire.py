"""Every tap that discovery makes is read when the model runs again."""

from pathlib import Path

import pytest
import torch

import ffn_probe
from ffn_probe.discover import scan
from tests.discover.plain_models import Case
from tests.discover.unusual_models import UNUSUAL

_ODD = [case.name for case in UNUSUAL].index("layer_by_hand")
WATCHED = [case for case in UNUSUAL[_ODD:] if case.name != "compiled"]
"""Before `_ODD` stand activations in one and the same module."""


@pytest.mark.parametrize("case", WATCHED, ids=lambda case: case.name)
def test_every_role_of_every_block_is_recorded(case: Case, tmp_path: Path) -> None:
    model, example = case.build()
    expected = {(b.name, role) for b in scan(model, example).blocks for role in b.roles}
    with (
        ffn_probe.attach(model, to=tmp_path / "run", example=example) as probe,
        torch.no_grad(),
    ):
        model(*example)
        probe.step()
    sites = ffn_probe.Run.open(tmp_path / "run").sites
    assert {(site.block, site.role) for site in sites} == expected


def test_an_argument_of_the_model_is_read_where_it_enters() -> None:
    case = next(c for c in UNUSUAL if c.name == "bare_rms")
    resid = scan(*case.build()).blocks[0].taps[0]
    assert (resid.role, resid.how, resid.path, resid.index) == ("resid", "input", "", 0)
