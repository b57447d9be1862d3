"""Planted faults are found under their aspect; healthy pairs of runs pass."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import Change, Drift, SiteDrift, compare
from tests.compare.made_runs import draws, make_run

Fault = Callable[[np.ndarray], np.ndarray]
GATE = Site(1, "layers.1.mlp", "gate")
SITES = (
    Site(0, "layers.0.mlp", "normed"),
    Site(0, "layers.0.mlp", "gate"),
    Site(0, "layers.0.mlp", "hidden"),
    Site(1, "layers.1.mlp", "normed"),
    GATE,
    Site(1, "layers.1.mlp", "hidden"),
)


def run(
    path: Path, seed: int, *, fault: Fault | None = None, inputs: str = "", **kwargs: object
):
    values = {site: draws(seed + i, **kwargs) for i, site in enumerate(SITES)}
    if fault is not None:
        values[GATE] = [fault(x.copy()) for x in values[GATE]]
    return make_run(path, values, inputs=inputs)


def faulty(tmp_path: Path, fault: Fault, *, paired: bool, **kwargs: object) -> Drift:
    """Compare a run with one that has a fault at GATE."""
    a = run(tmp_path / "a", 0, inputs="x", **kwargs)
    b = run(
        tmp_path / "b",
        0 if paired else 100,
        fault=fault,
        inputs="x" if paired else "y",
        **kwargs,
    )
    return compare(a, b)


def at_gate(drift: Drift) -> SiteDrift:
    return next(site for site in drift.sites if (site.layer, site.role) == (1, "gate"))


def changed(site: SiteDrift, statistic: str) -> Change:
    return next(change for change in site.changes if change.statistic == statistic)


def scaled(x: np.ndarray) -> np.ndarray:
    return x * np.float32(1.3)


def shifted(x: np.ndarray) -> np.ndarray:
    return x - np.float32(0.4)


def heavier(x: np.ndarray) -> np.ndarray:
    x[np.abs(x) > 2.6] *= 2
    return x


def zeroed(x: np.ndarray) -> np.ndarray:
    x.reshape(-1)[::8] = 0.0
    return x


def broken(x: np.ndarray) -> np.ndarray:
    x[0, 0] = np.nan
    x[1, 0] = np.inf
    return x


def died(x: np.ndarray) -> np.ndarray:
    x[:, 3] = 0.0
    return x


def standing_out(x: np.ndarray) -> np.ndarray:
    x[:, 5] *= 12
    return x


def overflowing(x: np.ndarray) -> np.ndarray:
    x[0, 0] = 1e5
    return x


def spiked(x: np.ndarray) -> np.ndarray:
    x[0, 0] = 40.0
    return x


FAULTS = [
    (scaled, "scale", "rms", "FAIL"),
    (scaled, "bulk", "w1_asinh", "WARN"),
    (shifted, "scale", "mean", "FAIL"),
    (shifted, "bulk", "ks", "FAIL"),
    (shifted, "sparsity", "gate_open", "FAIL"),
    (heavier, "tail", "p99_9", "FAIL"),
    (zeroed, "sparsity", "zero_share", "FAIL"),
    (broken, "nonfinite", "nonfinite", "FAIL"),
    (died, "channels", "dead_channels", "FAIL"),
    (standing_out, "channels", "outlier_channels", "WARN"),
    (standing_out, "channels", "channel_rms", "FAIL"),
    (overflowing, "representability", "headroom_fp16", "FAIL"),
    (spiked, "representability", "crest", "FAIL"),
    (spiked, "representability", "int8_sqnr_drop", "FAIL"),
]


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "unpaired"])
@pytest.mark.parametrize(
    ("fault", "aspect", "statistic", "status"),
    FAULTS,
    ids=[f"{f.__name__}-{statistic}" for f, _, statistic, _ in FAULTS],
)
def test_planted_fault_is_found_under_its_aspect(
    tmp_path: Path, fault: Fault, aspect: str, statistic: str, status: str, *, paired: bool
) -> None:
    drift = faulty(tmp_path, fault, paired=paired)
    change = changed(at_gate(drift), statistic)
    assert (change.aspect, change.status) == (aspect, status)
    assert drift.paired is paired
    assert drift.verdict.status != "PASS"
    assert drift.exit_code == 1


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "unpaired"])
@pytest.mark.parametrize("fault", sorted({f for f, *_ in FAULTS}, key=lambda f: f.__name__))
def test_sites_without_the_fault_pass(tmp_path: Path, fault: Fault, *, paired: bool) -> None:
    drift = faulty(tmp_path, fault, paired=paired)
    others = [site.status for site in drift.sites if site is not at_gate(drift)]
    assert others == ["PASS"] * 5


def test_a_few_massive_values_leave_the_bulk_alone(tmp_path: Path) -> None:
    site = at_gate(faulty(tmp_path, spiked, paired=False, rows=256))
    drifted = {c.aspect for c in site.changes if c.status != "PASS"}
    assert "representability" in drifted
    assert not drifted & {"bulk", "sparsity", "nonfinite"}


def test_massive_values_in_both_do_not_hide_a_change_of_the_bulk(tmp_path: Path) -> None:
    a = run(tmp_path / "a", 0, fault=overflowing)
    b = run(tmp_path / "b", 100, fault=lambda x: overflowing(scaled(x)))
    assert changed(at_gate(compare(a, b)), "w1_asinh").status == "WARN"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "kind",
    [{}, {"heavy": True}, {"correlation": 0.2}, {"rows": 8, "channels": 8}, {"folds": 8}],
    ids=["normal", "heavy", "correlated", "few values", "few folds"],
)
def test_two_healthy_runs_pass(tmp_path: Path, kind: dict[str, object], seed: int) -> None:
    a = run(tmp_path / "a", 1000 * seed, inputs="x", **kind)
    b = run(tmp_path / "b", 1000 * seed + 500, inputs="y", **kind)
    drift = compare(a, b)
    assert drift.verdict.status == "PASS", drift.verdict.sentence
    assert not drift.paired


def test_correlated_folds_raise_the_floor_and_the_detectable_effect(tmp_path: Path) -> None:
    found = []
    for share in (0.0, 0.3):
        a = run(tmp_path / f"a{share}", 0, correlation=share)
        b = run(tmp_path / f"b{share}", 500, correlation=share)
        found.append(changed(at_gate(compare(a, b)), "w1_asinh"))
    assert found[1].floor > 2 * found[0].floor
    assert found[1].mde >= found[1].floor


def test_a_pair_sees_what_unpaired_runs_of_correlated_inputs_cannot(tmp_path: Path) -> None:
    kind = {"correlation": 0.9, "channels": 4}
    small = {"w1_asinh": 0.02, "rms": 0.02}
    a = run(tmp_path / "a", 0, inputs="x", **kind)
    same = run(tmp_path / "same", 0, fault=lambda x: x * np.float32(1.1), inputs="x", **kind)
    other = run(
        tmp_path / "other", 500, fault=lambda x: x * np.float32(1.1), inputs="y", **kind
    )
    assert changed(at_gate(compare(a, same, thresholds=small)), "rms").status == "FAIL"
    unpaired = changed(at_gate(compare(a, other, thresholds=small)), "rms")
    assert unpaired.status == "PASS"
    assert unpaired.mde > np.log2(1.1)


def test_non_finite_values_of_both_are_no_change(tmp_path: Path) -> None:
    a = run(tmp_path / "a", 0, fault=broken)
    drift = compare(a, run(tmp_path / "b", 100, fault=broken))
    assert changed(at_gate(drift), "nonfinite").status == "PASS"
    assert drift.verdict.status == "PASS"


def test_non_finite_values_that_vanish_are_no_fault(tmp_path: Path) -> None:
    a = run(tmp_path / "a", 0, fault=broken)
    change = changed(at_gate(compare(a, run(tmp_path / "b", 100))), "nonfinite")
    assert change.status == "PASS"
    assert "NaN 16 -> 0, +Inf 16 -> 0" in change.detail


def test_more_non_finite_values_than_twice_the_reference_fail(tmp_path: Path) -> None:
    def worse(x: np.ndarray) -> np.ndarray:
        x[:6, 0] = np.nan
        return x

    a = run(tmp_path / "a", 0, fault=broken)
    b = run(tmp_path / "b", 100, fault=worse)
    assert changed(at_gate(compare(a, b)), "nonfinite").status == "FAIL"


def test_values_beyond_a_format_in_both_are_not_new(tmp_path: Path) -> None:
    a = run(tmp_path / "a", 0, fault=overflowing)
    b = run(tmp_path / "b", 100, fault=lambda x: overflowing(x) * np.float32(3))
    change = changed(at_gate(compare(a, b)), "headroom_fp16")
    assert change.status == "PASS"
    assert "already" in change.detail


def test_fewer_than_eight_folds_have_no_floor_and_warn_at_most(tmp_path: Path) -> None:
    site = at_gate(faulty(tmp_path, lambda x: x * np.float32(4), paired=False, folds=7))
    floors = {change.floor for change in site.changes}
    assert floors == {None}
    assert site.status == "WARN"
    assert changed(site, "rms").folds == 7


def test_new_nan_fails_even_with_one_fold(tmp_path: Path) -> None:
    drift = faulty(tmp_path, broken, paired=False, folds=1)
    assert at_gate(drift).status == "FAIL"
    assert any("fewer than 8 non-empty folds" in note.text for note in drift.validity)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_site_of_nothing_but_nan_is_visible(tmp_path: Path, side: str) -> None:
    def gone(x: np.ndarray) -> np.ndarray:
        return np.full_like(x, np.nan)

    a = run(tmp_path / "a", 0, fault=gone if side == "a" else None)
    b = run(tmp_path / "b", 100, fault=gone if side == "b" else None)
    site = at_gate(compare(a, b))
    bulk = changed(site, "w1_asinh")
    assert np.isnan(bulk.value)
    assert (
        bulk.detail == f"no finite values in the {'reference' if side == 'a' else 'candidate'}"
    )
    assert site.status == ("WARN" if side == "a" else "FAIL")


def test_sites_that_are_empty_or_all_zero_on_both_sides_pass(tmp_path: Path) -> None:
    for name, fault in (
        ("empty", lambda x: x[:0]),
        ("zero", np.zeros_like),
        ("constant", np.ones_like),
    ):
        a = run(tmp_path / f"a {name}", 0, fault=fault)
        site = at_gate(compare(a, run(tmp_path / f"b {name}", 100, fault=fault)))
        assert site.status == "PASS", (name, site.headline)


def test_a_site_that_turns_to_zeros_fails(tmp_path: Path) -> None:
    site = at_gate(faulty(tmp_path, np.zeros_like, paired=False))
    assert {"sparsity", "scale", "bulk"} <= {
        c.aspect for c in site.changes if c.status == "FAIL"
    }


@pytest.mark.parametrize("inputs", ["", "x"])
def test_a_run_against_itself_has_no_change_at_all(tmp_path: Path, inputs: str) -> None:
    a = run(tmp_path / "a", 0, inputs=inputs)
    drift = compare(a, a.path)
    sizes = [
        c.value for s in drift.sites for c in s.changes if not c.statistic.startswith("head")
    ]
    assert set(sizes) == {0.0}
    assert (drift.verdict.status, drift.exit_code) == ("PASS", 0)
    assert "indistinguishable" in drift.verdict.sentence


def test_a_repeat_of_the_reference_that_moves_as_much_excuses_the_change(
    tmp_path: Path,
) -> None:
    a = run(tmp_path / "a", 0, inputs="x")
    b = run(tmp_path / "b", 0, fault=scaled, inputs="x")
    again = run(tmp_path / "again", 0, fault=lambda x: x * np.float32(1.4), inputs="x")
    change = changed(at_gate(compare(a, b, repeat=again)), "rms")
    assert change.repeat_floor == pytest.approx(np.log2(1.4), abs=1e-5)
    assert change.status == "PASS"
    still = run(tmp_path / "still", 0, inputs="x")
    change = changed(at_gate(compare(a, b, repeat=still)), "rms")
    assert (change.repeat_floor, change.status) == (0.0, "FAIL")
