"""A recording is complete or absent, one recorder a folder, and never harms what is there."""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffn_probe.errors import RunError, UnknownName
from ffn_probe.runs import Manifest, Run, RunWriter
from ffn_probe.runs.writer import lock_owner, write_part
from tests.runs.nobody import as_nobody
from tests.runs.recording import SITES, tables, values, write

DATA = values()


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes()
        for p in sorted(folder.rglob("*"))
    }


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.endswith(".tmp")]


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Where a run may be made


def test_an_existing_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "run", DATA, windows=1)
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match=r"exists already \(a run\)"):
        RunWriter.create(tmp_path / "run", Manifest())
    assert snapshot(tmp_path) == before


def test_a_foreign_folder_or_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    for name in ("notes", "file"):
        with pytest.raises(RunError, match=r"exists already \(something else\)"):
            RunWriter.create(tmp_path / name, Manifest())
    with pytest.raises(RunError, match="cannot write a run"):
        RunWriter.create(tmp_path / "file" / "deep" / "run", Manifest())
    assert snapshot(tmp_path) == before


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="exists already"):
        RunWriter.create(tmp_path / "run", Manifest())
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_that_cannot_be_is_told(tmp_path: Path) -> None:
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(RunError, match="cannot write a run"):
            RunWriter.create(tmp_path / "new" / name, Manifest())
    assert not (tmp_path / "new").exists()


def test_a_folder_without_write_permission_is_told() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shut").mkdir()
        (folder / "shut").chmod(0o555)
        folder.chmod(0o755)
        message = as_nobody(_creating, folder / "shut" / "a" / "run")
        (folder / "shut").chmod(0o755)
        assert message == f"cannot write a run at {folder}/shut/a/run: Permission denied"
        assert snapshot(folder) == {"shut": None}


def _creating(folder: Path) -> str:
    try:
        RunWriter.create(folder, Manifest())
    except RunError as error:
        return str(error)
    return "made"


def test_a_failed_start_removes_the_parents_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError, match="No space left"):
        RunWriter.create(tmp_path / "kept" / "a" / "b" / "run", Manifest())
    assert snapshot(tmp_path) == {"kept": None}


def test_a_manifest_that_json_cannot_hold_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="JSON"):
        RunWriter.create(tmp_path / "a" / "run", Manifest(model={"x": object()}))
    assert snapshot(tmp_path) == {}


def test_a_discarded_run_leaves_nothing(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "a" / "b" / "run", Manifest())
    (tmp_path / "a" / "mine.txt").write_text("mine")
    writer.discard()
    assert snapshot(tmp_path) == {"a": None, "a/mine.txt": b"mine"}


# One recorder a folder


def test_a_second_recorder_is_refused_with_the_process(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "run", Manifest())
    with pytest.raises(RunError, match=f"being recorded by process {os.getpid()}"):
        RunWriter.create(tmp_path / "run", Manifest())
    writer.write_window(0, tables(DATA, 0))
    writer.close()
    assert lock_owner(tmp_path / "run") is None
    with pytest.raises(RunError, match=r"exists already \(a run\)"):
        RunWriter.create(tmp_path / "run", Manifest())


def test_a_lock_of_a_dead_process_names_nobody(tmp_path: Path) -> None:
    RunWriter.create(tmp_path / "run", Manifest())
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    for text in (f'{{"pid": {done.pid}}}', "", "[]", '{"pid": "x"}', '{"pid": -1}', "\xff"):
        (tmp_path / "run" / ".lock").write_text(text)
        assert lock_owner(tmp_path / "run") is None


def test_a_faster_recorder_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunWriter.create(tmp_path / "run", Manifest(device="first"))
    before = snapshot(tmp_path)
    monkeypatch.setattr(RunWriter, "check_free", staticmethod(lambda _: None))
    with pytest.raises(RunError, match=f"being recorded by process {os.getpid()}"):
        RunWriter.create(tmp_path / "run", Manifest(device="second"))
    assert snapshot(tmp_path) == before
    first.close()


def _race(folder: Path, queue: Any, barrier: Any) -> None:
    barrier.wait()
    try:
        RunWriter.create(folder, Manifest())
    except RunError:
        queue.put("refused")
    else:
        queue.put("made")


def test_of_many_recorders_one_gets_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    queue, barrier = context.Queue(), context.Barrier(4)
    workers = [
        context.Process(target=_race, args=(tmp_path / "a" / "run", queue, barrier))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    answers = sorted(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert answers == ["made", "refused", "refused", "refused"]
    assert (tmp_path / "a" / "run" / "run.json").is_file()


# What is written


def test_a_window_is_written_once(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "run", Manifest()) as writer:
        writer.write_window(0, tables(DATA, 0))
        before = snapshot(tmp_path)
        with pytest.raises(RunError, match="was written before"):
            writer.write_window(0, tables(DATA, 1))
        assert snapshot(tmp_path) == before


def test_an_unknown_table_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "run", Manifest()) as writer:
        with pytest.raises(UnknownName, match="Did you mean 'moments'"):
            writer.write_window(0, tables(DATA, 0) | {"momnts": []})
        assert not list((tmp_path / "run").rglob("*.parquet"))


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "run", Manifest())
    writer.close(device="cpu")
    writer.close(device="gpu")
    assert Run.open(tmp_path / "run").manifest.device == "cpu"


def test_an_error_inside_leaves_the_run_open_and_unlocked(tmp_path: Path) -> None:
    def fail() -> None:
        with RunWriter.create(tmp_path / "run", Manifest()) as writer:
            writer.write_window(0, tables(DATA, 0))
            writer.update(windows=1)
            raise KeyError("training")

    with pytest.raises(KeyError, match="training"):
        fail()
    run = Run.open(tmp_path / "run")
    assert not run.closed
    assert "was not closed" in run.problems[0]
    assert run.sites == SITES
    assert lock_owner(tmp_path / "run") is None


# When the disk is full


def test_a_full_disk_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter.create(tmp_path / "run", Manifest())
    writer.write_window(0, tables(DATA, 0))
    writer.update(windows=1)
    before = Run.open(tmp_path / "run").summary(SITES[0])
    real = pq.write_table

    def half_written(data: Any, file: Any, **options: Any) -> None:
        real(data.slice(0, 1), file, **options)
        full_disk()

    monkeypatch.setattr(pq, "write_table", half_written)
    with pytest.raises(RunError, match=r"moments.*No space left.*is complete"):
        writer.write_window(1, tables(DATA, 1))
    assert leftovers(tmp_path) == []
    assert Run.open(tmp_path / "run").summary(SITES[0]).equals(before)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
def test_a_window_that_fails_midway_leaves_no_part_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    writer = RunWriter.create(tmp_path / "run", Manifest())
    writer.write_window(0, tables(DATA, 0))
    before = {name for name, data in snapshot(tmp_path).items() if data is not None}
    real, calls = pq.write_table, iter([False, False, True])

    def third_fails(data: Any, file: Any, **options: Any) -> None:
        real(data, file, **options)
        if next(calls):
            raise failure

    monkeypatch.setattr(pq, "write_table", third_fails)
    with pytest.raises((KeyboardInterrupt, RunError)):
        writer.write_window(1, tables(DATA, 1))
    writer.close()
    after = {name for name, data in snapshot(tmp_path).items() if data is not None}
    assert after == before - {"run/.lock"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_a_file_that_may_not_grow_is_told_and_removed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_small_then_limited, args=(tmp_path / "run",))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert leftovers(tmp_path) == []
    run = Run.open(tmp_path / "run")
    assert run.closed
    assert run.sites == SITES
    assert run.rows(SITES[0])[0] == sum(
        len(x) for (s, w, _), x in DATA.items() if (s, w) == (SITES[0], 0)
    )


def _small_then_limited(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = RunWriter.create(folder, Manifest())
    writer.write_window(0, tables(DATA, 0))
    writer.update(windows=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
    try:
        writer.write_window(1, tables(DATA, 1))
    except RunError:
        writer.close()
        os._exit(0)
    os._exit(1)


def test_a_close_that_fails_gives_the_lock_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter.create(tmp_path / "run", Manifest())
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(RunError, match=r"run\.json: No space left"):
            writer.close()
    assert leftovers(tmp_path) == []
    assert lock_owner(tmp_path / "run") is None
    assert not Run.open(tmp_path / "run").closed


# When the process is killed


def test_a_killed_recorder_loses_at_most_one_window(tmp_path: Path) -> None:
    """Every state between two writes of the second window reads as the first window."""
    writer = RunWriter.create(tmp_path / "run", Manifest())
    writer.write_window(0, tables(DATA, 0))
    writer.update(windows=1)
    expected = Run.open(tmp_path / "run").summary(SITES[1])
    for table, rows in tables(DATA, 1).items():
        writer.write_window(1, {table: rows})
        shutil.copytree(tmp_path / "run", tmp_path / f"killed-{table}")
        found = Run.open(tmp_path / f"killed-{table}")
        assert found.summary(SITES[1]).equals(expected)
        assert set(found.table(table)["window"]) == {0}
    writer.update(windows=2)
    seen = Run.open(tmp_path / "run").summary(SITES[1]).seen_rows
    assert seen > expected.seen_rows
    writer.close()


def test_parts_of_two_ranks_are_both_read(tmp_path: Path) -> None:
    one, two = tables(DATA, 0), tables(DATA, 1)
    with RunWriter.create(tmp_path / "run", Manifest()) as writer:
        writer.write_window(0, one, rank="0")
        writer.write_window(0, two, rank="1")
    site = SITES[2]
    found = Run.open(tmp_path / "run").summary(site).moments
    rows = [x for (s, w, _), x in DATA.items() if s == site and w in {0, 1}]
    flat = np.concatenate(rows).astype(np.float64)
    flat = flat[np.isfinite(flat)]
    assert found.count == flat.size
    assert found.mean == pytest.approx(flat.mean(), rel=1e-12)


def test_a_large_table_is_written_in_groups_of_a_few_sites(tmp_path: Path) -> None:
    """What reading one site unpacks is bounded, and a small table stays in one piece."""
    wide = pa.table({"x": pa.array([list(range(100_000))] * 64, pa.list_(pa.int64()))})
    write_part(wide, tmp_path / "wide.parquet")
    write_part(wide.slice(0, 2), tmp_path / "narrow.parquet")
    found = [
        [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        for file in (pq.ParquetFile(tmp_path / f"{n}.parquet") for n in ("wide", "narrow"))
    ]
    assert found == [[10] * 6 + [4], [2]]
