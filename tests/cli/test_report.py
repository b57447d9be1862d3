"""`ffn-probe report`: which runs make which report, what it prints, how it is refused."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from tests.cli.shell import refused, run, shell
from tests.compare.made_runs import draws, make_run

SAMPLES = Path(__file__).parents[2] / "sample_runs"
PAIR = SAMPLES / "swap-exact"
SWAP = "norm=rmsnorm,norms=all,how=exact"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(
            folder / name,
            {Site(0, "mlp", "gate"): [np.float32(f) * x for x in draws(0, rows=16)]},
            inputs="x",
        ).folder
        for name, f in (("base", 1.0), ("same", 1.0), ("far", 3.0))
    ]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_file_is_named_after_what_it_tells(runs: list[Path], tmp_path: Path) -> None:
    base, same, far = runs
    for given in ([base], [base, far], [PAIR], [base, same, far]):
        assert run("report", *given).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "attribution.html", "drift.html", "report.html", "telemetry.html",
    ]  # fmt: skip


def test_the_verdict_is_printed_before_the_path_and_drift_is_no_failure(
    runs: list[Path],
) -> None:
    base, same, far = runs
    done = run("report", base, far, "--to", "x.md")
    assert done.exit_code == 0
    *told, path = done.stdout.splitlines()
    assert told[0].startswith("FAIL 1 of 1 sites failed")
    assert path == "x.md"
    done = run("report", base, same, PAIR, far, "--to", "x.json")
    told = done.stdout.splitlines()
    assert [line.split(":")[0] for line in told] == [
        "PASS base to same", f"indistinguishable ln-gelu to ln-gelu, {SWAP}",
        "FAIL base to far", "x.json",
    ]  # fmt: skip
    kinds = [part["kind"] for part in json.loads(Path("x.json").read_text())["parts"]]
    assert kinds == ["drift", "attribution", "drift"]


def test_options_of_a_comparison_reach_it_and_the_command(runs: list[Path]) -> None:
    base, same, far = runs
    given = ["--threshold", "ks=0.4", "--repeat", str(same)]
    assert run("report", base, far, *given, "--to", "drift.json").exit_code == 0
    data = json.loads(Path("drift.json").read_text())
    assert data["asked"]["thresholds"] == {"ks": 0.4}
    assert data["asked"]["repeat"] == str(same)
    ks = [c for c in data["sites"][0]["changes"] if c["statistic"] == "ks"]
    assert ks[0]["threshold"] == 0.4
    assert shlex.split(data["command"]) == [
        "ffn-probe", "report", str(base), str(far), *given, "--to", "drift.json",
    ]  # fmt: skip


def test_the_command_in_a_report_makes_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "odd 'names'"
    shutil.copytree(runs[0].parent, place)
    paths = [f"odd 'names'/{name}" for name in ("base", "far", "same")]
    assert run("report", *paths, "--threshold", "psi=2", "--to", "report.json").exit_code == 0
    first = Path("report.json").read_bytes()
    line = json.loads(first)["command"].replace("ffn-probe", "$PROBE", 1)
    Path("report.json").unlink()
    done = shell(line, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path("report.json").read_bytes() == first


def test_interactive_puts_plotly_into_the_page(runs: list[Path]) -> None:
    assert run("report", runs[0], runs[2], "--to", "x.html", "--interactive").exit_code == 0
    assert Path("x.html").stat().st_size > 3_000_000
    assert "--to drift.html --interactive" in Path("x.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'RUN'"),
        (("nowhere",), "error: no run at nowhere: the folder does not exist"),
        (("BASE", "--to", "x.doc"), "error: no report format '.doc' (x.doc); possible: .html,"),
        (("BASE", "--to", "no/x.md"), "error: cannot write no/x.md: no folder no"),
        (("BASE", "--to", "x.md", "--interactive"), "error: only .html and a folder can be"),
        (("BASE", "--to", "x.md", "--png"), "error: charts as PNG beside a report need a"),
        (("BASE", "--threshold", "ks=1"), "error: --threshold, --mapping and --repeat are"),
        (("BASE", "PAIR", "--repeat", "BASE"), "give the runs of a reference and a candidate"),
        (("BASE", "FAR", "SAME", "--to", "x.svg"), "holds one chart, and there are 2 parts"),
    ],
)  # fmt: skip
def test_what_cannot_be_reported_is_refused_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, runs: list[Path], tmp_path: Path
) -> None:
    places = {"BASE": runs[0], "SAME": runs[1], "FAR": runs[2], "PAIR": PAIR}
    assert message in refused("report", *(places.get(word, word) for word in arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_browser_is_told_before_any_work(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FFN_PROBE_CHROMIUM", "/nowhere/chromium")
    said = refused("report", *runs, "--to", "x.pdf")
    assert said == "error: FFN_PROBE_CHROMIUM names /nowhere/chromium, which cannot be run"
