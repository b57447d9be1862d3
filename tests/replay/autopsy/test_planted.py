"""Every bug, planted in a real block in float32 and in bfloat16, is named first."""

from collections.abc import Iterator
from itertools import cycle

import pytest
import torch

from tests.replay.autopsy.hosts import HOSTS, Host
from tests.replay.autopsy.naming import FLOOR, judged, named, told, visible
from tests.replay.autopsy.planted import PLANTS, Plant


def _spread() -> Iterator[tuple[Plant, Host, torch.dtype]]:
    """Yield each bug once a dtype, the models taking turns; the benchmark tries them all."""
    turn = cycle(range(len(HOSTS)))
    for plant in PLANTS:
        for dtype in plant.dtypes:
            usable = [h for h in HOSTS.values() if plant.fits(h) and visible(plant, h, dtype)]
            yield plant, usable[next(turn) % len(usable)], dtype


def _id(case: tuple[Plant, Host, torch.dtype]) -> str:
    plant, host, dtype = case
    return f"{plant.name} in {host.name}, {str(dtype).removeprefix('torch.')}"


@pytest.mark.parametrize("case", list(_spread()), ids=_id)
def test_a_planted_bug_is_named_first(case: tuple[Plant, Host, torch.dtype]) -> None:
    plant, host, dtype = case
    found = judged(plant, host, dtype)
    assert named(plant, told(found)), found.verdict
    best = next(h for h in found.hypotheses if h.reached)
    assert best.layer == 1
    assert best.after_db >= best.floor_db - 3


def test_a_bug_that_bfloat16_cannot_hold_is_no_difference_above_the_floor() -> None:
    plant = next(p for p in PLANTS if p.name == "eps 1e-06 instead of")
    found = judged(plant, HOSTS["clamped"], torch.bfloat16)
    assert told(found) == FLOOR
    assert found.verdict.startswith(FLOOR)
