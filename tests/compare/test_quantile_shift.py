"""The shift function: against numpy's quantiles, and its band against theory."""

import math
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from ffn_probe.compare.fold_table import FoldTable
from ffn_probe.compare.quantile_shift import QuantileShift, quantile_shift, quantiles
from ffn_probe.compare.support import laid_out
from ffn_probe.sketches import BitHistogram
from tests.compare.made_runs import draws, make_run

SITE = Site(0, "mlp", "hidden")


def shifted(
    path: Path, a: list[np.ndarray], b: list[np.ndarray], *, inputs: str = "x"
) -> QuantileShift | None:
    one = make_run(path / "a", {SITE: a}, inputs="x")
    drift = compare(one, make_run(path / "b", {SITE: b}, inputs=inputs))
    evidence = drift.evidence(drift.sites[0])
    folds = FoldTable.of(*evidence, gate=False, paired=drift.paired)
    return quantile_shift(*evidence, folds)


def test_quantiles_are_those_of_the_values(tmp_path: Path) -> None:
    a = draws(0, rows=256, heavy=True)
    b = [x * np.float32(1.5) + np.float32(0.5) for x in draws(1, rows=256, heavy=True)]
    moved = shifted(tmp_path, a, b)
    assert moved is not None
    for values, found in ((a, moved.a), (b, moved.b)):
        flat = np.concatenate([x.ravel() for x in values]).astype(np.float64)
        exact = np.quantile(flat, moved.shares, method="inverted_cdf")
        inner = (moved.shares > 0.01) & (moved.shares < 0.99)
        assert found[inner] == pytest.approx(exact[inner], rel=0.006, abs=0.006)
        assert found == pytest.approx(exact, rel=0.03, abs=0.006)
    assert moved.shift == pytest.approx(moved.b - moved.a)


def test_a_shift_of_every_value_is_the_shift_of_every_quantile(tmp_path: Path) -> None:
    a = draws(0, rows=128)
    moved = shifted(tmp_path, a, [x + np.float32(2) for x in a])
    assert moved is not None
    assert moved.shift == pytest.approx(2.0, abs=0.05)
    assert moved.band is not None
    assert moved.band.max() < 0.3  # the swap of paired folds cancels what is common to all


def test_equal_values_move_nothing_beyond_a_band_of_nothing(tmp_path: Path) -> None:
    a = draws(0)
    moved = shifted(tmp_path, a, a)
    assert moved is not None
    assert moved.band is not None
    assert np.all(moved.shift == 0)
    assert np.all(moved.band == 0)


def test_the_band_is_what_the_theory_of_order_statistics_says(tmp_path: Path) -> None:
    """sd of a sample's median is sigma sqrt(pi / 2 / n); of p90, sqrt(q (1 - q)) / f / n."""
    moved = shifted(tmp_path, draws(0), draws(1), inputs="y")
    assert moved is not None
    assert moved.band is not None
    n = 16 * 64 * 16
    for share, density in ((0.5, 0.39894), (0.9, 0.17550)):
        sd = math.sqrt(share * (1 - share)) / density / math.sqrt(n)
        at = int(np.abs(moved.shares - share).argmin())
        near = moved.band[at - 4 : at + 5].mean()
        assert near == pytest.approx(1.96 * sd * math.sqrt(2), rel=0.4)


def test_few_folds_have_no_band_and_no_values_no_shift(tmp_path: Path) -> None:
    few = shifted(tmp_path / "few", draws(0, folds=7), draws(1, folds=7))
    assert few is not None
    assert few.band is None
    nothing = [np.full((2, 2), np.nan, np.float32)] * 8
    assert shifted(tmp_path / "none", draws(0, folds=8), nothing) is None


def test_few_values_end_where_ten_of_them_are_left(tmp_path: Path) -> None:
    tiny = [x[:5, :4] for x in draws(0, folds=2)]  # 40 values
    moved = shifted(tmp_path, tiny, tiny)
    assert moved is not None
    assert moved.shares[0] == pytest.approx(0.25)
    assert moved.shares[-1] == pytest.approx(0.75)


def test_quantiles_of_bfloat16_values_are_exact() -> None:
    values = np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 4.0, 8.0, 16.0], np.float32)
    support, counts = laid_out((BitHistogram.of(values),))
    ends = np.cumsum(counts, axis=1) / counts.sum()
    shares = np.array([0.01, 0.125, 0.2, 0.5, 0.51, 0.99])
    expected = np.quantile(values, shares, method="inverted_cdf")
    assert quantiles(support, ends, shares)[0].tolist() == expected.tolist()
