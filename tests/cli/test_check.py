"""`ffn-probe check`: 0 within the budget, 1 over it, 2 when the budget means nothing."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ffn_probe.runs import Run
from tests.cli.shell import ROOT, refused, run, shell

CODE = "tests.cli.two_models"
SAMPLE = ROOT / "sample_runs" / "ln-gelu"
LOOSE = '"out.sqnr_db" = ">= 20"\n"logits.sqnr_db" = ">= 10"\n'
TIGHT = '"out.sqnr_db" = ">= 80"\n"logits.sqnr_db" = ">= 10"\n'


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A paired run with a bug in layer 1, at about 50 dB."""
    to = tmp_path_factory.mktemp("pair") / "run"
    result = run("replay", f"{CODE}:reference", f"{CODE}:quick", "--patch", 0, "--to", to)
    assert result.exit_code == 0, result.output
    return to


def budget(folder: Path, text: str) -> Path:
    path = folder / "budget.toml"
    path.write_text(text)
    return path


# ---- a run that was made before ---------------------------------------------------------


def test_a_pair_within_the_budget_exits_with_0(pair: Path, tmp_path: Path) -> None:
    result = run("check", pair, "--budget", budget(tmp_path, LOOSE))
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[0]
    assert first == "\u2713 PASS Within budget.toml: 2 limits at 3 sites."
    assert "what fails" not in result.stdout


def test_a_pair_over_the_budget_exits_with_1_and_says_where(pair: Path, tmp_path: Path) -> None:
    result = run("check", pair, "--budget", budget(tmp_path, TIGHT))
    assert result.exit_code == 1
    first = result.stdout.splitlines()[0]
    assert first.startswith(
        "\u2715 FAIL Over budget.toml: 1 of 2 limits, at 1 of 3 sites; the first is layer 1 out"
    )
    assert "what fails (1)" in result.stdout
    assert Run.open(pair).explain().verdict.split(";")[0] in " ".join(result.stdout.split())


def test_the_files_for_ci_are_written_either_way(pair: Path, tmp_path: Path) -> None:
    for text, failures, sign in ((LOOSE, "0", "\u2705"), (TIGHT, "1", "\u274c")):
        xml, page = tmp_path / "drift.xml", tmp_path / "drift.md"
        result = run(
            "check", pair, "--budget", budget(tmp_path, text), "--junit", xml, "--markdown",
            page,
        )  # fmt: skip
        assert result.exit_code == int(failures)
        assert result.stdout.endswith(f"wrote {xml}\nwrote {page}\n")
        suite = ET.fromstring(xml.read_text()).find("testsuite")
        assert suite is not None
        assert (suite.get("tests"), suite.get("failures")) == ("3", failures)
        assert page.read_text().startswith(f"## FFN budget: {sign}")


def test_json_is_all_there_is_on_the_output(pair: Path, tmp_path: Path) -> None:
    xml = tmp_path / "x.xml"
    result = run("check", pair, "--budget", budget(tmp_path, TIGHT), "--json", "--junit", xml)
    data = json.loads(result.stdout)
    assert (result.exit_code, data["passed"], len(data["checks"])) == (1, False, 3)
    assert result.stderr == f"wrote {xml}\n"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_output_fits_its_window(
    width: int, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run("check", pair, "--budget", budget(tmp_path, TIGHT)).stdout
    assert max(map(len, shown.splitlines())) <= width


def test_of_80_layers_that_fail_the_first_are_shown() -> None:
    from ffn_probe.budgets import Budget, judge
    from ffn_probe.budgets.judging import Measured
    from ffn_probe.cli.checking import _failed

    values = {
        (layer, f"h.{layer}", "out", "end"): {"sqnr_db": (30.0, "dB", 100.0)}
        for layer in range(80)
    }
    judged = judge(Budget.of({"out.sqnr_db": ">= 40"}), Measured(values, {}))
    shown = _failed(judged.failed, wide=True)
    assert shown.title == "the first 20 of 80 that fail"
    assert shown.row_count == 20


# ---- two models -------------------------------------------------------------------------


def test_two_models_are_replayed_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    limits = budget(tmp_path, TIGHT)
    same = run("check", f"{CODE}:reference", f"{CODE}:reference", "--budget", limits)
    assert same.exit_code == 0, same.output
    assert [path.name for path in tmp_path.iterdir()] == ["budget.toml"]


def test_the_run_is_kept_where_asked_and_the_bug_is_named(tmp_path: Path) -> None:
    to = tmp_path / "run"
    result = run(
        "check", f"{CODE}:reference", f"{CODE}:quick", "--budget", budget(tmp_path, TIGHT),
        "--to", to, "--autopsy", "--batches", 2,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "quick_gelu" in result.stdout
    assert Run.open(to).manifest.steps == 2


def test_a_swap_is_judged_without_a_candidate(tmp_path: Path) -> None:
    result = run(
        "check", f"{CODE}:reference", "--swap", "activation=relu", "--budget",
        budget(tmp_path, TIGHT), "--batches", 2,
    )  # fmt: skip
    assert result.exit_code == 1, result.output


def test_the_exit_code_reaches_the_shell(pair: Path, tmp_path: Path) -> None:
    limits = budget(tmp_path, TIGHT)
    done = shell(f"$PROBE check {pair} --budget {limits} | head -1; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.splitlines()[0].startswith("\u2715 FAIL")
    assert done.stdout.splitlines()[1] in {"1", "141"}
    assert done.stderr == ""


# ---- mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"out.sqnr" = ">= 3"', "no measure 'sqnr'. Did you mean 'sqnr_db'?"),
        ('"outt.sqnr_db" = ">= 3"', "no role 'outt'. Did you mean 'out'?"),
        ('"value.sqnr_db" = ">= 3"', "is about nothing: the pair has no such site"),
        ("\nx = = 1", "is no TOML: Invalid value (at line 2, column 5)"),
        ("", "holds no limit"),
    ],
)
def test_a_budget_that_means_nothing_exits_with_2(
    text: str, message: str, pair: Path, tmp_path: Path
) -> None:
    assert message in refused("check", pair, "--budget", budget(tmp_path, text))


def test_a_mistake_in_the_budget_costs_no_replay(tmp_path: Path) -> None:
    limits = budget(tmp_path, '"out.sqnr" = ">= 3"')
    said = refused("check", "tests.cli.user_code:raising", f"{CODE}:quick", "--budget", limits)
    assert "no measure 'sqnr'" in said
    assert "boom" not in said
    said = refused(
        "check", "tests.cli.user_code:raising", f"{CODE}:quick", "--budget",
        budget(tmp_path, LOOSE), "--junit", tmp_path / "no" / "x.xml",
    )  # fmt: skip
    assert "cannot write" in said
    assert "boom" not in said


def test_what_is_no_pair_is_said(pair: Path, tmp_path: Path) -> None:
    limits = budget(tmp_path, LOOSE)
    assert "is a telemetry run; a budget judges a paired run" in refused(
        "check", SAMPLE, "--budget", limits
    )
    assert "nowhere is no run: give the folder of a paired run, or two models" in refused(
        "check", "nowhere", "--budget", limits
    )
    assert "cannot read nowhere.toml: No such file" in refused(
        "check", pair, "--budget", "nowhere.toml"
    )
    assert "cannot write" in refused(
        "check", pair, "--budget", limits, "--junit", tmp_path / "no" / "x.xml"
    )
