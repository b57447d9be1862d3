"""The chart of folds: which statistics, where dots lie, the floor, the interval."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ffn_probe.compare import Change
from ffn_probe.compare.fold_changes import FoldChange
from ffn_probe.figures.folds import FoldRow, fold_rows, folds_chart

RMS = Change("scale", "rms", 0.4, "octaves", 0.1, "", 0.05, 8.0, None, None, 3, "FAIL", "")
KS = replace(RMS, statistic="ks", value=0.02, unit="1", floor=None, status="PASS")
ACROSS, WITHIN = np.array([0.3, 0.4, 0.5]), np.array([-0.1, 0.0, 0.1, 0.2])


def folds(name: str) -> FoldChange:
    return FoldChange(name, (0, 2, 5), (0, 1, 2, 5), ACROSS, WITHIN)


ROWS = (FoldRow(RMS, folds("rms"), (0.2, 0.6)), FoldRow(KS, folds("ks"), None))


def test_the_rows_are_the_worst_changes_that_folds_can_tell() -> None:
    other = replace(RMS, statistic="crest")
    unknown = replace(RMS, statistic="p99", value=math.nan)
    listed = {name: folds(name) for name in ("rms", "ks", "p99")}
    rows = fold_rows((KS, other, unknown, RMS), listed, {"rms": (0.2, 0.6)})
    assert [row.change.statistic for row in rows] == ["rms", "ks"]
    assert [row.interval for row in rows] == [(0.2, 0.6), None]


def test_no_more_rows_than_can_be_read() -> None:
    names = [f"s{i}" for i in range(20)]
    changes = [replace(RMS, statistic=name, value=i / 10) for i, name in enumerate(names)]
    rows = fold_rows(changes, {name: folds(name) for name in names}, {})
    assert [row.change.statistic for row in rows] == [f"s{i}" for i in range(19, 11, -1)]


def test_dots_lie_at_multiples_of_the_threshold() -> None:
    within, across, whole = folds_chart(ROWS, paired=True).data
    assert np.sinh(across.x[:3]) * 0.1 == pytest.approx(ACROSS, rel=1e-5)
    assert np.sinh(within.x[:4]) * 0.1 == pytest.approx(WITHIN, abs=1e-6)
    assert len(across.x) == 6
    assert np.all(across.y[:3] < 0)  # above the whole; rows run downwards
    assert np.all(within.y[:4] > 0)
    assert np.sinh(np.array(whole.x)) * 0.1 == pytest.approx([0.4, 0.02])


def test_a_dot_says_its_fold_its_value_and_its_multiple() -> None:
    within, across, whole = folds_chart(ROWS, paired=True).data
    assert across.text[2] == "rms, fold 5: +0.5 octaves, +5 times the threshold"
    assert within.text[3] == "rms, fold 5: +0.2 octaves, +2 times the threshold"
    assert whole.text[1] == "ks, the whole: +0.02, +0.2 times the threshold"


def test_the_floor_is_a_band_on_both_sides_and_absent_without_one() -> None:
    boxes = [s for s in folds_chart(ROWS, paired=True).layout.shapes if s.type == "rect"]
    assert len(boxes) == 1
    assert math.sinh(boxes[0].x1) * 0.1 == pytest.approx(0.05)
    assert boxes[0].x0 == -boxes[0].x1
    assert (boxes[0].y0, boxes[0].y1) == (-0.4, 0.4)


def test_the_interval_ends_where_it_should() -> None:
    whole = folds_chart(ROWS, paired=True).data[2]
    ends = [whole.x[0] - whole.error_x.arrayminus[0], whole.x[0] + whole.error_x.array[0]]
    assert np.sinh(ends) * 0.1 == pytest.approx([0.2, 0.6])
    assert whole.error_x.array[1] == whole.error_x.arrayminus[1] == 0


def test_the_thresholds_are_marked_and_everything_is_in_sight() -> None:
    figure = folds_chart(ROWS, paired=False)
    lines = [s.x0 for s in figure.layout.shapes if s.type == "line"]
    assert np.sinh(lines) == pytest.approx([-1, 1])
    low, high = figure.layout.xaxis.range
    for trace in figure.data:
        assert low < min(trace.x) <= max(trace.x) < high
    assert "practical threshold" in figure.layout.xaxis.title.text
    assert list(figure.layout.yaxis.ticktext) == ["rms", "ks"]


def test_what_is_not_finite_is_no_dot() -> None:
    odd = FoldChange("rms", (0, 1, 2), (0,), np.array([0.1, math.inf, math.nan]), WITHIN[:1])
    across = folds_chart([FoldRow(RMS, odd, None)], paired=True).data[1]
    assert len(across.x) == 1


def test_without_rows_the_chart_says_why() -> None:
    figure = folds_chart((), paired=True)
    assert "fewer than two" in figure.layout.annotations[0].text
