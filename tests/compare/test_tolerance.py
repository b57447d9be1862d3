"""The status under other thresholds: as if the two runs were compared with them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import STATISTICS, Change, Drift, compare
from ffn_probe.compare.tolerance import (
    MULTIPLIERS,
    Tolerance,
    changes_of,
    multiple,
    times_noise,
    times_threshold,
    tolerance,
    worst_of,
)
from tests.compare.made_runs import draws, make_run

LIMITS = {"nonfinite", "headroom_fp16", "headroom_e4m3fn"}
ROLES = ("gate", "hidden")


def compared(path: Path, folds: int, thresholds: dict[str, float] | None = None) -> Drift:
    """Scale, a shift and zeros, new NaN, and values beyond e4m3 in four layers."""
    plain = {Site(i, f"l{i}", role): draws(i, folds=folds) for i in range(4) for role in ROLES}
    moved = {site: [_moved(x, site.layer) for x in v] for site, v in plain.items()}
    if not (path / "a").exists():
        make_run(path / "a", plain, inputs="x")
        make_run(path / "b", moved, inputs="y")
    return compare(path / "a", path / "b", thresholds=thresholds)


def _moved(x: np.ndarray, layer: int) -> np.ndarray:
    if layer == 0:
        return x * np.float32(1.17)
    if layer == 1:
        return np.where(x > 1, np.float32(0), x) + np.float32(0.13)
    if layer == 2:
        y = x.copy()
        y[0, 0] = np.nan
        return y
    return x * np.float32(180)


@pytest.mark.parametrize("folds", [16, 4])
def test_a_status_is_that_of_a_comparison_with_such_thresholds(
    tmp_path: Path, folds: int
) -> None:
    plain = compared(tmp_path, folds)
    seen = set()
    for m in (0.1, 0.6, 1.0, 10.0):
        limits = {s.name: s.threshold * m for s in STATISTICS if s.name not in LIMITS}
        other = compared(tmp_path, folds, limits)
        for site, same in zip(plain.sites, other.sites, strict=True):
            assert tolerance(site.changes).status(m) == same.status, (m, site.name)
            seen.add(same.status)
    assert seen == ({"PASS", "WARN", "FAIL"})


def test_steps_say_the_status_at_every_multiplier(tmp_path: Path) -> None:
    for site in compared(tmp_path, 16).sites:
        held = tolerance(site.changes)
        fails, warns = held.steps()
        found = ["FAIL" if i < fails else "WARN" if i < warns else "PASS" for i in range(21)]
        assert found == [held.status(m) for m in MULTIPLIERS]


def test_new_values_that_are_not_finite_fail_at_any_multiplier(tmp_path: Path) -> None:
    site = next(s for s in compared(tmp_path, 16).sites if s.layer == 2)
    assert tolerance(changes_of(site, "nonfinite")) == Tolerance(math.inf, math.inf)
    assert tolerance(changes_of(site, "nowhere")).status(0.1) == "PASS"


CHANGE = Change("scale", "rms", 0.3, "octaves", 0.1, "", 0.05, 6.0, None, None, 16, "FAIL", "")


@pytest.mark.parametrize(
    ("change", "over", "above"),
    [
        (CHANGE, 3.0, 6.0),
        (replace(CHANGE, value=-0.3), 3.0, 6.0),
        (replace(CHANGE, repeat_floor=0.15), 3.0, 2.0),
        (replace(CHANGE, floor=None, status="WARN"), 3.0, math.nan),
        (replace(CHANGE, floor=0.0), 3.0, math.inf),
        (replace(CHANGE, value=0.04, status="PASS"), 0.0, 0.8),
        (replace(CHANGE, value=0.0, floor=0.0, status="PASS"), 0.0, 0.0),
        (replace(CHANGE, value=math.nan, status="WARN"), math.nan, math.nan),
        (replace(CHANGE, statistic="int8_sqnr_drop", value=-9.0, status="PASS"), 0.0, 180.0),
        (replace(CHANGE, statistic="headroom_fp16", status="PASS"), 0.0, math.nan),
        (replace(CHANGE, threshold=0.0), math.inf, 6.0),
    ],
)  # fmt: skip
def test_multiples_of_the_threshold_and_of_the_noise(
    change: Change, over: float, above: float
) -> None:
    assert times_threshold(change) == pytest.approx(over, nan_ok=True)
    assert times_noise(change) == pytest.approx(above, nan_ok=True)


def test_what_is_under_its_floor_passes_at_any_multiplier() -> None:
    within = replace(CHANGE, value=0.049, status="PASS")
    assert tolerance([within]) == Tolerance(0.0, 0.0)
    assert tolerance([replace(within, floor=None)]).status(0.1) == "WARN"
    assert tolerance([replace(CHANGE, repeat_floor=0.4, status="PASS")]).status(0.1) == "PASS"


def test_the_plain_multiple_knows_no_noise() -> None:
    assert multiple(replace(CHANGE, value=-0.04, status="PASS")) == pytest.approx(0.4)
    assert math.isnan(multiple(replace(CHANGE, threshold=0.0)))


def test_of_what_passes_the_one_above_its_floor_stands_for_the_site(tmp_path: Path) -> None:
    site = compared(tmp_path, 16).sites[0]
    within = replace(CHANGE, statistic="crest", value=0.09, floor=0.2, status="PASS")
    above = replace(CHANGE, value=0.06, status="PASS")
    assert worst_of(replace(site, changes=(within, above))) == above
    level = replace(CHANGE, statistic="headroom_fp16", value=0.09, status="PASS")
    assert worst_of(replace(site, changes=(level, within))) == within
    assert worst_of(replace(site, changes=(level,))) == level
    assert worst_of(site, "sparsity") in changes_of(site, "sparsity")
    assert worst_of(site, "nowhere") is None
