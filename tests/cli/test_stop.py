"""Ctrl-C, kill, closed pipes, full disks: in a real process, where signals and exits matter."""

import errno
import itertools
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ffn_probe.cli.stopping import Stopped, stopping
from ffn_probe.runs import Run
from tests.cli.shell import CODE, COMMAND, ENVIRONMENT, ROOT, refused, run, shell
from tests.cli.user_code import TOKENS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def start(to: Path, *options: str) -> subprocess.Popen[str]:
    """Begin a recording that would last for minutes; it says each batch on stderr."""
    return subprocess.Popen(
        [*COMMAND, "record", f"{CODE}:model", "--data", f"{CODE}:slow", "--to", str(to),
         *options],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stderr is not None
    for said in process.stderr:
        if said.strip() == line:
            return
    pytest.fail(f"ended without {line!r}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_the_run_and_says_what_is_kept(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    with start(tmp_path / "run", "--window", "4") as process:
        wait_for(process, "batch 9")
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in said
    made = Run.open(tmp_path / "run")
    steps = made.manifest.steps
    assert made.closed
    assert made.problems == ()
    assert steps >= 9
    assert made.rows("layers.1/out")[0] == steps * TOKENS
    assert f"interrupted\nkept in {tmp_path}/run (a closed run): {steps} batches" in said
    assert not list((tmp_path / "run").rglob(".*"))


def test_a_signal_while_the_model_is_loaded_leaves_nothing(tmp_path: Path) -> None:
    """Whatever moment it is: no traceback of ours, 130, and no half of a run."""
    for seconds in (0.5, 1.5, 3.0):
        process = start(tmp_path / "run", "--window", "4")
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        # Python itself ends by the signal when it came inside an exec of an import;
        # a shell says 130 for both.
        assert process.returncode in {130, -signal.SIGINT}, said
        if (tmp_path / "run").exists():
            assert Run.open(tmp_path / "run").closed
            break
        assert list(tmp_path.iterdir()) == []


def test_a_second_signal_stops_at_once() -> None:
    said: list[str] = []
    with stopping(said.append) as check:
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert said == ["stopping after this batch; once more stops at once"]
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.code == 130
        with pytest.raises(Stopped) as caught:
            check()
        assert caught.value.code == 143


def test_signals_are_given_back_and_ignored_ones_stay_ignored() -> None:
    before = signal.getsignal(signal.SIGINT)
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping(str):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) is not before
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGHUP, old)


def test_another_thread_can_record() -> None:
    done: list[str] = []

    def work() -> None:
        with stopping(str) as check:
            check()
            done.append("yes")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["yes"]


# On a terminal


def test_a_terminal_gets_a_bar_with_rate_and_time_left(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "record", f"{CODE}:model", "--data", f"{CODE}:slow", "--batches", "150",
         "--to", str(tmp_path / "run"), "--roles", "out"],
        cwd=ROOT, env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"}, stderr=theirs,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # how a terminal says that the other side closed
                break
    os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    assert re.search(r"recording run .*\d+/150 \d+\.\d batches/s 0:00:\d\d 0:00:\d\d", text)


# Pipes


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs a and b; b has other weights."""
    folder = tmp_path_factory.mktemp("two")
    assert run("record", f"{CODE}:pair", "--to", folder / "a").exit_code == 0
    assert run("record", f"{CODE}:changed", "--to", folder / "b").exit_code == 0
    return folder


@pytest.mark.parametrize(
    ("command", "codes"),
    [("show a", "0"), ("compare a a", "0"), ("compare a b", "1"), ("show a --json", "141")],
)
def test_a_reader_that_goes_away_makes_no_noise(two: Path, command: str, codes: str) -> None:
    """The exit code is still the command's own, or that of a broken pipe: never a wrong 1."""
    done = shell(f"$PROBE {command} | true; echo ${{PIPESTATUS[0]}}", two)
    assert (done.stdout.strip(), done.stderr) == (codes, "")


def test_an_output_that_is_full_is_told_without_a_traceback(two: Path) -> None:
    for command in ("show a", "show a --json", "compare a a"):
        done = shell(f"$PROBE {command} > /dev/full", two)
        assert done.returncode == 2
        assert done.stderr == "error: the output: No space left on device\n"


def test_a_closed_output_does_no_harm(two: Path) -> None:
    assert shell("$PROBE show a >&-", two).stderr == ""
    assert shell("$PROBE compare a b >&- 2>&-", two).returncode == 1


# Disks


@pytest.mark.parametrize("size", [1 << 10, 1 << 14])
def test_a_file_that_may_not_grow_is_told_and_nothing_stays(size: int, tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(
        [*COMMAND, "record", f"{CODE}:pair", "--to", str(tmp_path / "a" / "run")],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, preexec_fn=limit,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert re.match(r"error: cannot write .*/run.*: File too large", done.stderr.strip())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_the_windows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = pq.write_table, itertools.count()

    def full(*given: Any, **options: Any) -> None:
        if next(calls) == 8:  # in the second window: there are five tables
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*given, **options)

    monkeypatch.setattr(pq, "write_table", full)
    told = refused("record", f"{CODE}:pair", "--to", tmp_path / "run", "--window", 2)
    assert re.search(r"cannot write .*/part-00000001-0.parquet: No space left on device", told)
    assert f"kept in {tmp_path}/run (a closed run): " in told
    made = Run.open(tmp_path / "run")
    assert (made.closed, made.manifest.windows) == (True, 1)
    for table in ("moments", "histograms", "channels", "extremes", "quant"):
        assert set(made.table(table)["window"]) == {0}
    assert made.rows("layers.1/out")[0] == 2 * TOKENS
    assert (made.manifest.steps, made.manifest.tokens) == (2, 2 * TOKENS)
    assert "window 1 could not be written: its batches are lost" in made.problems


def test_a_fault_of_our_own_is_no_drift(tmp_path: Path) -> None:
    """An exception that nobody foresaw ends with 2 and asks for a report, never with 1."""
    code = (
        "import ffn_probe.cli.showing as s\n"
        "def fail(*a, **k): raise ZeroDivisionError\n"
        "s.print_run = fail\n"
        "from ffn_probe.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "show", "x"],
        cwd=tmp_path, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.endswith("please report it with the lines above\n")
