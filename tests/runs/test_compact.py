"""Merged windows say what the windows said, whatever happens while they are merged."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from ffn_probe.errors import RunError
from ffn_probe.runs import Manifest, Run, RunWriter, trend_rows
from ffn_probe.runs import compact as compacting
from ffn_probe.runs.compact import MOST, compact
from ffn_probe.runs.parts import part_files
from ffn_probe.sketches import Summary
from tests.runs.recording import BLOCK, SITES, tables, values, write

HEAVY = ("moments", "histograms", "channels", "extremes", "joint", "quant")
WINDOWS = 12


def few() -> dict[tuple[Site, int, int], np.ndarray]:
    """Return the values of two even and two odd folds of every site and window."""
    found: dict[tuple[Site, int, int], np.ndarray] = {}
    for (site, window, fold), rows in values().items():
        same = [k for k in found if k[:2] == (site, window) and k[2] % 2 == fold % 2]
        if len(same) < 2:
            found[site, window, fold] = rows
    return found


KINDS = few()


@cache
def _rows(kind: int, *, late: bool) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one of three kinds of windows, before or after a site came late."""
    found = {
        table: [row for row in rows if not (late and row["layer"] == 1)]
        for table, rows in tables(KINDS, kind).items()
    }
    return found | {"trends": trend_rows(found, (BLOCK,), window=0, steps=(0, 0))}


def window_tables(window: int, rank: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a window: unlike sizes, folds that come and go, a late site."""
    stamp = {"window": window, "dp": rank}
    steps = {"first_step": window, "last_step": window}
    found = {
        table: [row | stamp | (steps if table == "trends" else {}) for row in rows]
        for table, rows in _rows(window % 3, late=window < 5).items()
    }
    line = {"window": window, "step": window, "name": "loss", "value": 0.5 * window, "dp": rank}
    return found | {"metrics": [line]}


def nothing_more(writer: RunWriter, window: int) -> None:
    """Do nothing after a window."""
    del writer, window


def write_long(
    folder: Path,
    *,
    windows: int = WINDOWS,
    merge: bool = True,
    close: bool = True,
    after: Callable[[RunWriter, int], None] = nothing_more,
) -> Path:
    """Write a run window by window as a recorder does."""
    writer = RunWriter.create(folder, Manifest(blocks=(BLOCK,)))
    for window in range(windows):
        writer.write_window(window, window_tables(window))
        writer.update(windows=window + 1)
        if merge:
            assert writer.compact() == ()
        after(writer, window)
    if close:
        if merge:
            assert writer.compact(last=True) == ()
        writer.close()
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long(tmp_path_factory.mktemp("plain") / "run", merge=False)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long(tmp_path_factory.mktemp("merged") / "run")


def summaries(folder: Path) -> dict[str, Summary]:
    run = Run.open(folder)
    return {site.name: run.summary(site) for site in run.sites}


def assert_same(a: Path, b: Path) -> None:
    """The two runs hold the same sketches, bit for bit."""
    ours, theirs = summaries(a), summaries(b)
    assert list(ours) == list(theirs)
    for name, summary in ours.items():
        assert summary.equals(theirs[name]), name


def test_a_merged_run_holds_bit_for_bit_what_the_windows_held(
    plain: Path, merged: Path
) -> None:
    assert len(part_files(plain, "moments")) == WINDOWS
    assert [p.name for p in part_files(merged, "moments")] == [
        f"part-00000000..{WINDOWS - 1:08d}-0.parquet"
    ]
    assert_same(plain, merged)
    for site in SITES:
        assert Run.open(plain).rows(site) == Run.open(merged).rows(site)


def test_the_comparison_of_a_merged_run_is_that_of_its_windows(
    plain: Path, merged: Path, tmp_path: Path
) -> None:
    write(tmp_path / "other", values(9))
    ours, theirs = (compare(run, tmp_path / "other") for run in (plain, merged))
    assert len(ours.sites) == len(SITES)
    assert [site.changes for site in ours.sites] == [site.changes for site in theirs.sites]
    assert ours.verdict.sentence == theirs.verdict.sentence


def test_the_history_stays_when_windows_are_merged(plain: Path, merged: Path) -> None:
    ours, theirs = Run.open(plain), Run.open(merged)
    assert theirs.trends()["window"].nunique() == WINDOWS
    assert ours.trends().equals(theirs.trends())
    assert ours.table("metrics").equals(theirs.table("metrics"))
    assert len(part_files(merged, "trends")) == 1


@pytest.mark.parametrize("windows", [8, 9, 17])
def test_a_table_never_has_more_parts_than_its_shape_needs(
    tmp_path: Path, windows: int
) -> None:
    most = []

    def count(writer: RunWriter, window: int) -> None:
        del window
        most.append(max(len(part_files(writer.folder, table)) for table in HEAVY))

    folder = write_long(tmp_path / "run", windows=windows, after=count)
    assert max(most) <= MOST
    listed = [len(list((folder / table).glob("*"))) for table in HEAVY]
    assert set(listed) == ({windows} if windows <= MOST else {1})


def test_what_a_merged_part_covers_is_kept_until_the_next_window(tmp_path: Path) -> None:
    """A reader that listed the parts before they were merged still finds them."""
    folder = tmp_path / "run"
    listed: list[Path] = []

    def look(writer: RunWriter, window: int) -> None:
        del writer
        if window == MOST:
            listed.extend(sorted((folder / "moments").glob("*")))

    write_long(folder, windows=MOST + 1, close=False, after=look)
    assert len(listed) == MOST + 2
    assert len(part_files(folder, "moments", windows=MOST + 1)) == 2


def test_the_end_of_a_run_removes_what_is_covered_only_when_it_is_closed(
    tmp_path: Path,
) -> None:
    """A reader of the open run may still be at work while the last parts are merged."""
    folder = tmp_path / "run"
    writer = RunWriter.create(folder, Manifest(blocks=(BLOCK,)))
    for window in range(MOST + 1):
        writer.write_window(window, window_tables(window))
        writer.update(windows=window + 1)
    before = sorted((folder / "moments").glob("*"))
    assert writer.compact(last=True) == ()
    assert set(before) < set((folder / "moments").glob("*"))
    writer.close()
    assert [p.name for p in (folder / "moments").glob("*")] == [
        f"part-00000000..{MOST:08d}-0.parquet"
    ]


@pytest.mark.parametrize("left", [0, 1, 4])
def test_parts_left_behind_by_a_kill_are_not_counted_again(
    plain: Path, merged: Path, tmp_path: Path, left: int
) -> None:
    folder = Path(shutil.copytree(merged, tmp_path / "run"))
    for table in (*HEAVY, "trends", "metrics"):
        for path in sorted((plain / table).glob("*"))[left :: left + 1]:
            shutil.copy(path, folder / table / path.name)
    assert_same(plain, folder)
    assert len(Run.open(folder).trends(["rms"])) == len(Run.open(plain).trends(["rms"]))
    assert len(Run.open(folder).table("metrics")) == WINDOWS


@pytest.mark.parametrize("place", ["write_table", "replace", "unlink"])
def test_an_interrupt_anywhere_neither_loses_nor_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Interrupt the first, the second, ... such call of the merging, until none is left."""
    target = {
        "write_table": (pq.ParquetWriter, "write_table"),
        "replace": (Path, "replace"),
        "unlink": (Path, "unlink"),
    }[place]
    original = getattr(*target)
    small = write_long(tmp_path / "small", windows=MOST + 2, merge=False)
    for table in ("extremes", "joint", "histograms", "channels", "metrics", "trends"):
        shutil.rmtree(small / table)
    expected = summaries(small)
    for allowed in range(200):
        folder = Path(shutil.copytree(small, tmp_path / f"run{allowed}"))
        calls = iter(range(10**6))

        def stop(*args: Any, _calls: Any = calls, _most: int = allowed, **kwargs: Any) -> Any:
            if next(_calls) >= _most:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(*target, stop)
        try:
            compact(folder, windows=MOST + 2)
            compact(folder, windows=MOST + 2)
            done = True
        except KeyboardInterrupt:
            done = False
        monkeypatch.setattr(*target, original)
        found = summaries(folder)
        assert all(found[name].equals(summary) for name, summary in expected.items())
        shutil.rmtree(folder)
        if done:
            break
    assert done
    assert allowed >= {"write_table": 2, "replace": 2, "unlink": 18}[place]


def test_a_full_disk_keeps_what_was(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "run"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    problems = compact(folder, windows=WINDOWS)
    assert set(problems) == set(HEAVY)
    assert all("No space left on device" in text for text in problems.values())
    assert not list(folder.rglob("*.tmp"))
    assert_same(plain, folder)


def test_a_damaged_part_keeps_its_table_and_is_told_once(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "run"))
    victim = part_files(folder, "extremes")[3]
    victim.write_bytes(victim.read_bytes()[:-40])
    names = [p.name for p in part_files(folder, "extremes")]
    problems = compact(folder, windows=WINDOWS)
    assert set(problems) == {"extremes"}
    assert victim.name in problems["extremes"]
    assert [p.name for p in part_files(folder, "extremes")] == names
    assert len(part_files(folder, "moments")) == 2


def test_a_copy_among_the_parts_is_not_merged(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "run"))
    listed = part_files(folder, "moments")
    shutil.copy(listed[0], folder / "moments" / "part-00000005-0.parquet")
    problems = compact(folder, windows=WINDOWS)
    assert "repeats window 0" in problems["moments"]


def test_a_writer_merges_the_parts_of_its_own_rank_only(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "run", Manifest(blocks=(BLOCK,)))
    for window in range(MOST + 2):
        for rank in (0, 1):
            writer.write_window(window, window_tables(window, rank), rank=str(rank))
        writer.update(windows=window + 1)
    before = summaries(writer.folder)
    assert writer.compact(rank="0") == ()
    ranks = [path.name.partition("-")[2] for path in part_files(writer.folder, "moments")]
    assert sum(name.endswith("-1.parquet") for name in ranks) == MOST + 2
    assert sum(name.endswith("-0.parquet") for name in ranks) == 2
    assert writer.compact(rank="1") == ()
    after = summaries(writer.folder)
    for name, summary in before.items():
        assert summary.histogram.equals(after[name].histogram)
        assert summary.moments.mean == pytest.approx(after[name].moments.mean, rel=1e-12)
        assert summary.moments.m2 == pytest.approx(after[name].moments.m2, rel=1e-12)


def test_an_unfinished_window_is_not_merged(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "run", Manifest(blocks=(BLOCK,)))
    for window in range(MOST + 3):
        writer.write_window(window, window_tables(window))
    writer.update(windows=MOST)
    assert writer.compact() == ()
    assert len(part_files(writer.folder, "moments")) == MOST + 3


def test_a_window_that_was_merged_cannot_be_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    writer = RunWriter.create(folder, Manifest(blocks=(BLOCK,)))
    for window in range(MOST + 2):
        writer.write_window(window, window_tables(window))
        writer.update(windows=window + 1)
        writer.compact()
    assert not (folder / "moments" / "part-00000002-0.parquet").exists()
    with pytest.raises(RunError, match="was written before"):
        writer.write_window(2, window_tables(2))


def test_a_merged_part_may_not_hold_a_window_its_name_does_not_say(
    merged: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(merged, tmp_path / "run"))
    path = part_files(folder, "moments")[0]
    path.rename(path.with_name("part-00000004..00000011-0.parquet"))
    with pytest.raises(RunError, match="holds window 0, which its name does not say"):
        Run.open(folder).table("moments")


def test_large_windows_are_merged_row_group_by_row_group(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "run"))
    monkeypatch.setattr(compacting, "_GROUP", 10_000)
    assert compact(folder, windows=WINDOWS) == {}
    file = pq.ParquetFile(part_files(folder, "histograms")[0])
    assert file.num_row_groups > 4
    assert_same(plain, folder)
    assert compact(folder, windows=WINDOWS, last=True) == {}
    assert_same(plain, folder)


def expected_rows(name: str, windows: int) -> int:
    """Return how many rows of a site so many windows hold."""
    return sum(
        int(row["seen_rows"])
        for window in range(windows)
        for row in _rows(window % 3, late=window < 5)["moments"]
        if Site(row["layer"], row["block"], row["role"], row["expert"]).name == name
    )


def counts_of(summary: Summary) -> tuple[int, int, int]:
    """Return the rows of a site as its tables count them."""
    width = summary.channels.count.size
    histogram = summary.histogram
    values_ = histogram.count + histogram.nan + histogram.pos_inf + histogram.neg_inf
    return summary.seen_rows, summary.extremes.rows, values_ // width


KILLED = """
import sys
from pathlib import Path
from tests.runs.test_compact import write_long
print("ready", flush=True)
write_long(Path(sys.argv[1]), windows=400, close=False)
"""


def test_a_recorder_killed_at_any_time_leaves_every_finished_window_once(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(7)
    reached = []
    for trial in range(2):
        folder = tmp_path / f"run{trial}"
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while (
            not (folder / "metrics").is_dir() or len(list((folder / "moments").glob("*"))) < 8
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0.0, 1.0)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        windows = Run.open(folder).manifest.windows
        reached.append(windows)
        for name, summary in summaries(folder).items():
            assert counts_of(summary) == (expected_rows(name, windows),) * 3
        assert Run.open(folder).trends()["window"].nunique() == windows
    assert max(reached) > MOST
