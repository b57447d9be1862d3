"""A recorder that is killed, or whose disk is full, leaves a run that is right so far."""

import errno
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ffn_probe as fp
from ffn_probe.errors import RunError
from ffn_probe.runs import compact
from ffn_probe.runs.writer import lock_owner
from tests.probes.crash_recorder import WINDOW
from tests.probes.models import Tiny, tokens

ROWS = 21  # of a step
TRIALS = 50
MOMENTS = (0, 0, 1, 2, 2, 3, 3, 4, 5)  # windows; old ones are merged from the third on


class Server:
    """The process that makes recorders."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.probes.crash_recorder", str(folder / "warm")]
        root = str(Path(__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
            env=environment,
        )  # fmt: skip
        assert self._line() == "ready"
        self.pace = 0.05  # seconds a window

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def killed(self, folder: Path, *, windows: int, after: float) -> None:
        """Record so many windows and a part of one, then end the recorder without a word."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        recorder = int(self._line())
        start = time.monotonic()
        while windows > len(log_of(folder)):
            time.sleep(0.001)
        if windows:
            self.pace = (time.monotonic() - start) / windows
        time.sleep(after * self.pace)
        os.kill(recorder, signal.SIGKILL)
        assert self._line() == "dead"

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)


def log_of(folder: Path) -> bytes:
    """Return a byte for every window that the recorder was told is written."""
    log = folder.with_name(folder.name + ".log")
    return log.read_bytes() if log.exists() else b""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.close()


def check(run: fp.Run) -> int:
    """Check that a run holds all of the windows it counts, once, and nothing else."""
    windows = run.manifest.windows
    metrics, trends = run.table("metrics"), run.trends(["rms"])
    assert metrics["value"].tolist() == [float(k) for k in range(WINDOW * windows)]
    assert metrics["step"].tolist() == list(range(WINDOW * windows))
    assert trends["window"].tolist() == list(range(windows))
    for table in ("moments", "histograms", "channels", "extremes", "quant"):
        assert windows == 0 or len(run.table(table))
    if windows:
        (site,) = run.sites
        summary = run.summary(site)
        assert summary.seen_rows == summary.extremes.rows == ROWS * WINDOW * windows
        assert summary.histogram.counts.sum() == summary.moments.count
    return windows


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_recorder_loses_nothing_but_its_open_window(
    server: Server, tmp_path: Path
) -> None:
    """Fifty times at a random moment, the merging of old windows included."""
    chance = random.Random(7)
    written = []
    for trial in range(TRIALS):
        folder = tmp_path / str(trial)
        server.killed(folder, windows=chance.choice(MOMENTS), after=chance.uniform(0, 1.2))
        told = len(log_of(folder))
        if not (folder / "run.json").exists():  # not even begun
            assert told == 0
            assert not list(folder.rglob("*.parquet"))
            continue
        run = fp.Run.open(folder)
        assert not run.closed
        assert "was not closed" in run.problems[0]
        assert lock_owner(folder) is None
        written.append(check(run))
        assert told <= written[-1] <= told + 1
    assert len(written) > TRIALS // 2
    assert len(set(written)) > 4
    assert any((tmp_path / str(t) / "moments").glob("part-*..*") for t in range(TRIALS))


# ---- a full disk ------------------------------------------------------------------------


class Disk:
    """A disk with so much room, for files that are opened to be written as bytes."""

    def __init__(self, room: float) -> None:
        self.room = room
        self.used = 0

    def open(self, path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "wb":
            return io.BufferedWriter(_File(self, str(path)))
        return io.open(path, mode, *args, **kwargs)  # noqa: UP020 - the one that is not patched


class _File(io.FileIO):
    def __init__(self, disk: Disk, path: str) -> None:
        super().__init__(path, "wb")
        self.disk = disk

    def write(self, data: Any) -> int:
        size = len(memoryview(data).cast("B"))
        fits = int(min(size, max(0, self.disk.room - self.disk.used)))
        self.disk.used += fits
        if not fits and size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(memoryview(data).cast("B")[:fits])
        return fits


def record(folder: Path, found: fp.Scan, model: Tiny, steps: int = 16) -> None:
    with fp.attach(
        model, to=folder, found=found, window=WINDOW, rows=8, bits=2, roles=["out"]
    ) as (probe):
        for step in range(steps):
            model(**tokens(seed=step % 3))
            probe.step(loss=float(step))


@pytest.fixture(scope="module")
def model() -> Tiny:
    return Tiny(width=8, hidden=8, layers=1).eval().requires_grad_(requires_grad=False)


def test_a_disk_that_fills_up_at_any_moment_leaves_a_run_that_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Tiny
) -> None:
    found = fp.scan(model, tokens())
    monkeypatch.setattr(compact, "MOST", 2)
    monkeypatch.setattr(compact, "MOST_JOINED", 3)
    disk = Disk(float("inf"))
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: disk.open(path, *a, **k))  # noqa: PLW0108 - of today
    record(tmp_path / "whole", found, model)
    assert check(fp.Run.open(tmp_path / "whole")) == 8
    whole, chance, kept = disk.used, random.Random(3), set()
    for trial in range(10):
        disk = Disk(chance.uniform(0, whole))
        folder = tmp_path / str(trial)
        told = ""
        try:
            record(folder, found, model)
        except RunError as error:
            told = str(error)
        assert not list(folder.rglob("*.tmp"))
        if not folder.exists():
            assert "cannot write" in told
            continue
        run = fp.Run.open(folder)
        assert lock_owner(folder) is None
        kept.add(check(run))
        full = told or any("could not be merged" in text for text in run.problems)
        assert full or run.manifest.steps == 16
    assert len(kept) > 3


# ---- one recorder a folder --------------------------------------------------------------


def test_a_second_probe_on_the_same_path_is_refused_and_the_first_goes_on(
    tmp_path: Path, model: Tiny
) -> None:
    found = fp.scan(model, tokens())
    second = fp.attach(model, to=tmp_path / "run", found=found)
    with fp.attach(model, to=tmp_path / "run", found=found) as first:
        model(**tokens())
        message = f"is being recorded by process {os.getpid()}; choose another path"
        with pytest.raises(RunError, match=message):
            fp.attach(model, to=tmp_path / "run", found=found)
        with pytest.raises(RunError, match=message), second:
            pass
        model(**tokens())
    assert first.run.closed
    assert first.run.rows("layers.0/out")[0] == 2 * ROWS
