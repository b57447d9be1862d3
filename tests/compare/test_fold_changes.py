"""Changes of single folds, their spread, intervals: against numpy and closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.fold_changes import fold_changes, intervals
from ffn_probe.compare.fold_table import FoldTable
from ffn_probe.sketches import BitHistogram, Moments
from tests.compare.made_runs import draws, make_run

SITE = Site(0, "mlp", "gate")


def table(
    path: Path, a: list[np.ndarray], b: list[np.ndarray], *, paired: bool = True
) -> tuple[FoldTable, dict[str, float]]:
    one = make_run(path / "a", {SITE: a}, inputs="x")
    other = make_run(path / "b", {SITE: b}, inputs="x" if paired else "y")
    drift = compare(one, other)
    assert drift.paired == paired
    found = FoldTable.of(*drift.evidence(drift.sites[0]), gate=True, paired=paired)
    assert found is not None
    return found, {c.statistic: c.value for c in drift.sites[0].changes}


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x.astype(np.float64)))))


def uneven(seed: int) -> list[np.ndarray]:
    """Return folds of unlike sizes and scales."""
    return [x[: 8 + 4 * k] * np.float32(1 + k / 16) for k, x in enumerate(draws(seed))]


def test_a_change_of_a_fold_is_that_of_its_values(tmp_path: Path) -> None:
    a = uneven(0)
    b = [x * np.float32(1.3) + np.float32(0.2) for x in a]
    found, _ = table(tmp_path, a, b)
    changes = fold_changes(found)
    expected = [math.log2(rms(y) / rms(x)) for x, y in zip(a, b, strict=True)]
    assert changes["rms"].across == pytest.approx(expected)
    assert changes["rms"].folds == tuple(range(16))
    std = np.concatenate([x.ravel() for x in a]).astype(np.float64).std()
    shifts = [(y.mean(dtype=float) - x.mean(dtype=float)) / std
              for x, y in zip(a, b, strict=True)]  # fmt: skip
    assert changes["mean"].across == pytest.approx(shifts)
    opened = [(y > 0).mean() - (x > 0).mean() for x, y in zip(a, b, strict=True)]
    assert changes["gate_open"].across == pytest.approx(opened)


def test_within_the_reference_a_fold_stands_against_the_others(tmp_path: Path) -> None:
    a = uneven(0)
    found, _ = table(tmp_path, a, a)
    expected = [
        math.log2(rms(x) / rms(np.concatenate([y for y in a if y is not x]))) for x in a
    ]
    changes = fold_changes(found)
    assert changes["rms"].within == pytest.approx(expected)
    assert np.all(changes["rms"].across == 0)
    assert np.all(changes["ks"].across == 0)
    assert np.all(changes["ks"].within > 0)


def test_unpaired_folds_of_the_candidate_stand_against_all_of_the_reference(
    tmp_path: Path,
) -> None:
    a, b = uneven(0), uneven(1)[:11]
    found, _ = table(tmp_path, a, b, paired=False)
    whole = rms(np.concatenate(a))
    expected = [math.log2(rms(x) / whole) for x in b]
    change = fold_changes(found)["rms"]
    assert change.across == pytest.approx(expected)
    assert change.folds == tuple(range(11))
    assert change.within.size == 16


def evidence(folds: list[np.ndarray]) -> Evidence:
    moments = [Moments.of(x) for x in folds]
    count, mean, m2 = np.array([(m.count, m.mean, m.m2) for m in moments], np.float64).T
    absmax = np.array([float(np.abs(x).max()) for x in folds])
    coarse = tuple(BitHistogram.of(x, 3) for x in folds)
    whole = BitHistogram.of(np.concatenate(folds))
    return Evidence(int(count.sum()), 0, 0, 0, count, mean, m2, absmax, coarse, whole,
                    (None, None))  # fmt: skip


def test_an_interval_holds_the_true_change_most_of_the_time() -> None:
    """Of 60 pairs of runs with other inputs, at least 50 (9 in 10 do; 49 is 1 in 100)."""
    held = 0
    for seed in range(60):
        a = draws(2 * seed, rows=16, channels=8)
        b = [x * np.float32(1.2) for x in draws(2 * seed + 1, rows=16, channels=8)]
        found = FoldTable.of(evidence(a), evidence(b), gate=False, paired=False)
        assert found is not None
        value = math.log2(rms(np.concatenate(b)) / rms(np.concatenate(a)))
        low, high = intervals(found, {"rms": value})["rms"]
        assert low <= value <= high
        assert high - low < 0.3
        held += low <= math.log2(1.2) <= high
    assert held >= 50


def test_an_interval_narrows_with_the_spread_of_the_folds(tmp_path: Path) -> None:
    def width(correlation: float) -> float:
        a, b = (draws(s, channels=4, correlation=correlation) for s in (0, 1))
        found, values = table(tmp_path / str(correlation), a, b, paired=False)
        low, high = intervals(found, values)["mean"]
        return high - low

    # The mean of a fold's channels varies by the common part alone: sqrt(0.3 / 4).
    assert width(0.3) > 3 * width(0.0)


def test_intervals_are_the_same_every_time_and_hold_the_value(tmp_path: Path) -> None:
    found, values = table(tmp_path, uneven(0), uneven(1), paired=False)
    first, again = intervals(found, values), intervals(found, values)
    assert first == again
    assert all(low <= values[name] <= high for name, (low, high) in first.items())
    assert first["ks"][0] >= 0
    assert {"rms", "p99", "ks", "w1_asinh", "gate_open"} <= set(first)
    assert not {"crest", "psi", "nonfinite", "channel_rms", "headroom_fp16"} & set(first)


def test_paired_folds_are_drawn_together_and_others_apart(tmp_path: Path) -> None:
    a = uneven(0)  # folds of unlike scales, which cancel in pairs
    same, values = table(tmp_path / "same", a, [x * np.float32(1.3) for x in a])
    low, high = intervals(same, values)["rms"]
    assert high - low < 1e-6
    apart, values = table(tmp_path / "apart", a, uneven(1)[:11], paired=False)
    low, high = intervals(apart, values)["rms"]
    assert high - low > 0.1


def test_few_folds_have_no_interval_and_one_has_no_spread(tmp_path: Path) -> None:
    few, values = table(tmp_path / "few", uneven(0)[:3], uneven(1)[:3])
    assert intervals(few, values) == {}
    assert fold_changes(few)["rms"].across.size == 3
    one, _ = table(tmp_path / "one", uneven(0)[:1], uneven(1)[:1])
    assert fold_changes(one) == {}


def test_paired_folds_that_one_side_lacks_are_left_out(tmp_path: Path) -> None:
    a, b = uneven(0), uneven(0)
    b[3] = np.full_like(b[3], np.nan)
    found, _ = table(tmp_path, a, b)
    assert 3 not in found.a.ids
    assert found.a.ids == found.b.ids
    assert len(found.a.ids) == 15


def test_without_finite_values_there_is_no_table(tmp_path: Path) -> None:
    a = [np.full((2, 2), np.nan, np.float32)] * 4
    one = make_run(tmp_path / "a", {SITE: a}, inputs="x")
    drift = compare(one, make_run(tmp_path / "b", {SITE: draws(0, folds=4)}, inputs="x"))
    assert FoldTable.of(*drift.evidence(drift.sites[0]), gate=False, paired=True) is None
