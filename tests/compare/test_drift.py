"""The Drift as a value: table, JSON, worst sites, verdict, notes and settings."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Block, Norm, Site
from ffn_probe.compare import ASPECTS, STATISTICS, Drift, compare
from ffn_probe.errors import CompareError, UnknownName
from ffn_probe.sketches import BitHistogram
from tests.compare.made_runs import draws, made_blocks, make_run

SITES = [Site(i, f"layers.{i}.mlp", role) for i in range(3) for role in ("gate", "hidden")]
COLUMNS = [
    "layer", "block_a", "block_b", "role", "expert", "aspect", "statistic", "value", "unit",
    "threshold", "provenance", "floor", "times_floor", "repeat_floor", "mde", "folds", "status",
    "detail",
]  # fmt: skip


def values(factors: dict[int, float] | None = None, **kwargs) -> dict[Site, list[np.ndarray]]:
    factors = factors or {}
    return {
        site: [x * np.float32(factors.get(site.layer, 1.0)) for x in draws(i, **kwargs)]
        for i, site in enumerate(SITES)
    }


@pytest.fixture
def drift(tmp_path: Path) -> Drift:
    """Layer 1 is 1.2 times as large, layer 2 1.6 times."""
    a = make_run(tmp_path / "a", values(), inputs="x")
    return compare(a, make_run(tmp_path / "b", values({1: 1.2, 2: 1.6}), inputs="x"))


def texts(drift: Drift) -> str:
    return " | ".join(note.text for note in drift.validity)


def test_the_table_has_one_row_a_change_and_the_documented_columns(drift: Drift) -> None:
    table = drift.table()
    assert list(table.columns) == COLUMNS
    assert len(table) == sum(len(site.changes) for site in drift.sites)
    assert set(table["aspect"]) == set(ASPECTS)
    row = table[(table["layer"] == 2) & (table["statistic"] == "rms")].iloc[0]
    assert row["value"] == pytest.approx(math.log2(1.6), abs=1e-5)
    assert (row["status"], row["folds"], row["unit"]) == ("FAIL", 16, "octaves")
    assert row["times_floor"] == pytest.approx(row["value"] / row["floor"])


def test_sites_are_in_the_order_of_depth_and_flow(drift: Drift) -> None:
    assert [(s.layer, s.role) for s in drift.sites] == [(s.layer, s.role) for s in SITES]


def test_the_verdict_names_counts_first_and_worst(drift: Drift) -> None:
    sentence = drift.verdict.sentence
    assert drift.verdict.status == "FAIL"
    assert sentence.startswith("2 of 6 sites failed and 2 are suspicious;")
    assert "the first in depth is layer 2 gate" in sentence
    assert "times its floor" in sentence
    assert [site.layer for site in drift.worst(2)] == [2, 2]
    assert len(drift.worst(100)) == 6


def test_a_change_above_noise_but_under_its_threshold_passes_and_is_told(
    tmp_path: Path,
) -> None:
    a = make_run(tmp_path / "a", values(), inputs="x")
    drift = compare(a, make_run(tmp_path / "b", values({1: 1.03}), inputs="x"))
    assert drift.verdict.status == "PASS"
    assert "2 differ by more than noise, most of all layer 1" in drift.verdict.sentence


def test_the_order_of_a_sum_is_no_difference(tmp_path: Path) -> None:
    given = {site: [np.exp(4 * x) for x in folds] for site, folds in values().items()}
    turned = {site: [x[::-1].copy() for x in folds] for site, folds in given.items()}
    a = make_run(tmp_path / "a", given, inputs="x")
    b = make_run(tmp_path / "b", turned, inputs="x")
    means = [[run.summary(site).moments.mean for site in SITES] for run in (a, b)]
    assert means[0] != means[1]
    drift = compare(a, b)
    assert "indistinguishable" in drift.verdict.sentence
    assert set(drift.table().query("statistic in ('mean', 'rms')")["value"]) == {0.0}


def test_json_is_strict_and_holds_the_verdict_and_every_change(drift: Drift) -> None:
    data = json.loads(drift.to_json(), parse_constant=pytest.fail)
    assert data["verdict"]["status"] == "FAIL"
    assert data["exit_code"] == 1
    assert data["paired"] is True
    changes = [change for site in data["sites"] for change in site["changes"]]
    assert len(changes) == len(drift.table())
    nonfinite = [change for change in changes if change["statistic"] == "nonfinite"]
    assert {change["floor"] for change in nonfinite} == {None}


def test_values_that_are_not_numbers_are_named_in_json(tmp_path: Path) -> None:
    nothing = {site: [np.full((4, 4), np.nan, np.float32)] * 16 for site in SITES}
    a, b = make_run(tmp_path / "a", values()), make_run(tmp_path / "b", nothing)
    drift = compare(a, b)
    data = json.loads(drift.to_json(), parse_constant=pytest.fail)
    bulk = [c for s in data["sites"] for c in s["changes"] if c["statistic"] == "w1_asinh"]
    assert [change["value"] for change in bulk] == ["nan"] * 6
    assert drift.table()["value"].isna().sum() == 6


def test_histograms_are_the_full_ones_of_both_sides(drift: Drift) -> None:
    site = drift.sites[2]
    one, other = drift.histograms(site)
    given = np.concatenate(draws(2))
    assert one.equals(BitHistogram.of(given))
    assert other.equals(BitHistogram.of(given * np.float32(1.2)))


def test_histograms_of_a_site_of_another_drift_are_refused(
    tmp_path: Path, drift: Drift
) -> None:
    site = Site(0, "elsewhere", "gate")
    other = make_run(tmp_path / "other", {site: draws(0)})
    with pytest.raises(UnknownName, match="elsewhere"):
        drift.histograms(compare(other, other).sites[0])


def test_thresholds_of_the_caller_decide_and_are_named(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", values(), inputs="x")
    b = make_run(tmp_path / "b", values({0: 1.05}), inputs="x")
    assert compare(a, b).verdict.status == "PASS"
    strict = compare(a, b, thresholds={"rms": 0.01})
    row = strict.table().query("statistic == 'rms' and layer == 0").iloc[0]
    assert (row["status"], row["provenance"]) == ("FAIL", "given by the caller")
    lax = compare(a, make_run(tmp_path / "c", values({0: 4.0})), thresholds={
        entry.name: 1e6 for entry in STATISTICS
    })  # fmt: skip
    assert lax.verdict.status == "PASS"


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_threshold_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    a = make_run(tmp_path / "a", values())
    with pytest.raises(CompareError, match="threshold of rms"):
        compare(a, a, thresholds={"rms": value})


def test_a_threshold_of_an_unknown_statistic_is_refused(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", values())
    with pytest.raises(UnknownName, match="Did you mean 'rms'"):
        compare(a, a, thresholds={"rmss": 1.0})


def test_every_threshold_says_where_it_comes_from(drift: Drift) -> None:
    assert all(drift.table()["provenance"].str.len() > 3)
    assert [entry.name for entry in STATISTICS if not entry.label or not entry.unit] == []


# ---- validity ---------------------------------------------------------------------------


def test_equal_inputs_make_a_pair_without_a_note(drift: Drift) -> None:
    assert drift.paired
    assert drift.validity == ()


def test_other_inputs_and_missing_hashes_are_unpaired_and_said(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", values(), inputs="x")
    other = compare(a, make_run(tmp_path / "b", values(), inputs="y"))
    assert not other.paired
    assert "0 of 16 folds agree" in texts(other)
    unknown = compare(a, make_run(tmp_path / "c", values()))
    assert not unknown.paired
    assert "not hashed" in texts(unknown)


def test_other_tokenizers_sampling_and_dtype_are_said(tmp_path: Path) -> None:
    a = make_run(
        tmp_path / "a",
        values(),
        model={"dtype": "float32", "tokenizer": "one"},
        sampling={"rows": 512},
    )
    b = make_run(
        tmp_path / "b",
        values(),
        model={"dtype": "bfloat16", "tokenizer": "two"},
        sampling={"rows": 64},
    )
    drift = compare(a, b)
    assert {"refuse", "warn"} == {note.level for note in drift.validity}
    assert "tokenizer: one and two" in texts(drift)
    assert "rows 512 and 64" in texts(drift)
    assert "float32 and bfloat16" in texts(drift)


def test_problems_of_a_run_are_said(tmp_path: Path) -> None:
    block = Block("layers.0.mlp", 0, "mlp", "gelu", Norm("none"), {}, 4, 8, flags=("odd",))
    a = make_run(tmp_path / "a", values(), close=False, windows=1)
    b = make_run(tmp_path / "b", values(), blocks=[block], warnings=("hot",))
    said = texts(compare(a, b))
    assert "a: the run was not closed" in said
    assert "b: hot" in said
    assert "b: 1 blocks are flagged" in said


def test_the_same_run_twice_is_said(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", values())
    assert "both are the same run" in texts(compare(a, a.path))


# ---- settings ---------------------------------------------------------------------------


def test_config_diff_lists_differences_only(tmp_path: Path) -> None:
    blocks = made_blocks(values())
    changed = [
        Block.from_dict(block.to_dict() | {"norm": {"kind": "layernorm", "eps": 1e-5}})
        if block.layer < 2
        else block
        for block in blocks
    ]
    for block in changed:
        assert block.d_ff == blocks[0].d_ff
    a = make_run(tmp_path / "a", values(), blocks=blocks, model={"class": "M", "n": {"k": 1}})
    b = make_run(
        tmp_path / "b",
        values(),
        blocks=changed,
        model={"class": "M", "n": {"k": 2}},
        tags={"t": "1"},
    )
    found = compare(a, b).config_diff
    assert {key: (one, other) for key, one, other in found} == {
        "block.norm": ("rmsnorm", "layernorm (2), rmsnorm (1)"),
        "block.norm.eps": ("1e-06", "1e-05 (2), 1e-06 (1)"),
        "model.n.k": ("1", "2"),
        "tags.t": ("-", "1"),
    }


def test_compare_does_not_import_torch() -> None:
    code = "import sys, ffn_probe.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
