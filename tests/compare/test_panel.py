"""The statistics agree with what numpy and scipy make of the values themselves."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from ffn_probe.anatomy import Site
from ffn_probe.compare import Change, compare
from ffn_probe.sketches import BitHistogram
from ffn_probe.sketches.distances import psi
from tests.compare.made_runs import draws, make_run

SITE = Site(0, "layers.0.mlp", "gate")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[dict[str, Change], np.ndarray, np.ndarray]:
    a = draws(0, rows=400)
    b = [x * np.float32(1.2) + np.float32(0.1) for x in draws(50, rows=400, heavy=True)]
    runs = [make_run(tmp_path / name, {SITE: x}) for name, x in (("a", a), ("b", b))]
    changes = {change.statistic: change for change in compare(*runs).sites[0].changes}
    return changes, np.concatenate(a).astype(float), np.concatenate(b).astype(float)


def test_distances_agree_with_scipy(pair) -> None:
    changes, a, b = pair
    scale = (np.quantile(a, 0.75) - np.quantile(a, 0.25)) / 1.349
    ks = scipy.stats.ks_2samp(a.ravel(), b.ravel()).statistic
    w1 = scipy.stats.wasserstein_distance(
        np.arcsinh(a.ravel() / scale), np.arcsinh(b.ravel() / scale)
    )
    assert changes["ks"].value == pytest.approx(ks, abs=1e-3)
    assert changes["w1_asinh"].value == pytest.approx(w1, rel=0.01)


def test_psi_agrees_with_the_distance_of_the_histograms(pair) -> None:
    changes, a, b = pair
    expected = psi(BitHistogram.of(a), BitHistogram.of(b))
    assert changes["psi"].value == pytest.approx(expected, rel=1e-3)


def test_scale_and_tail_agree_with_numpy(pair) -> None:
    changes, a, b = pair
    rms = np.log2(np.sqrt((b**2).mean() / (a**2).mean()))
    assert changes["rms"].value == pytest.approx(rms, abs=1e-9)
    assert changes["mean"].value == pytest.approx((b.mean() - a.mean()) / a.std(), abs=1e-9)
    for name, q in (("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999)):
        ratio = np.log2(
            np.quantile(np.abs(b), q, method="inverted_cdf")
            / np.quantile(np.abs(a), q, method="inverted_cdf")
        )
        assert changes[name].value == pytest.approx(ratio, abs=0.012)  # 2 bins of 2^-8


def test_shares_agree_with_counting(pair) -> None:
    changes, a, b = pair
    near = [np.mean(np.abs(x) <= 0.01 * np.sqrt((x**2).mean())) for x in (a, b)]
    assert changes["near_zero_share"].value == pytest.approx(near[1] - near[0], abs=1e-4)
    opened = np.mean(b > 0) - np.mean(a > 0)
    assert changes["gate_open"].value == pytest.approx(opened, abs=1e-12)


def test_crest_and_headroom_agree_with_the_largest_values(pair) -> None:
    changes, a, b = pair
    crest = [np.abs(x).max() / np.sqrt((x**2).mean()) for x in (a, b)]
    assert changes["crest"].value == pytest.approx(np.log2(crest[1] / crest[0]), abs=1e-9)
    assert changes["headroom_fp16"].value == pytest.approx(np.abs(b).max() / 65504)
    assert changes["headroom_e4m3fn"].value == pytest.approx(np.abs(b).max() / 448)


def test_int8_drop_is_what_quantizing_the_values_costs(pair) -> None:
    changes, a, b = pair
    sqnr = []
    for x in (a, b):
        step = np.abs(x).max() / 127
        error = np.rint(x / step) * step - x
        sqnr.append(10 * np.log10((x**2).mean() / (error**2).mean()))
    assert changes["int8_sqnr_drop"].value == pytest.approx(sqnr[0] - sqnr[1], abs=0.1)


def test_channel_ratio_names_the_channel_that_moved_most(pair) -> None:
    changes, a, b = pair
    ratio = np.log2(np.sqrt((b**2).mean(axis=0) / (a**2).mean(axis=0)))
    top = int(np.abs(ratio).argmax())
    assert changes["channel_rms"].value == pytest.approx(ratio[top], abs=1e-9)
    assert changes["channel_rms"].detail.startswith(f"channel {top}:")


def test_exact_zeros_of_either_sign_are_counted_as_zeros(tmp_path: Path) -> None:
    a, b = draws(0), draws(0)
    for x in b:
        x[:8], x[8:16] = 0.0, -0.0
    runs = [make_run(tmp_path / name, {SITE: x}) for name, x in (("a", a), ("b", b))]
    changes = {change.statistic: change for change in compare(*runs).sites[0].changes}
    assert changes["zero_share"].value == pytest.approx(16 / 64)


def test_gate_open_is_for_gates_only(tmp_path: Path) -> None:
    hidden = Site(0, "layers.0.mlp", "hidden")
    runs = [
        make_run(tmp_path / name, {SITE: draws(seed), hidden: draws(seed + 1)})
        for name, seed in (("a", 0), ("b", 9))
    ]
    of = {site.role: {c.statistic for c in site.changes} for site in compare(*runs).sites}
    assert of["gate"] - of["hidden"] == {"gate_open"}


def test_unlike_numbers_of_channels_leave_the_channel_statistics_out(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {SITE: draws(0, channels=16)})
    b = make_run(tmp_path / "b", {SITE: draws(9, channels=24)})
    aspects = {change.aspect for change in compare(a, b).sites[0].changes}
    assert "channels" not in aspects
    assert "bulk" in aspects
