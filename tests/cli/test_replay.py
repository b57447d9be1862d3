"""`ffn-probe replay`, and the story of a pair in show, report and compare."""

import json
import shutil
import signal
import subprocess
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pandas as pd
import pytest

import ffn_probe.cli.phases
from ffn_probe.attribution import PAIR_MEASURES, Attribution
from ffn_probe.cli.explaining import print_story
from ffn_probe.cli.phases import phases
from ffn_probe.replay import Options
from ffn_probe.runs import Run
from tests.cli.shell import COMMAND, ENVIRONMENT, ROOT, refused, run
from tests.report.made_attributions import STORIES, quick_gelu, two_swaps

CODE = "tests.cli.two_models"
SAMPLE = ROOT / "sample_runs" / "ln-gelu"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Replay a pair with a planted bug; return the run and what was printed."""
    to = tmp_path_factory.mktemp("pair") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)  # as in every test here
        result = run("replay", f"{CODE}:reference", f"{CODE}:quick", "--autopsy", "--to", to)
    assert result.exit_code == 0, result.output
    return to, result.stdout


# ---- replay -----------------------------------------------------------------------------


def test_a_planted_bug_is_the_first_thing_said(made: tuple[Path, str]) -> None:
    to, shown = made
    lines = shown.splitlines()
    assert lines[0].startswith("\u2715 BUG Layer 1, stage activation: local ")
    assert "every other block is within its floor" in shown
    assert "first bad layer 1 layers.1, stage activation" in lines
    assert "blocks    1 indistinguishable, 1 local" in lines
    fits = [line for line in lines if line.startswith(" \u2715 fits")]
    assert len(fits) == 1
    assert "quick_gelu" in fits[0]
    assert lines[-1] == f"wrote {to}"


def test_the_run_holds_what_was_asked_for(made: tuple[Path, str]) -> None:
    pair = Run.open(made[0])
    assert (pair.manifest.kind, pair.closed, pair.manifest.steps) == ("paired", True, 4)
    assert pair.manifest.paired["names"] == [f"{CODE}:reference", f"{CODE}:quick"]
    assert pair.manifest.command.startswith("ffn-probe")
    assert pair.explain().status == "bug"


def test_a_swap_needs_no_candidate(tmp_path: Path) -> None:
    to, out = tmp_path / "run", tmp_path / "why.md"
    result = run(
        "replay", f"{CODE}:reference", "--swap", "norm=rmsnorm,activation=silu", "--to", to,
        "--out", out, "--tag", "a=b", "--patch", 0, "--blocks", "-1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "norm=rmsnorm, activation=silu (naive)" in result.stdout
    assert f"wrote {to}\nwrote {out}\n" in result.stdout
    assert "### Two factors" in out.read_text()
    pair = Run.open(to)
    assert [block.name for block in pair.blocks] == ["layers.1"]
    assert pair.manifest.tags == {"a": "b"}


def test_json_is_all_there_is_on_the_output(tmp_path: Path) -> None:
    to = tmp_path / "run"
    result = run(
        "replay", f"{CODE}:reference", f"{CODE}:reference", "--batches", 2, "--to", to, "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(Run.open(to).explain().to_json())
    assert json.loads(result.stdout)["status"] == "indistinguishable"
    assert f"wrote {to}\n" in result.stderr


def test_the_candidate_may_have_a_dtype_of_its_own(tmp_path: Path) -> None:
    result = run(
        "replay", f"{CODE}:reference", f"{CODE}:reference", "--candidate-dtype", "bfloat16",
        "--to", tmp_path / "run", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["candidate"].endswith(":reference (bfloat16)")
    assert 30 < told["output"]["sqnr_db"] < 80


def test_the_defaults_are_those_of_replay() -> None:
    from ffn_probe.cli.app import check, replay

    for command, names in ((replay, ("noise", "patch")), (check, ("noise",))):
        for name in names:
            assert signature(command).parameters[name].default == getattr(Options(), name)


def test_a_model_of_another_width_is_compared_as_far_as_can_be(tmp_path: Path) -> None:
    result = run(
        "replay", f"{CODE}:reference", f"{CODE}:wide", "--autopsy", "--to", tmp_path / "run"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("! DRIFT ")
    assert "16 and 24 channels" in result.stdout
    assert "? unpaired" in result.stdout
    assert "no autopsy: no block is compared value by value" in result.stdout


def test_nan_in_the_candidate_alone_is_the_finding(tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    result = run(
        "replay", f"{CODE}:reference", f"{CODE}:nan", "--autopsy", "--to", tmp_path / "run",
        "--out", page,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first = " ".join(result.stdout.split())
    assert "Layer 1, stage up: the candidate has 96 values that are not finite" in first
    assert "no site before it differs so" in first
    assert "first bad layer 1 layers.1, stage up" in first
    assert "96 values that are not finite" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "replay needs two models: name the candidate, or make it of the reference"),
        ((f"{CODE}:quik",), "no name 'quik'. Did you mean 'quick'?"),
        (("--swap", "norm=rmsnrom"), "Did you mean 'rmsnorm'?"),
        (("--swap", "nrom=rmsnorm"), "no part of a swap 'nrom'. Did you mean 'norm'?"),
        (("--swap", "gating=swiglu:x=1"), "error:"),
        (("--swap", "norm=rmsnorm", "--candidate-dtype", "bfloat16"),
         "--candidate-dtype needs a candidate"),
        ((f"{CODE}:quick", "--blocks", "layer.0"), "no block 'layer.0'"),
        ((f"{CODE}:quick", "--data", "tests.cli.user_code:empty"), "there are no batches"),
        ((f"{CODE}:quick", "--data", "tests.cli.user_code:bad_first"), "argument 'wrong'"),
        (("tests.cli.user_code:no_ffn",), "error:"),
        ((f"{CODE}:quick", "--dtype", "float23"), "no dtype 'float23'. Did you mean"),
        ((f"{CODE}:quick", "--noise", "0"), "'--noise'"),
        ((f"{CODE}:quick", "--tag", "x"), "--tag 'x' is not name=value"),
        ((f"{CODE}:quick", "--mapping", "nowhere.json"), "nowhere.json"),
        ((f"{CODE}:raising", "--out", "x.xls"), "no report format '.xls' (x.xls)"),
        ((f"{CODE}:raising", "--out", "no/x.md"), "cannot write no/x.md: no folder no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_cannot_be_replayed_leaves_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    said = refused("replay", f"{CODE}:reference", *arguments, "--to", tmp_path / "run")
    assert message in said
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused_before_any_work(made: tuple[Path, str]) -> None:
    said = refused("replay", "tests.cli.user_code:raising", "x:y", "--to", made[0])
    assert "exists" in said
    assert "boom" not in said


def test_a_batch_that_fails_keeps_what_was_replayed(tmp_path: Path) -> None:
    to = tmp_path / "run"
    said = refused(
        "replay", f"{CODE}:reference", f"{CODE}:quick", "--data", f"{CODE}:breaking", "--to",
        to, "--patch", 0,
    )  # fmt: skip
    assert f"{CODE}:breaking failed at batch 3: OSError: the server went away" in said
    assert f"kept in {to} (a closed run): 3 batches, 72 tokens, 2 pairs of blocks" in said
    assert Run.open(to).manifest.steps == 3


def test_a_signal_closes_the_run_and_says_what_is_kept(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "replay", f"{CODE}:reference", f"{CODE}:quick", "--data", f"{CODE}:endless",
         "--to", str(tmp_path / "run")],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert any(line.strip() == "batch 7" for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in said
    pair = Run.open(tmp_path / "run")
    assert pair.closed
    assert pair.manifest.steps >= 7
    assert f"kept in {tmp_path}/run (a closed run): {pair.manifest.steps} batches" in said
    assert pair.explain().first_bad is not None


# ---- the story in the terminal ----------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("name", [n for n in STORIES if n != "evil"])
def test_the_story_fits_its_window(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_story(STORIES[name]())
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert STORIES[name]().status.upper() in shown


@pytest.mark.parametrize(
    ("width", "head"),
    [
        (80, "status layer local inherited floor cause"),
        (140, "status layer end to end local inherited floor own share inherited share cause"),
    ],
)
def test_a_table_has_the_columns_that_fit(
    width: int,
    head: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = told(two_swaps(), capsys)
    assert any(" ".join(line.split()).startswith(head) for line in shown.splitlines())


def told(story: Attribution, capsys: pytest.CaptureFixture[str]) -> str:
    print_story(story)
    return capsys.readouterr().out


def test_two_swaps_are_told_with_shares_theory_and_factors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = told(two_swaps(), capsys)
    assert shown.startswith("\u2248 EXPECTED Layer 0, stage activation")
    assert "KL 0.0712 nats a token (floor 1e-07), same first choice 87.1 %" in shown
    assert "activation 97.0 %" in shown
    assert "not separable" in shown
    assert "mean leakage 83.0 %" in shown
    assert "theory    ? unexplained, layer 3: Stein" in shown
    assert "as theory expects: 7 of 8 numbers" in shown
    assert "2 x 2     error: The activation makes 99.4 % of it; the two add." in shown


def test_shares_of_an_error_under_the_floor_are_not_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = two_swaps()
    assert story.output is not None
    quiet = replace(story, output=replace(story.output, status="indistinguishable"))
    assert "patch  " not in told(quiet, capsys)
    assert "patch  " in told(story, capsys)


def test_a_bug_is_told_with_the_line_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(quick_gelu(), capsys)
    assert "hidden_act: gelu" in shown
    back = "putting the reference's block back removes 100.0 % (99.9 % to 100.0 %)"
    assert f"patch     layer 1: {back} of the final error" in shown
    assert "first bad layer 1 model.layers.1.mlp, stage activation" in shown
    assert "blocks    1 indistinguishable, 1 local, 2 inherited" in shown


def test_of_many_blocks_the_worst_are_shown_by_depth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = told(STORIES["deep"](), capsys)
    assert "the worst 12 of 80 blocks" in shown
    layers = [int(line.split()[2]) for line in shown.splitlines() if line.startswith(" ! mix")]
    assert layers == sorted(layers)
    assert len(layers) == 12
    assert {73, 66, 59, 52, 45} <= set(layers)


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    story = quick_gelu()
    block = replace(story.blocks[1], block="a\x1b[2Jb[red]c")
    shown = told(
        replace(story, reference="x\x1b[31m", verdict="\x1b]0;t\x07 [bold]", blocks=(block,)),
        capsys,
    )
    assert "\x1b" not in shown
    assert "a\\x1b[2Jb[red]c" in shown
    assert "[bold]" in shown


# ---- show, report, compare --------------------------------------------------------------


def test_show_tells_the_same_story(made: tuple[Path, str]) -> None:
    shown = run("show", made[0]).stdout.splitlines()
    printed = made[1].splitlines()
    assert shown[0] == printed[0]
    own = [i for i, line in enumerate(shown) if line.startswith("run ")]
    following = next(i for i, line in enumerate(shown) if line.startswith("reference "))
    assert [*shown[: own[0]], *shown[following:]] == printed[:-1]  # where the run lies may wrap
    assert " ".join(shown[own[0] : following]).startswith(f"run       {made[0]} (closed)")


def test_show_as_json_has_the_manifest_and_the_attribution(made: tuple[Path, str]) -> None:
    data = json.loads(run("show", made[0], "--json").stdout)
    assert data["manifest"]["kind"] == "paired"
    assert data["attribution"]["first_bad"][0] == 1
    assert data["problems"] == list(Run.open(made[0]).problems)


def test_show_prints_one_measure_by_layer_and_role(made: tuple[Path, str]) -> None:
    rows = json.loads(run("show", made[0], "--measure", "sqnr_db", "--json").stdout)
    assert {row["measure"] for row in rows} == {"sqnr_db"}
    shown = run("show", made[0], "--measure", "sqnr_db").stdout
    assert shown.startswith("sqnr_db, end to end (dB)")
    (line,) = [line for line in shown.splitlines() if " layers.1 " in line]
    (out,) = [row["value"] for row in rows if (row["layer"], row["role"]) == (1, "out")]
    assert line.split()[-2] == f"{out:.3g}"
    said = refused("show", made[0], "--measure", "sqnr")
    assert "no measure of a pair 'sqnr'. Did you mean 'sqnr_db'?" in said
    assert f"Known ({len(PAIR_MEASURES)})" in said


def test_report_of_a_pair_needs_no_second_run(made: tuple[Path, str], tmp_path: Path) -> None:
    result = run("report", made[0], "--to", tmp_path / "why.html")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("bug Layer 1")
    assert result.stdout.endswith(f"{tmp_path}/why.html\n")
    text = (tmp_path / "why.html").read_text()
    assert "Which bug it is" in text
    assert "share per unit of the gate" in text


def test_a_folder_has_the_measures_of_every_site(
    made: tuple[Path, str], tmp_path: Path
) -> None:
    result = run("report", made[0], "--to", tmp_path / "all")
    assert result.exit_code == 0, result.output
    pairs = pd.read_csv(tmp_path / "all" / "pairs.csv")
    assert len(pairs) == len(Run.open(made[0]).pair_measures())
    assert {"attribution.html", "blocks.csv", "hypotheses.parquet", "stages.csv"} <= {
        path.name for path in (tmp_path / "all").iterdir()
    }


def test_two_pairs_are_not_compared(made: tuple[Path, str]) -> None:
    said = refused("compare", made[0], SAMPLE)
    assert "is a paired run; compare takes telemetry runs" in said
    assert f"It holds both models already: ffn-probe show {made[0]}" in said


@pytest.mark.parametrize("value", [3, "\x1b[2J", {"a": [1]}], ids=repr)
def test_a_damaged_manifest_of_a_pair_is_told_without_a_fault(
    value: object, made: tuple[Path, str], tmp_path: Path
) -> None:
    limits = tmp_path / "budget.toml"
    limits.write_text('"out.sqnr_db" = ">= 20"')
    shutil.copytree(made[0], tmp_path / "run")
    data = json.loads((made[0] / "run.json").read_text())
    for key in (*data["paired"], "unknown"):
        harmed = data | {"paired": data["paired"] | {key: value}}
        (tmp_path / "run" / "run.json").write_text(json.dumps(harmed))
        for command in (
            ("show", tmp_path / "run"),
            ("report", tmp_path / "run", "--to", tmp_path / "x.html"),
            ("check", tmp_path / "run", "--budget", limits),
        ):
            result = run(*command)
            assert result.exit_code in {0, 1, 2}
            assert "Traceback" not in result.output
            assert "\x1b" not in result.output


# ---- progress ---------------------------------------------------------------------------


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ffn_probe.cli.phases, "LINE_SECONDS", 0.0)
    with phases("pair", 3) as say:
        say("replayed", 1, None)
        say("replayed", 2, None)
        say("patched", 1, 5)
    lines = [line.rpartition(" after ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["pair: replayed 1/3", "pair: replayed 2/3", "pair: patched 1/5"]


def test_a_log_is_quiet_when_it_is_fast(capsys: pytest.CaptureFixture[str]) -> None:
    with phases("pair", None) as say:
        say("replayed", 1, None)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_a_phase(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with phases("pair", 2) as say:
        say("replayed", 1, None)
        say("autopsy", 0, None)
    shown = capsys.readouterr().err
    assert "pair: replayed" in shown
    assert "1/2" in shown
    assert "pair: autopsy" in shown


# ---- without torch ----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "report", "check"])
def test_a_pair_is_read_where_torch_is_absent(
    command: str, made: tuple[Path, str], tmp_path: Path
) -> None:
    limits = tmp_path / "budget.toml"
    limits.write_text('"out.sqnr_db" = ">= 5"')
    beside = {
        "show": [], "report": ["--to", str(tmp_path / "x.html")],
        "check": ["--budget", str(limits)],
    }[command]  # fmt: skip
    code = "import sys; sys.modules['torch'] = None; from ffn_probe.cli import main; main()"
    done = subprocess.run(
        [COMMAND[0], "-c", code, command, str(made[0]), *beside],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
