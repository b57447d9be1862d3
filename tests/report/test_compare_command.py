"""`ffn-probe compare` as a command: what it prints, what it writes, how it exits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import compare as compare_runs
from tests.compare.made_runs import draws, make_run

SAMPLES = Path(__file__).parents[2] / "sample_runs"
A, B = str(SAMPLES / "ln-gelu"), str(SAMPLES / "rms-swiglu")


def compare(*arguments: str, columns: int = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ffn_probe", "compare", *arguments],
        env=os.environ | {"COLUMNS": str(columns)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_drift_exits_with_1_says_so_first_and_writes_the_report(tmp_path: Path) -> None:
    out = tmp_path / "drift.html"
    done = compare(A, B, "--out", str(out))
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    clause = compare_runs(A, B).verdict.sentence.split(";")[0]
    assert lines[0].startswith(f"FAIL {clause}")
    assert lines[-1] == f"wrote {out}"
    assert "4 blocks are mlp in one run and glu in the other" in done.stdout
    assert "only in the candidate: layers.0.ffn/gate_act" in done.stdout
    assert clause in out.read_text()


@pytest.mark.parametrize("columns", [80, 200])
def test_the_output_fits_its_window_without_breaking_words(columns: int) -> None:
    done = compare(A, B, columns=columns)
    assert max(map(len, done.stdout.splitlines())) <= columns
    rows = [line for line in done.stdout.splitlines() if line.startswith((" FAIL", " WARN"))]
    assert len(rows) == 10
    worst = compare_runs(A, B).worst(1)[0]
    assert str(worst.layer) in rows[0]
    assert worst.role in rows[0]
    assert ("times its floor" in rows[0]) == (columns == 80)


def test_no_drift_exits_with_0_and_json_is_all_there_is_on_the_output(tmp_path: Path) -> None:
    done = compare(A, A, "--json", "--out", str(tmp_path / "x.md"))
    assert done.returncode == 0
    assert json.loads(done.stdout)["verdict"]["status"] == "PASS"
    assert done.stderr == f"wrote {tmp_path / 'x.md'}\n"
    assert "PASS" in (tmp_path / "x.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, "nowhere"), "error: no run at nowhere: the folder does not exist"),
        ((A, B, "--out", "x.doc"), "error: no report format '.doc' (x.doc)"),
        (
            (A, B, "--out", "nowhere/x.md"),
            "error: cannot write nowhere/x.md: no folder nowhere",
        ),
        ((A, B, "--threshold", "kss=1"), "error: no statistic 'kss'. Did you mean 'ks'?"),
    ],
    ids=["no run", "no format", "no folder", "no statistic"],
)
def test_an_error_exits_with_2_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = compare(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_a_name_that_looks_like_markup_is_printed_as_it_is(tmp_path: Path) -> None:
    site = Site(0, "h[red][0]", "gate")
    a = make_run(tmp_path / "a", {site: draws(0)}, inputs="x")
    b = make_run(tmp_path / "b", {site: [x * np.float32(3) for x in draws(0)]}, inputs="x")
    assert "h[red][0]" in compare(a.path, b.path).stdout
