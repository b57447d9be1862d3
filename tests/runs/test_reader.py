"""Reading one site at a time is reading everything, only less of it."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_probe.runs import Run
from ffn_probe.runs.progress import Step, told_to
from tests.runs.recording import SITES, values, write

DATA = values()
TABLES = ("moments", "histograms", "channels")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose row groups hold a few rows."""
    monkeypatch.setattr("ffn_probe.runs.writer._GROUP", 2048)
    write(tmp_path / "run", DATA, windows=2)
    return tmp_path / "run"


def sketches(run: Run) -> dict[Any, Any]:
    return {
        (table, site, fold): sketch
        for table in TABLES
        for site, folds in run.load(table).items()
        for fold, sketch in folds.items()
    }


def assert_same(one: dict[Any, Any], other: dict[Any, Any]) -> None:
    assert one.keys() == other.keys()
    assert all(found.equals(other[key]) for key, found in one.items())


def test_sites_read_alone_are_those_of_the_whole_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = sketches(Run.open(folder))
    monkeypatch.setattr("ffn_probe.runs.reader._SMALL", 0)
    monkeypatch.setattr("ffn_probe.runs.reader._PARTS", 0)
    run = Run.open(folder)
    assert not run.load("moments").reader.by_site
    assert_same(alone, sketches(run))


def test_what_does_not_fit_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = sketches(Run.open(folder))
    monkeypatch.setattr("ffn_probe.runs.reader._KEPT", 1)
    monkeypatch.setattr("ffn_probe.runs.stored._KEPT", 1)
    run = Run.open(folder)
    assert_same(kept, sketches(run))
    assert_same(kept, sketches(run))
    assert {len(run.load(table)._sites) for table in TABLES} == {1}


def test_a_site_that_is_kept_is_not_read_again(folder: Path) -> None:
    run = Run.open(folder)
    first = run.load("histograms")[SITES[0]]
    for part in (folder / "histograms").glob("*"):
        part.unlink()
    assert run.load("histograms")[SITES[0]] is first


def test_the_keys_of_a_table_tell_its_sites_without_its_lists(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(folder)
    assert run.sites == SITES
    monkeypatch.setattr("ffn_probe.runs.reader.Reader._group", lambda *_: 1 / 0)
    assert list(run.load("channels"))
    with pytest.raises(ZeroDivisionError):
        run.load("channels")[SITES[0]]


def test_a_measure_reads_only_what_it_is_made_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = Run.open(folder), set()
    load = Run.load
    monkeypatch.setattr(Run, "load", lambda self, table: seen.add(table) or load(self, table))
    assert not run.measures(["rms"]).empty
    assert seen == {"moments"}
    run.measures(["p50_abs"])
    assert seen == {"moments", "histograms"}


def test_threads_share_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffn_probe.runs.reader._KEPT", 4096)
    monkeypatch.setattr("ffn_probe.runs.stored._KEPT", 4096)
    expected, run = sketches(Run.open(folder)), Run.open(folder)
    found: list[dict[Any, Any]] = []
    threads = [threading.Thread(target=lambda: found.append(sketches(run))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for one in found:
        assert_same(expected, one)


def test_long_reading_says_how_far_it_is(folder: Path) -> None:
    heard: list[Step] = []
    with told_to(heard.append):
        Run.open(folder).measures(["rms"])
    blocks = len({site.block for site in SITES})
    assert {step.total for step in heard if step.what == "measuring run"} == {blocks}
    assert {step.total for step in heard if step.what == "opening moments of run"} == {2}


def test_the_summary_of_a_site_is_that_of_its_parts(folder: Path) -> None:
    run = Run.open(folder)
    one, other = run.summary(SITES[0]), run.summary(SITES[0])
    assert one.equals(other)
    assert one.merge(other).moments.count == 2 * one.moments.count
    with pytest.raises(AttributeError):
        one.no_such_part  # noqa: B018
    assert np.isfinite(one.moments.rms)
