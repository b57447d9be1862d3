"""What is written to a run is what is read from it."""

import re
import shutil
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

import ffn_probe.runs.run
from ffn_probe.anatomy import Site
from ffn_probe.errors import UnknownName
from ffn_probe.runs import Manifest, Run, RunWriter
from ffn_probe.runs.schema import TABLES
from ffn_probe.sketches import BitHistogram, Channels, Extremes, Moments, Summary
from tests.runs.nobody import as_nobody
from tests.runs.pairing import FOLDS_SEEN, PAIRED_TABLES, arrays, write_pair
from tests.runs.recording import BLOCK, SITES, geometry, key, tables, values, whole, write

DATA = values()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "base"
    write(folder, DATA)
    return Run.open(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pairs") / "pair"
    write_pair(folder)
    return Run.open(folder)


def assert_like(found: Summary, expected: Summary) -> None:
    """The same counts, and the same sums up to the rounding of float64."""
    left, right = found.to_row(), expected.to_row()
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, str | list):
            assert value == right[name], name
        else:
            np.testing.assert_allclose(value, right[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("site", SITES, ids=lambda s: s.name)
def test_a_summary_is_that_of_all_rows_of_all_windows(run: Run, site: Site) -> None:
    assert_like(run.summary(site), whole(DATA, site))


def test_the_whole_histogram_is_exact(run: Run) -> None:
    for site in SITES:
        assert run.histogram(site).equals(whole(DATA, site).histogram)


def test_a_folds_histogram_holds_its_batches_of_every_window(run: Run) -> None:
    site = SITES[1]
    found = run.fold_histograms(site)
    for fold in range(16):
        rows = [x for (s, _, f), x in DATA.items() if (s, f) == (site, fold)]
        if rows:
            expected = BitHistogram.of(np.concatenate(rows), 3)
            assert found[fold] is not None
            assert found[fold].equals(expected)  # type: ignore[union-attr]
        else:
            assert found[fold] is None


def test_the_folds_of_a_table_are_those_written(run: Run) -> None:
    site = SITES[0]
    assert set(run.load("channels")[site]) == {-2, -3}
    assert set(run.load("moments")[site]) == {f for s, _, f in DATA if s == site}
    assert site not in run.load("joint")


def test_the_weights_are_the_last_ones_recorded(run: Run) -> None:
    found = run.weights(BLOCK.name)
    assert found is not None
    for name, value in geometry(2).to_row().items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert run.weights("model.layers.1.mlp") is None
    assert run.weights(BLOCK.name, expert=0) is None


def test_sites_are_in_the_order_of_the_data_flow(run: Run) -> None:
    assert run.sites == SITES
    assert [s.name for s in run.sites][-1] == "model.layers.1.mlp/hidden#3"


def test_rows_and_dtype_are_counted(run: Run) -> None:
    for site in SITES:
        rows = sum(len(x) for (s, _, _), x in DATA.items() if s == site)
        assert run.rows(site) == (rows, rows, "float32")


def test_unlike_dtypes_are_mixed_and_an_unknown_one_is_not(tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    for name, dtypes in {"unknown": ("", "float32"), "mixed": ("bfloat16", "float32")}.items():
        rows = []
        for fold, dtype in enumerate(dtypes):
            counts = {"seen_rows": 5, "sampled_rows": 2, "dtype": dtype}
            rows.append(key(SITES[0], 0, fold) | counts | Moments.of(x).to_row())
        with RunWriter.create(tmp_path / name, Manifest()) as writer:
            writer.write_window(0, {"moments": rows})
    assert Run.open(tmp_path / "unknown").rows(SITES[0]) == (10, 4, "float32")
    assert Run.open(tmp_path / "mixed").rows(SITES[0]) == (10, 4, "mixed")


def test_a_site_with_moments_only_has_empty_parts(tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    counts = {"seen_rows": 2, "sampled_rows": 2, "dtype": "float32"}
    row = key(SITES[0], 0, 0) | counts | Moments.of(x).to_row()
    with RunWriter.create(tmp_path / "run", Manifest()) as writer:
        writer.write_window(0, {"moments": [row], "joint": []})
    found = Run.open(tmp_path / "run").summary(SITES[0])
    assert found.moments.equals(Moments.of(x))
    assert found.histogram.equals(BitHistogram.empty())
    assert found.channels.equals(Channels.empty(0))
    assert found.extremes.equals(Extremes.empty())
    assert found.joint is None


def test_a_run_without_windows_has_no_sites(tmp_path: Path) -> None:
    RunWriter.create(tmp_path / "run", Manifest()).close()
    empty = Run.open(tmp_path / "run")
    assert empty.sites == ()
    assert empty.measures().empty
    assert empty.table("moments").columns.tolist() == TABLES["moments"].names


def test_the_manifest_survives(tmp_path: Path) -> None:
    manifest = Manifest(
        created="2026-01-02T03:04:05",
        model={"class": "Llama", "config": {"hidden_act": "silu", "scale": float("inf")}},
        blocks=(BLOCK,),
        sampling={"rows": "all"},
        tags={"run": "Ünïcode \ud800 \u2028"},
        folds=tuple({"hash": "ab", "batches": 1, "tokens": 2} for _ in range(16)),
        skipped=({"path": "a.b", "reason": "no"},),
        warnings=("one",),
        vocabulary={"11": "<U+202E>"},
    )
    write(tmp_path / "run", DATA, windows=1, manifest=manifest)
    found = Run.open(tmp_path / "run")
    model = {"class": "Llama", "config": {"hidden_act": "silu", "scale": "inf"}}
    assert found.manifest == manifest.with_(state="closed", windows=1, model=model)
    assert (found.closed, found.problems, found.blocks) == (True, ("one",), (BLOCK,))


# Tables


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_a_frame_with_units(run: Run, pair: Run, name: str) -> None:
    frame = (pair if name in PAIRED_TABLES else run).table(name)
    assert len(frame) > 0
    assert frame.columns.tolist() == TABLES[name].names
    assert set(frame.attrs["units"]) == set(frame.columns)
    assert all(frame.attrs["units"].values())


def test_the_energies_of_a_pair_are_those_written(pair: Run) -> None:
    frame = pair.table("paired").query("view == 'end'")
    for window in range(2):
        for fold in FOLDS_SEEN:
            a, b = arrays(window, fold)
            row = frame[(frame["window"] == window) & (frame["fold"] == fold)]
            assert row["error"].tolist() == [((b - a) ** 2).sum()]
    assert len(frame) == 2 * len(FOLDS_SEEN)


def test_the_units_of_a_table_are_right(run: Run) -> None:
    units = run.table("moments").attrs["units"]
    assert (units["mean"], units["count"]) == ("unit of the tensor", "values")
    assert units["m2"] == "unit of the tensor^2, summed"


def test_measures_are_one_row_a_site_and_measure(run: Run) -> None:
    frame = run.measures()
    keys = ["layer", "block", "role", "expert", "measure"]
    assert frame.columns.tolist() == [*keys, "value", "unit"]
    assert not frame.duplicated(keys).any()
    assert frame["value"].notna().all()
    for site in SITES:
        here = frame[(frame["layer"] == site.layer) & (frame["role"] == site.role)]
        by_name = here.set_index("measure")["value"]
        rows = np.concatenate([x for (s, _, _), x in DATA.items() if s == site])
        kept = rows[np.isfinite(rows)].astype(np.float64)
        assert by_name["rms"] == pytest.approx(np.sqrt((kept**2).mean()), rel=1e-12)
        assert by_name["absmax"] == np.abs(kept).max()
        assert by_name["nonfinite"] == rows.size - kept.size
    assert run.table("measures").equals(frame)


def test_measures_can_be_chosen(run: Run) -> None:
    frame = run.measures(["std", "crest"])
    assert set(frame["measure"]) == {"std", "crest"}
    with pytest.raises(UnknownName, match=r"no measure 'crst'. Did you mean 'crest'"):
        run.measures(["crst"])


def test_metrics_keep_step_and_name(run: Run) -> None:
    frame = run.table("metrics")
    assert frame["step"].tolist() == [0, 1, 2]
    assert set(frame["name"]) == {"loss"}


def test_unknown_names_are_told_with_a_guess(run: Run) -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'model.layers.0.mlp/hidden'"):
        run.summary("model.layers.0.mlp/hiden")
    with pytest.raises(UnknownName, match=r"no site 'model.layers.1.mlp/hidden'"):
        run.histogram("model.layers.1.mlp/hidden")
    with pytest.raises(UnknownName, match=r"no table 'momnts'. Did you mean 'moments'"):
        run.table("momnts")
    with pytest.raises(UnknownName, match="no table 'metrics'"):
        run.load("metrics")


# What others read


def test_the_documented_query_agrees_with_the_run(run: Run) -> None:
    text = ffn_probe.runs.run.__doc__ or ""
    found = re.search(r"SELECT.*?;", text, re.DOTALL)
    assert found
    query = found[0].replace("'runs/base/", f"'{run.folder}/")
    assert query != found[0]
    lines = duckdb.sql(query.rstrip(";")).fetchall()
    expected = {(s.layer, s.role): run.summary(s).extremes.absmax for s in SITES}
    assert {(layer, role): top for layer, role, top in lines} == expected
    assert [top for *_, top in lines] == sorted(expected.values(), reverse=True)


def test_a_plain_reader_sees_the_units(run: Run) -> None:
    path = next((run.folder / "moments").glob("*.parquet"))
    fields = pq.read_schema(path)
    assert fields.field("mean").metadata[b"unit"] == b"unit of the tensor"
    assert all(fields.field(name).metadata[b"unit"] for name in fields.names)
    query = f"SELECT count(*) FROM '{path}' WHERE count > 0 AND m2 >= 0"
    [(rows,)] = duckdb.sql(query).fetchall()
    assert rows == len([1 for _, window, _ in DATA if window == 0])


def test_a_run_can_be_moved(run: Run, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run.folder, tmp_path / "elsewhere" / "renamed"))
    assert Run.open(moved).measures().equals(run.measures())
    assert str(run.folder).encode() not in (moved / "run.json").read_bytes()


def test_reading_leaves_the_folder_as_it_was(run: Run) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.folder.rglob("*")}
    again = Run.open(run.folder)
    again.measures()
    for name in TABLES:
        again.table(name)
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.folder.rglob("*")}
    assert before == after


def test_reading_needs_no_right_to_write() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        write(folder, DATA, windows=1)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        Path(name).chmod(0o755)
        expected = _measured(folder)
        assert as_nobody(_measured, folder) == expected
        assert expected.count("absmax") == len(SITES)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def _measured(folder: Path) -> str:
    return Run.open(folder).measures().to_csv()


def test_opening_reads_the_manifest_alone(tmp_path: Path) -> None:
    write(tmp_path / "run", DATA, windows=1)
    for path in (tmp_path / "run").rglob("*.parquet"):
        path.write_bytes(b"")
    assert Run.open(tmp_path / "run").blocks == (BLOCK,)


def test_the_rows_of_a_window_keep_their_ranks(run: Run) -> None:
    frame = run.table("quant")
    assert (frame[["dp", "tp", "pp", "ep"]] == 0).all(axis=None)
    assert len(frame) == sum(len(tables(DATA, w)["quant"]) for w in range(3))
