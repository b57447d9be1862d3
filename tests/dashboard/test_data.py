"""The door to the runs: nested, broken, changed ones; an id is never made into a path."""

import os
import shutil
from pathlib import Path

import pytest

from dashboard.data import Library
from ffn_probe.errors import RunError, UnknownName

SAMPLES = Path(__file__).parents[2] / "sample_runs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good runs, one of them nested, and beside them what is no run."""
    shutil.copytree(SAMPLES / "ln-gelu", tmp_path / "base")
    shutil.copytree(SAMPLES / "rms-swiglu", tmp_path / "deep" / "er" / "new")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "run.txt").write_text("no run")
    (tmp_path / ".hidden").mkdir()
    shutil.copy(SAMPLES / "ln-gelu" / "run.json", tmp_path / ".hidden")
    return tmp_path


def test_every_run_is_found_by_its_path_from_the_folder(folder: Path) -> None:
    assert [entry.id for entry in Library(folder).entries()] == ["base", "deep/er/new"]
    assert Library(folder).run("deep/er/new").blocks[0].activation == "silu"


def test_a_folder_that_is_a_run_holds_itself(folder: Path) -> None:
    library = Library(folder / "base")
    assert [entry.id for entry in library.entries()] == ["base"]
    assert library.run("base").closed


def test_links_out_of_the_folder_are_not_followed(folder: Path) -> None:
    (folder / "way-out").symlink_to(SAMPLES, target_is_directory=True)
    assert [entry.id for entry in Library(folder).entries()] == ["base", "deep/er/new"]


@pytest.mark.parametrize(
    "id_",
    ["", ".", "..", "../base", "/etc", "base/../base", "deep", "base/", "base\0", "notes"],
)
def test_an_id_is_one_of_those_found_or_an_error(folder: Path, id_: str) -> None:
    with pytest.raises(UnknownName, match="no run"):
        Library(folder).run(id_)


def test_broken_runs_are_listed_with_the_reason(folder: Path) -> None:
    (folder / "base" / "run.json").write_text('{"kind":')
    (folder / "cut" / "moments").mkdir(parents=True)
    (folder / "new" / "moments").mkdir(parents=True)
    text = (SAMPLES / "ln-gelu" / "run.json").read_text()
    newer = text.replace('"schema_version": 1', '"schema_version": 99')
    (folder / "new" / "run.json").write_text(newer)
    found = {entry.id: entry for entry in Library(folder).entries()}
    assert [found[n].state for n in ("base", "cut", "new")] == ["broken"] * 3
    assert "not a readable manifest" in found["base"].problem
    assert "holds no run.json" in found["cut"].problem
    assert "schema version 99" in found["new"].problem
    with pytest.raises(RunError, match="not a readable manifest"):
        Library(folder).run("base")


def test_a_name_that_is_no_text_is_listed_and_cannot_be_asked_for(folder: Path) -> None:
    (folder / "base").rename(folder / os.fsdecode(b"\xff\xfe"))
    found = Library(folder).entries()
    assert [entry.state for entry in found] == ["broken", "closed"]
    assert "not text" in found[0].problem
    found[0].id.encode()


def test_a_run_that_changed_is_read_again(folder: Path) -> None:
    library, path = Library(folder), folder / "base" / "run.json"
    assert library.run("base") is library.run("base")
    text = path.read_text()
    path.write_text(text.replace('"state": "closed"', '"state": "open"'))
    os.utime(path, ns=(0, 1))
    assert library.run("base").manifest.state == "open"
    assert library.entries()[0].state == "open"


def test_a_comparison_is_made_once(folder: Path) -> None:
    library = Library(folder)
    drift = library.drift("base", "deep/er/new")
    assert library.drift("base", "deep/er/new") is drift
    assert drift.verdict.status == "FAIL"


def test_measures_of_a_site_are_those_of_the_run(folder: Path) -> None:
    library = Library(folder)
    name = "layers.1.ffn/gate"
    frame = library.run("base").measures()
    true = frame[(frame["block"] == "layers.1.ffn") & (frame["role"] == "gate")]
    found = {entry.name: value for entry, value in library.measures("base", name)}
    assert found == pytest.approx(dict(zip(true["measure"], true["value"], strict=True)))


def test_a_run_with_a_new_part_is_read_again(folder: Path) -> None:
    library = Library(folder)
    run = library.run("base")
    part = next((folder / "base" / "moments").glob("*.parquet"))
    later = part.with_name("part-00000099-0.parquet")
    shutil.copy(part, later)
    os.utime(later.parent, ns=(7, 7))
    again = library.run("base")
    assert again is not run
    with pytest.raises(RunError, match="repeats window"):
        _ = again.sites


def test_a_manifest_that_leads_out_of_its_run_is_refused(folder: Path) -> None:
    (folder / "base" / "run.json").unlink()
    (folder / "base" / "run.json").symlink_to(SAMPLES / "ln-gelu" / "run.json")
    entry = Library(folder).entries()[0]
    assert (entry.state, entry.id) == ("broken", "base")
    assert "leads out of the run folder" in entry.problem


def test_a_value_is_made_once_while_its_runs_stay_as_they_are(folder: Path) -> None:
    library, made = Library(folder), []
    for _ in range(3):
        library.once("value", ("base",), lambda: made.append(1) or len(made))
    assert library.once("value", ("base",), lambda: 0) == 1
    os.utime(folder / "base" / "run.json", ns=(0, 1))
    assert library.once("value", ("base",), lambda: made.append(1) or len(made)) == 2
    assert library.once("value", ("deep/er/new",), lambda: 7) == 7
    with pytest.raises(UnknownName):
        library.once("value", ("nowhere",), lambda: 7)


def test_what_fails_is_not_remembered(folder: Path) -> None:
    library = Library(folder)
    with pytest.raises(ZeroDivisionError):
        library.once("value", ("base",), lambda: 1 // 0)
    assert library.once("value", ("base",), lambda: 7) == 7


def test_runs_forget_what_they_read_when_it_is_too_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(folder)
    one = library.run("base")
    expected = one.measures()
    held = one.nbytes
    assert held > 10_000
    monkeypatch.setattr("dashboard.data.RUNS", held - 1)
    library.run("deep/er/new")
    assert one.nbytes == held  # it is being used
    monkeypatch.setattr("dashboard.data._USED", -1.0)
    library.run("deep/er/new")
    assert one.nbytes == 0
    assert one.measures().equals(expected)
