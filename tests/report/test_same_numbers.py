"""Every form of a report says the same: verdict, values, thresholds, floors, settings."""

import csv
import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from ffn_probe.compare import Drift, compare
from ffn_probe.report import report
from ffn_probe.report.words import number, place
from ffn_probe.runs import Run
from tests.report.reading import Page, markdown_rows

SAMPLES = Path(__file__).parents[2] / "sample_runs"


@pytest.fixture(scope="module")
def drift() -> Drift:
    return compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu")


@pytest.fixture(scope="module")
def folder(drift: Drift, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(drift, to=tmp_path_factory.mktemp("same") / "out")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(SAMPLES / "rms-swiglu", to=tmp_path_factory.mktemp("alone") / "out")


def shown(drift: Drift) -> list[list[str]]:
    """Return what a table of the worst sites has to hold, from the drift itself."""
    rows = []
    for site in drift.worst(len(drift.sites)):
        worst = site.worst
        times = "-" if worst.times_floor is None else number(worst.times_floor) + "\u00d7"
        rows.append(
            [str(site.layer), place(site), worst.aspect, worst.statistic,
             number(worst.value, signed=True), worst.unit, number(worst.threshold),
             number(worst.floor), times, number(worst.mde), str(worst.folds)]
        )  # fmt: skip
    return [row for row, site in zip(rows, drift.worst(99), strict=True)
            if site.status != "PASS"]  # fmt: skip


def test_html_and_markdown_have_one_table_of_sites(drift: Drift, folder: Path) -> None:
    in_html = [row for row in Page((folder / "drift.html").read_text()).rows if len(row) == 12]
    in_markdown = markdown_rows((folder / "drift.md").read_text())
    assert [row[1:] for row in in_html[1:]] == shown(drift)
    sites = [row for row in in_markdown if len(row) == 12]
    assert [[cell.strip() for cell in row[1:]] for row in sites[1:]] == shown(drift)
    assert [row[0].split()[-1] for row in in_html[1:]] == [
        row[0].split()[-1] for row in sites[1:]
    ]


def test_the_verdict_is_one_sentence_in_every_form(drift: Drift, folder: Path) -> None:
    sentence = drift.verdict.sentence
    assert sentence in " ".join(Page((folder / "drift.html").read_text()).texts)
    assert sentence in (folder / "drift.md").read_text().replace("\\", "")
    assert json.loads((folder / "drift.json").read_text())["verdict"]["sentence"] == sentence


@pytest.mark.parametrize("name", ["value", "threshold", "floor", "times_floor", "mde"])
def test_json_csv_and_parquet_hold_the_numbers_of_the_drift(
    name: str, drift: Drift, folder: Path
) -> None:
    true = drift.table()[name].tolist()
    frame = pd.read_parquet(folder / "drift.parquet")
    assert frame[name].tolist() == pytest.approx(true, rel=0, abs=0, nan_ok=True)
    rows = csv.DictReader(io.StringIO((folder / "drift.csv").read_text()))
    assert [float(row[name] or "nan") for row in rows] == pytest.approx(
        true, rel=0, abs=0, nan_ok=True
    )
    data = json.loads((folder / "drift.json").read_text())
    found = [change[name] for site in data["sites"] for change in site["changes"]]
    numbers = [math.nan if x is None else float(x) for x in found]
    assert numbers == pytest.approx(true, rel=0, abs=0, nan_ok=True)


def test_settings_are_the_same_in_every_form(drift: Drift, folder: Path) -> None:
    true = [list(row) for row in drift.config_diff]
    page = [row for row in Page((folder / "drift.html").read_text()).rows if len(row) == 3]
    assert [row for row in page if row in true] == true
    markdown = markdown_rows((folder / "drift.md").read_text())
    assert [row for row in markdown if row in true] == true
    assert pd.read_csv(folder / "settings.csv", dtype=str).to_numpy().tolist() == true
    assert json.loads((folder / "drift.json").read_text())["config_diff"] == true


@pytest.mark.parametrize("name", ["rms", "crest", "spike_ratio", "sqnr_e4m3fn_tensor"])
def test_a_map_of_a_run_holds_its_measures_in_every_form(name: str, alone: Path) -> None:
    run = Run.open(SAMPLES / "rms-swiglu")
    frame = run.measures([name])
    true = frame.pivot(index="layer", columns="role", values="value")[
        ["resid", "normed", "gate", "gate_act", "value", "hidden", "out"]
    ]
    values = zip(true.index, true.to_numpy().tolist(), strict=True)
    rows = [[str(layer), *map(number, line)] for layer, line in values]
    page = [row[:-1] for row in Page((alone / "telemetry.html").read_text()).rows]
    markdown = [row[:-1] for row in markdown_rows((alone / "telemetry.md").read_text())]
    data = json.loads((alone / "telemetry.json").read_text())
    assert all(row in page for row in rows)
    assert all(row in markdown for row in rows)
    found = [site["measures"].get(name) for site in data["sites"]]
    assert [v for v in found if v is not None] == frame["value"].tolist()
    stored = pd.read_parquet(alone / "measures.parquet")
    assert stored[stored["measure"] == name]["value"].tolist() == frame["value"].tolist()
    listed = pd.read_csv(alone / "measures.csv")
    assert listed[listed["measure"] == name]["value"].tolist() == frame["value"].tolist()
