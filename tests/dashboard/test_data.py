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
