"""`ffn-probe demo`: real models, one report, nothing of anybody else's touched."""

from pathlib import Path

import pytest

from ffn_probe.errors import FfnProbeError
from ffn_probe.runs import Run
from tests.cli.shell import refused, shell


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    told = refused("demo", "--no-serve", "--to", tmp_path)
    assert f"{tmp_path} exists and was not made by the demo: choose another --to" in told
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert "was not made by the demo" in refused("demo", "--to", tmp_path / "notes.txt")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    told = refused("demo", "--no-serve", "--to", tmp_path / "file" / "demo")
    assert f"cannot write to {tmp_path}/file/demo" in told


def test_without_the_sample_models_it_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ffn_probe.__file__", str(tmp_path / "a" / "ffn_probe" / "__init__.py"))
    from ffn_probe.cli.demo import run_demo

    with pytest.raises(FfnProbeError, match="run it in a clone"):
        run_demo(tmp_path / "demo", serve=False, port=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_demo_works_and_works_again(tmp_path: Path) -> None:
    """Over what an earlier demo left, as `make demo` does the second time."""
    to = tmp_path / "demo"
    to.mkdir()
    (to / ".ffn-probe-demo").touch()
    (to / "rms-swiglu").mkdir()
    done = shell(f"$PROBE demo --no-serve --to {to}")
    assert done.returncode == 0, done.stderr
    assert "rms-swiglu against itself, recorded before: PASS" in done.stdout
    assert "against rms-swiglu: FAIL" in done.stdout
    assert "6 feed-forward blocks" in done.stdout
    assert f"report:    {to}/drift.html" in done.stdout
    assert "ffn-probe dashboard" in done.stdout
    assert "Traceback" not in done.stderr
    assert (to / "drift.html").stat().st_size > 10_000
    runs = {path.parent.relative_to(to).as_posix() for path in to.rglob("run.json")}
    samples = {f"recorded/{norm}-{act}" for norm in ("ln", "rms") for act in ("gelu", "swiglu")}
    replays = {"planted", "swap-exact", "swap-naive", "trained-apart"}
    samples |= {f"recorded/{name}" for name in replays}
    samples |= {"recorded/train-healthy", "recorded/train-hot"}
    assert runs == {"rms-swiglu", "all-MiniLM-L6-v2", "why"} | samples
    told = Run.open(to / "why").explain()
    assert (told.status, told.first_bad) == ("bug", (3, "encoder.layer.3", "activation"))
    assert (to / "why.html").stat().st_size > 10_000
    pretrained = Run.open(to / "all-MiniLM-L6-v2")
    assert pretrained.manifest.model["class"] == "BertModel"
    assert [block.activation for block in pretrained.blocks] == ["gelu"] * 6
    assert all(block.recompute_error < 1e-5 for block in pretrained.blocks)
