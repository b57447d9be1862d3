"""Trends: every window in single numbers, read by column; derived where there are none."""

import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.errors import SchemaError, UnknownName
from ffn_probe.measures import MEASURES
from ffn_probe.runs import NUMBERS, QUANTILES, Manifest, Run, RunWriter, trend_rows
from ffn_probe.runs.schema import TABLES
from tests.runs.recording import BLOCK, SITES, tables, values, write

DATA = values()
STEPS = [(0, 9), (10, 19), (20, 24)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three windows without trends, as old recordings are."""
    folder = tmp_path_factory.mktemp("bare") / "run"
    write(folder, DATA)
    shutil.rmtree(folder / "trends", ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with its trends."""
    folder = tmp_path_factory.mktemp("trends") / "run"
    with RunWriter.create(folder, Manifest(blocks=(BLOCK,))) as writer:
        for window, steps in enumerate(STEPS):
            found = tables(DATA, window)
            found["trends"] = trend_rows(found, (BLOCK,), window=window, steps=steps)
            writer.write_window(window, found)
            writer.update(windows=window + 1)
    return folder


def rows_of(site: Site, window: int) -> np.ndarray:
    return np.concatenate([x for (s, w, _), x in DATA.items() if (s, w) == (site, window)])


def test_the_trends_of_a_window_are_those_of_its_values(folder: Path) -> None:
    frame = Run.open(folder).trends()
    assert len(frame) == 3 * len(SITES)
    for site in SITES:
        lines = frame[(frame["layer"] == site.layer) & (frame["role"] == site.role)]
        for window, line in enumerate(lines.to_dict("records")):
            rows = rows_of(site, window)
            kept = rows[np.isfinite(rows)].astype(np.float64)
            assert (line["first_step"], line["last_step"]) == STEPS[window]
            assert line["rows"] == len(rows)
            assert line["rms"] == pytest.approx(np.sqrt((kept**2).mean()), rel=1e-6)
            assert line["absmax"] == np.abs(kept).max()
            assert line["nonfinite"] == rows.size - kept.size
            for name, share in QUANTILES.items():
                exact = np.quantile(kept, share, method="inverted_cdf")
                assert line[name] == pytest.approx(exact, rel=2.0**-8, abs=1e-30)


def test_every_measure_of_a_window_is_that_of_a_run_of_that_window(
    folder: Path, tmp_path: Path
) -> None:
    with RunWriter.create(tmp_path / "one", Manifest(blocks=(BLOCK,))) as writer:
        writer.write_window(1, tables(DATA, 1))
    alone = Run.open(tmp_path / "one").measures()
    trends = Run.open(folder).trends().query("window == 1")
    for site in SITES:
        [line] = trends[
            (trends["block"] == site.block) & (trends["role"] == site.role)
        ].to_dict("records")
        own = alone[(alone["block"] == site.block) & (alone["role"] == site.role)]
        known = dict(zip(own["measure"], own["value"], strict=True))
        for entry in MEASURES:
            expected = known.get(entry.name, np.nan)
            assert line[entry.name] == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_old_runs_get_the_same_trends_from_their_windows(folder: Path, bare: Path) -> None:
    ours, theirs = Run.open(folder).trends(), Run.open(bare).trends()
    assert theirs[["first_step", "last_step"]].to_numpy().tolist() == [
        [window] * 2 for window in range(3) for _ in SITES
    ]  # of the metrics, one a window
    for name in NUMBERS:
        np.testing.assert_array_equal(ours[name].to_numpy(), theirs[name].to_numpy())


def test_steps_without_metrics_are_those_of_the_largest_values(
    bare: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bare, tmp_path / "run"))
    shutil.rmtree(copy / "metrics")
    assert Run.open(copy).trends(["rms"])["last_step"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for path in (copy / "extremes").glob("*"):
        columns = pq.read_table(path).to_pydict()
        columns["top_step"] = [[7 + i % 3 for i in range(len(x))] for x in columns["top_step"]]
        pq.write_table(pa.Table.from_pydict(columns, schema=TABLES["extremes"]), path)
    frame = Run.open(copy).trends(["rms"])
    assert set(frame["first_step"]) == {7}
    assert set(frame["last_step"]) == {9}


def test_a_run_of_one_window_without_trends_has_no_history(tmp_path: Path) -> None:
    write(tmp_path / "run", DATA, windows=1)
    shutil.rmtree(tmp_path / "run" / "trends", ignore_errors=True)
    frame = Run.open(tmp_path / "run").trends(["rms"])
    assert frame.empty
    assert "rms" in frame.columns
    RunWriter.create(tmp_path / "empty", Manifest()).close()
    assert Run.open(tmp_path / "empty").trends().empty


def test_numbers_and_a_site_can_be_chosen(folder: Path, bare: Path) -> None:
    for path in (folder, bare):
        run = Run.open(path)
        frame = run.trends(["q50", "rms"], site=SITES[2])
        assert frame.columns.tolist()[-2:] == ["q50", "rms"]
        assert frame["window"].tolist() == [0, 1, 2]
        assert set(frame["expert"]) == {3}
        assert run.trends(["rms"], site=SITES[0].name)["role"].tolist() == ["resid"] * 3
        assert run.trends(["rms"], site="nowhere/hidden").empty
        assert run.trends(["rms"], site="").shape == (9, frame.shape[1] - 1)
    with pytest.raises(UnknownName, match=r"'rmss'. Did you mean 'rms'"):
        Run.open(folder).trends(["rmss"])


def test_the_columns_carry_their_units(folder: Path) -> None:
    units = Run.open(folder).table("trends").attrs["units"]
    assert units["rms"] == units["q50"] == "unit of the tensor"
    assert units["sqnr_int8_tensor"] == "dB"
    assert units["last_step"] == "ordinal"


def test_the_documented_query_reads_the_history_of_a_site(folder: Path) -> None:
    query = f"""SELECT last_step, absmax FROM '{folder}/trends/*.parquet'
        WHERE role = 'hidden' AND layer = 1 ORDER BY last_step"""
    found = duckdb.sql(query).fetchall()
    own = Run.open(folder).trends(["absmax"], site=SITES[2])
    assert found == list(zip(own["last_step"], own["absmax"], strict=True))


def test_a_measure_that_a_recording_did_not_know_is_absent_not_an_error(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    for path in (copy / "trends").glob("*-00000001-*"):
        pq.write_table(pq.read_table(path).drop_columns(["crest"]), path)
    crest = Run.open(copy).trends(["crest"]).groupby("window")["crest"].count()
    assert crest.tolist() == [3, 0, 3]


def test_a_part_of_another_kind_is_told(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    path = next((copy / "trends").glob("*"))
    whole = pq.read_table(path)
    at = whole.schema.get_field_index("rms")
    text = pa.array(["x"] * whole.num_rows)
    pq.write_table(whole.set_column(at, "rms", text), path)
    with pytest.raises(SchemaError, match="'rms'"):
        Run.open(copy).trends(["rms"])
    pq.write_table(whole.drop_columns(["last_step"]), path)
    with pytest.raises(SchemaError, match="'last_step'"):
        Run.open(copy).trends(["rms"])


def test_windows_of_an_open_run_that_are_not_finished_are_not_read(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    made = Manifest.read(copy)
    (copy / "run.json").write_text(made.with_(state="open", windows=2).to_json())
    assert set(Run.open(copy).trends(["rms"])["window"]) == {0, 1}
