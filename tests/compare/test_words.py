"""A change in words: no scientific notation, and infinity is not a floor of 0."""

import math
from dataclasses import replace

import pytest

from ffn_probe.compare.change import Change
from ffn_probe.compare.words import in_words

CHANGE = Change(
    "scale", "rms", 1.0, "octaves", 0.1, "", floor=0.05, times_floor=20.0, repeat_floor=None,
    mde=None, folds=16, status="FAIL", detail="",
)  # fmt: skip


@pytest.mark.parametrize(
    ("floor", "times", "said"),
    [
        (0.05, 20.0, "RMS x2, 20 times its floor"),
        (0.05, 7.44, "RMS x2, 7.4 times its floor"),
        (0.0006, 1671.3, "RMS x2, 1671 times its floor"),
        (0.05, math.inf, "RMS x2, beyond any floor"),
        (0.0, math.inf, "RMS x2, its floor is 0"),
        (None, None, "RMS x2, floor unavailable"),
    ],
)
def test_the_multiple_of_the_floor_reads_as_a_number(
    floor: float | None, times: float | None, said: str
) -> None:
    assert in_words(replace(CHANGE, floor=floor, times_floor=times)) == said
