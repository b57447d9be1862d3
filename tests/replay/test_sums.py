import numpy as np
import pytest
import torch

from ffn_probe.replay.sums import PairSums
from ffn_probe.runs import FOLDS


def rows_of(sums: PairSums) -> dict[int, dict[str, float]]:
    return {row["fold"]: row for row in sums.fold_rows()}


def some(rows: int, channels: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, channels, generator=generator) * 3 + 1
    return a, a + 0.1 * torch.randn(rows, channels, generator=generator)


def test_sums_are_those_of_numpy_in_folds_of_unequal_size():
    a, b = some(50)
    folds = torch.tensor([0] * 7 + [3] * 40 + [15] * 3)
    sums = PairSums()
    sums.add(a, b, folds)
    found = rows_of(sums)
    assert sorted(found) == [0, 3, 15]
    for fold, row in found.items():
        x, y = (t[folds == fold].double().numpy() for t in (a, b))
        assert row["rows"] == len(x)
        assert row["count"] == x.size
        assert row["energy_a"] == pytest.approx((x**2).sum(), rel=1e-12)
        assert row["error"] == pytest.approx(((y - x) ** 2).sum(), rel=1e-12)
        assert row["dot"] == pytest.approx((x * y).sum(), rel=1e-12)
        assert row["max_abs"] == pytest.approx(np.abs(y - x).max(), rel=1e-12)
        cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        assert row["cosines"] == pytest.approx(cosines.sum(), rel=1e-12)


def test_two_batches_add_up_to_one():
    a, b = some(40)
    folds = torch.arange(40) % FOLDS
    whole, parts = PairSums(), PairSums()
    whole.add(a, b, folds)
    parts.add(a[:9], b[:9], folds[:9])
    parts.add(a[9:], b[9:], folds[9:])
    skipped = {"hsic_ab", "hsic_aa", "hsic_bb"}  # of a batch, not of its rows
    for one, other in zip(whole.fold_rows(), parts.fold_rows(), strict=True):
        for name in one.keys() - skipped - {"reason"}:
            assert one[name] == pytest.approx(other[name], rel=1e-12), name


def test_values_that_are_not_finite_are_counted_and_left_out():
    a, b = some(6, 4)
    a[0, 0], b[1, 1], b[2, 2], a[2, 2] = np.nan, np.inf, np.nan, np.nan
    sums = PairSums()
    sums.add(a, b, torch.zeros(6, dtype=torch.int64))
    (row,) = sums.fold_rows()
    assert (row["nonfinite_a"], row["nonfinite_b"], row["count"]) == (2, 2, 21)
    keep = (a.isfinite() & b.isfinite()).numpy()
    x, y = a.double().numpy()[keep], b.double().numpy()[keep]
    assert row["error"] == pytest.approx(((y - x) ** 2).sum(), rel=1e-12)
    assert row["ulps"] == int((x.astype(np.float32) != y.astype(np.float32)).sum())


def test_an_ulp_is_one_of_the_coarser_dtype():
    a = torch.tensor([[1.0, 1.0, 1.0 + 2**-20, 1.0]])
    b = torch.tensor([[1.0, 1.0 + 2**-7, 1.0, -1.0]])
    for kind, differ in ((torch.bfloat16, 2), (torch.float32, 3)):
        sums = PairSums()
        sums.add(a, b.to(kind), torch.zeros(1, dtype=torch.int64))
        assert sums.fold_rows()[0]["ulps"] == differ


def test_huge_values_do_not_overflow():
    a = torch.full((2, 3), 1e30)
    sums = PairSums()
    sums.add(a, 2 * a, torch.zeros(2, dtype=torch.int64))
    row = sums.fold_rows()[0]
    assert row["error"] == pytest.approx(6e60, rel=1e-6)
    assert row["nonfinite_a"] == 0


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, the unbiased estimator, by its definition over distinct indices."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    first = np.trace(k @ m)
    second = (ones @ k @ ones) * (ones @ m @ ones) / (n - 1) / (n - 2)
    third = 2 * (ones @ k @ m @ ones) / (n - 2)
    return (first + second - third) / n / (n - 3)


def cka(a: torch.Tensor, b: torch.Tensor) -> float:
    sums = PairSums()
    sums.add_kernels(a, b, torch.zeros(len(a), dtype=torch.int64))
    row = {k: float(v.sum()) for k, v in sums.sums.items()}
    return row["hsic_ab"] / (row["hsic_aa"] * row["hsic_bb"]) ** 0.5


def test_the_kernels_are_the_unbiased_hsic():
    a, b = some(20)
    sums = PairSums()
    sums.add(a, b, torch.zeros(20, dtype=torch.int64))
    row = sums.fold_rows()[0]
    x, y = a.double().numpy(), b.double().numpy()
    assert row["hsic_ab"] == pytest.approx(hsic(x, y), rel=1e-9)
    assert row["hsic_aa"] == pytest.approx(hsic(x, x), rel=1e-9)


def test_cka_is_blind_to_rotations_and_sees_shuffled_tokens():
    a, _ = some(200, 16)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[
        0
    ]
    assert cka(a, a @ rotation) == pytest.approx(1.0, abs=1e-5)
    assert abs(cka(a, a[torch.randperm(200, generator=torch.Generator().manual_seed(2))])) < 0.2


def test_unpaired_rows_have_a_reason_and_kernels_only():
    a, _ = some(30, 8)
    sums = PairSums()
    sums.add_unpaired(a, torch.randn(30, 5), torch.zeros(30, dtype=torch.int64), "other widths")
    (row,) = sums.fold_rows()
    assert row["reason"] == "other widths"
    assert row["rows"] == 30
    assert row["count"] == 0
    assert row["hsic_aa"] > 0
    assert sums.channel_rows() == []


def test_sums_by_channel_give_the_gain_slope():
    a, _ = some(60, 5)
    slopes = torch.tensor([1.0, 2.0, 0.5, -1.0, 1.5])
    sums = PairSums()
    sums.add(a, a * slopes, torch.zeros(60, dtype=torch.int64))
    (row,) = sums.channel_rows()
    assert np.allclose(row["sum_ab"] / row["sum_aa"], slopes.numpy())
    assert row["count"].tolist() == [60] * 5


def test_no_rows_leave_nothing_behind():
    sums = PairSums()
    sums.add(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert sums.fold_rows() == []
