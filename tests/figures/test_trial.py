"""A drift under other thresholds: colours, counts, and the numbers that JavaScript gets."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import Drift, compare
from ffn_probe.compare.tolerance import MULTIPLIERS, Tolerance, tolerance
from ffn_probe.figures.grid import By, Cell, View, drift_grid, heat, shade
from ffn_probe.figures.heatmap import drift_heatmap
from ffn_probe.figures.theme import THRESHOLD_AT
from ffn_probe.figures.trial import trial, tried
from tests.compare.made_runs import draws, make_run


@pytest.fixture(scope="module")
def drift(tmp_path_factory: pytest.TempPathFactory) -> Drift:
    """Layers 0 to 3 are 1, 1.08, 1.16, 1.3 times as large; `out` of layer 0 only in a."""
    folder = tmp_path_factory.mktemp("runs")
    plain = {Site(i, f"l{i}", r): draws(i, rows=32) for i in range(4) for r in ("gate", "out")}
    moved = {
        s: [x * np.float32((1, 1.08, 1.16, 1.3)[s.layer]) for x in v]
        for s, v in plain.items()
        if s != Site(0, "l0", "out")
    }
    a = make_run(folder / "a", plain, inputs="x")
    return compare(a, make_run(folder / "b", moved, inputs="x"))


def test_the_counts_are_those_of_the_sites(drift: Drift) -> None:
    for i, (fails, warns) in enumerate(tried(drift)):
        statuses = [tolerance(site.changes).status(MULTIPLIERS[i]) for site in drift.sites]
        assert (fails, warns) == (statuses.count("FAIL"), statuses.count("WARN"))
    judged = [site.status for site in drift.sites]
    assert tried(drift)[10] == (judged.count("FAIL"), judged.count("WARN"))
    assert tried(drift, "nonfinite") == ((0, 0),) * 21


def test_larger_thresholds_never_fail_more(drift: Drift) -> None:
    fails = [f for f, _ in tried(drift)]
    assert fails == sorted(fails, reverse=True)
    assert fails[0] > fails[-1] == 0


@pytest.mark.parametrize("by", ["floor", "threshold"])
def test_the_numbers_of_a_trial_give_the_colours_of_every_multiplier(
    drift: Drift, by: By
) -> None:
    """What assets/threshold.js computes, here in Python, is what the server would draw."""
    given = trial(drift_grid(drift, View(by)), View(by))
    for step, m in enumerate(MULTIPLIERS):
        grid = drift_grid(drift, View(by, "", m))
        for i, row in enumerate(grid.cells):
            for j, cell in enumerate(row):
                expected, found = heat(cell, by), as_script(given, i, j, step)
                assert found == pytest.approx(expected, abs=2e-4, nan_ok=True)


def as_script(given: dict[str, object], i: int, j: int, step: int) -> float:
    """Return the colour of a cell as the script makes it of the page's data."""
    numbers: dict[str, list[list[float | None]]] = given  # type: ignore[assignment]
    fails, warns, value = (numbers[key][i][j] for key in ("fails", "warns", "values"))
    assert fails is not None
    assert warns is not None
    if fails < 0:
        return math.nan
    kind = "FAIL" if step < fails else "WARN" if step < warns else "PASS"
    shown = math.nan if value is None else value
    if given["by"] == "threshold":
        shown = min(shown / MULTIPLIERS[step], {"PASS": 1.0, "WARN": 2.0}.get(kind, math.inf))
    place = shade(shown, float(str(given["cap"])))
    if kind != "PASS":
        return max(place, THRESHOLD_AT)
    share = place if given["by"] == "floor" else min(place / THRESHOLD_AT, 1.0)
    return float(str(given["passed_at"])) * share


def test_a_trial_says_what_is_not_there_and_where_it_stands(drift: Drift) -> None:
    given = trial(drift_grid(drift, View("floor", "", 2.0)), View("floor", "", 2.0))
    assert given["step"] == MULTIPLIERS.index(2.0)
    assert given["fails"][1][0] == given["warns"][1][0] == -1  # type: ignore[index]
    assert given["values"][1][0] is None  # type: ignore[index]


def test_a_cell_by_the_floor_is_its_change_over_the_floor(drift: Drift) -> None:
    for cell in (c for row in drift_grid(drift, View("floor")).cells for c in row if c.name):
        site = next(s for s in drift.sites if s.name == cell.name)
        known = [c.times_floor for c in site.changes if c.times_floor is not None]
        assert any(cell.value == pytest.approx(times) for times in [*known, 0.0])
        assert cell.mark == site.status


def test_an_aspect_leaves_the_others_out(drift: Drift) -> None:
    scale = drift_grid(drift, View("threshold", "scale"))
    cell = scale.cells[0][3]
    assert "RMS x1.3" in cell.text
    assert cell.value == pytest.approx(math.log2(1.3) / math.log2(1.1), rel=0.01)
    sparsity = drift_grid(drift, View("threshold", "sparsity")).cells[0][3]
    assert (sparsity.mark, sparsity.value) == ("PASS", 0.0)


def test_another_multiplier_changes_signs_and_colours_and_nothing_else(drift: Drift) -> None:
    one, other = (drift_heatmap(drift, View("floor", "", m)) for m in (1.0, 10.0))
    assert one.data[0].hovertext == other.data[0].hovertext
    assert not np.array_equal(one.data[0].z, other.data[0].z, equal_nan=True)
    assert {sign for row in other.data[0].text for sign in row} == {""}


@pytest.mark.parametrize("by", ["floor", "threshold"])
def test_what_passes_is_grey_and_what_does_not_is_not(by: By) -> None:
    for value in (0.0, 0.5, 3.0, 1e9, math.nan):
        for mark in ("WARN", "FAIL"):
            assert heat(Cell(value, mark, ""), by) >= THRESHOLD_AT
        assert heat(Cell(value, "PASS", ""), by) < THRESHOLD_AT
    assert math.isnan(heat(Cell(1.0, "only_a", ""), by))
    assert math.isnan(heat(Cell(1.0, "absent", ""), by))


def test_a_mixture_fails_where_any_of_its_experts_does() -> None:
    both = Tolerance(0.5, 1.0).with_(Tolerance(0.2, 3.0))
    assert [both.status(m) for m in (0.4, 0.6, 2.0, 4.0)] == ["FAIL", "WARN", "WARN", "PASS"]


def test_a_site_without_a_floor_has_no_multiple_of_one(drift: Drift) -> None:
    bare = tuple(
        replace(s, changes=tuple(replace(c, floor=None, times_floor=None) for c in s.changes))
        for s in drift.sites
    )
    grid = drift_grid(replace(drift, sites=bare), View("floor"))
    assert all(math.isnan(c.value) for row in grid.cells for c in row if c.name)
    assert "floor unavailable" in grid.cells[0][3].text
