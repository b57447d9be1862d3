"""`ffn-probe record`: what is kept, what is said, and what is refused before any work."""

from inspect import signature
from pathlib import Path

import pytest

import ffn_probe.cli.progress
from ffn_probe.cli.progress import progress
from ffn_probe.runs import Run
from tests.cli.shell import CODE, refused, run
from tests.cli.user_code import TOKENS


def test_a_recording_says_what_it_holds(tmp_path: Path) -> None:
    result = run("record", f"{CODE}:pair", "--to", tmp_path / "a" / "run", "--window", 4)
    assert result.exit_code == 0
    assert result.stdout == (
        f"recorded {tmp_path}/a/run: 6 batches, 144 tokens, 2 blocks, 10 sites, 2 windows\n"
    )
    assert Run.open(tmp_path / "a" / "run").closed


def test_options_choose_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/ffn-probe", "record", "a b"])
    result = run(
        "record", f"{CODE}:pair", "--to", tmp_path / "run", "--blocks", "-1,layers.0",
        "--blocks", "layers.0", "--roles", "gate,hidden", "--every", 2, "--rows", "all",
        "--bits", 5, "--seed", 3, "--tag", "a=b=c", "--tag", "who=me",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    made = Run.open(tmp_path / "run")
    expected = [f"layers.{k}/{role}" for k in (0, 1) for role in ("gate", "hidden")]
    assert [site.name for site in made.sites] == expected
    assert made.rows("layers.0/gate")[:2] == (3 * TOKENS, 3 * TOKENS)
    assert made.histogram("layers.0/gate").bits == 5
    assert made.manifest.tags == {"a": "b=c", "who": "me"}
    assert made.manifest.command == "ffn-probe record 'a b'"


def test_the_defaults_are_those_of_attach() -> None:
    from ffn_probe import attach
    from ffn_probe.cli.app import record

    theirs, ours = signature(attach).parameters, signature(record).parameters
    for name in ("every", "window", "bits", "seed", "allow_flagged"):
        assert ours[name].default == theirs[name].default
    assert ours["rows"].default == str(theirs["rows"].default)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rows", "foo"), "--rows 'foo': expected a count of at least 1, or all"),
        (("--rows", "0"), "--rows '0'"),
        (("--every", "0"), "'--every'"),
        (("--window", "-1"), "'--window'"),
        (("--bits", "9"), "'--bits'"),
        (("--batches", "0"), "'--batches'"),
        (("--seed", "x"), "'--seed'"),
        (("--tag", "foo"), "--tag 'foo' is not name=value"),
        (("--experts", "a"), "--experts a: not numbers"),
        (("--experts", "0"), "no chosen block has experts"),
        (("--roles", "gaet"), "no role 'gaet'. Did you mean 'gate'?"),
        (
            ("--roles", "value"),
            "no chosen block has value; the roles of the 2 blocks are resid",
        ),
        (("--blocks", "layer.0"), "no block 'layer.0'. Did you mean 'layers.0'?"),
        (("--blocks", "7"), "no block '7'"),
        (("--data", f"{CODE}:empty"), "there are no batches to record"),
        (("--data", f"{CODE}:bad_first"), "unexpected keyword argument 'wrong'"),
        (("--data", f"{CODE}:raising"), "ValueError: boom in two lines"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_recorded_leaves_nothing(
    options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    told = refused("record", f"{CODE}:pair", "--to", tmp_path / "a" / "run", *options)
    assert message in told
    assert "kept" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model", "no batches: pass --data with a text file or package.module:function"),
        ("no_ffn", "no FFN in NoFfn"),
        ("on_meta", "on the meta device"),
        ("packed", "1 weights are quantized or packed (first: layers.0.up.weight"),
    ],
)
def test_a_model_that_cannot_be_recorded_leaves_nothing(
    name: str, message: str, tmp_path: Path
) -> None:
    assert message in refused("record", f"{CODE}:{name}", "--to", tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "batches", "message"),
    [
        ("bad_fourth", 3, "the model rejected batch 3 (input_ids=int64[2, 12]): IndexError"),
        ("breaking", 4, ":breaking failed at batch 4: OSError: the server went away ("),
    ],
)
def test_a_batch_that_fails_midway_keeps_what_came_before(
    data: str, batches: int, message: str, tmp_path: Path
) -> None:
    given = ("--data", f"{CODE}:{data}", "--to", tmp_path / "run")
    told = refused("record", f"{CODE}:model", *given)
    assert message in told
    assert f"kept in {tmp_path}/run (a closed run): {batches} batches" in told
    made = Run.open(tmp_path / "run")
    assert made.closed
    assert made.rows("layers.1/out")[0] == batches * TOKENS


def test_weights_of_nan_are_recorded_and_shown(tmp_path: Path) -> None:
    assert run("record", f"{CODE}:nan_weights", "--to", tmp_path / "run").exit_code == 0
    nan = Run.open(tmp_path / "run").summary("layers.1/gate").extremes.nan
    assert nan == 6 * TOKENS
    shown = run("show", tmp_path / "run").stdout
    (line,) = [line for line in shown.splitlines() if "non-finite" in line and "gate" in line]
    assert f" {nan} " in line


def test_a_path_that_exists_is_refused_before_the_model_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        told = refused("record", f"{CODE}:raising", "--to", tmp_path / name)
        assert f"{tmp_path}/{name} exists already (something else); choose another" in told
    below = refused("record", f"{CODE}:pair", "--to", tmp_path / "file" / "run")
    assert f"cannot write a run at {tmp_path}/file/run: a parent of it is a file" in below
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "folder").iterdir()) == []


# Progress


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 4.0, 8.0, 12.0, 16.0, 5000.0])
    monkeypatch.setattr(ffn_probe.cli.progress.time, "monotonic", lambda: next(times))
    with progress("recording x", 2000) as advance:
        for _ in range(5):
            advance()
    assert capsys.readouterr().err.splitlines() == [
        "recording x: 3/2000 batches, 4.0 s/batch, 2:13:08 left",
        "recording x: 5/2000 batches, 1000.0 s/batch, 554:10:00 left",
    ]


def test_a_log_without_a_total_has_no_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 0.1, 20.0])
    monkeypatch.setattr(ffn_probe.cli.progress.time, "monotonic", lambda: next(times))
    with progress("x", None) as advance:
        advance()
        advance()
    assert capsys.readouterr().err == "x: 2 batches, 10.0 s/batch\n"
