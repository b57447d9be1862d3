"""`ffn-probe show`: the manifest, the worst sites, one measure; no torch, no surprise."""

import json
import shutil
from pathlib import Path

import pytest

from ffn_probe.measures import measure
from ffn_probe.runs import Run
from tests.cli.shell import ROOT, refused, run

SAMPLE = ROOT / "sample_runs" / "ln-swiglu"


def test_the_manifest_is_shown() -> None:
    shown = run("show", SAMPLE).stdout
    made = Run.open(SAMPLE).manifest
    assert f"run       {SAMPLE} (closed, telemetry, schema {made.schema_version})" in shown
    assert "model     TinyLM" in shown
    assert "blocks    4: glu silu, layernorm" in shown
    assert f"data      32 steps, 32,768 tokens, {made.windows} windows" in shown
    assert "tags      sample=ln-swiglu" in shown


def test_the_worst_sites_are_the_extreme_ones() -> None:
    told = json.loads(run("show", SAMPLE, "--json", "--worst", 2).stdout)
    frame = Run.open(SAMPLE).measures()
    for name in ("absmax", "headroom_fp16"):
        values = frame[frame["measure"] == name]["value"]
        best = values.nsmallest(2) if measure(name).direction == "low" else values.nlargest(2)
        found = [row["value"] for row in told["worst"] if row["measure"] == name]
        assert found == pytest.approx(best.tolist())
    assert told["manifest"]["model"]["class"] == "TinyLM"
    assert told["problems"] == []


def test_a_measure_is_shown_by_layer_and_role() -> None:
    told = json.loads(run("show", SAMPLE, "--measure", "rms", "--json").stdout)
    assert len(told) == len(Run.open(SAMPLE).sites)
    shown = run("show", SAMPLE, "--measure", "rms").stdout
    (line,) = [line for line in shown.splitlines() if "layers.2.ffn" in line]
    expected = [f"{row['value']:.4g}" for row in told if row["layer"] == 2]
    assert line.split()[2:] == expected
    assert shown.splitlines()[2].split()[:3] == ["layer", "block", "resid"]


@pytest.mark.parametrize("width", ["60", "80"])
def test_a_narrow_terminal_cuts_nothing(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    shown = run("show", SAMPLE).stdout
    assert max(len(line) for line in shown.splitlines()) <= int(width)
    assert "…" not in shown


def test_a_run_that_is_still_written_is_shown_with_a_note(tmp_path: Path) -> None:
    from tests.runs.recording import values, write

    write(tmp_path / "run", values(), windows=1)
    data = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(data | {"state": "open"}))
    shown = run("show", tmp_path / "run").stdout
    assert "(open, telemetry" in shown
    assert "note      the run was not closed: its last window may be missing" in shown


def test_a_run_without_sites_is_shown(tmp_path: Path) -> None:
    from ffn_probe.runs import Manifest, RunWriter

    RunWriter.create(tmp_path / "run", Manifest()).close()
    result = run("show", tmp_path / "run")
    assert (result.exit_code, result.stderr) == (0, "")
    assert run("show", tmp_path / "run", "--json").exit_code == 0
    assert run("show", tmp_path / "run", "--measure", "rms").exit_code == 0


def test_what_cannot_be_shown_is_told(tmp_path: Path) -> None:
    assert f"no run at {tmp_path}/none: the folder does not exist" in refused(
        "show", tmp_path / "none"
    )
    assert "Give its folder" in refused("show", SAMPLE / "run.json")
    runs = len(list(SAMPLE.parent.glob("*/run.json")))
    assert f"Runs in it ({runs}): ln-gelu, ln-swiglu" in refused("show", SAMPLE.parent)
    assert "Did you mean 'crest'?" in refused("show", SAMPLE, "--measure", "crst")
    assert "--worst" in refused("show", SAMPLE, "--worst", 0)


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """Markup and control characters of a manifest come out as text or are refused."""
    from ffn_probe.runs import Manifest, RunWriter

    sampling = {"rows": "\x1b[2J"}
    model = {"parameters": {"a": 1}, "class": ["\x1b"]}
    tags = {"a": "[bold]x[/bold]", "b": "\x1b[2J\x1b]0;title\x07", "c": "line\nbreak"}
    made = Manifest(tags=tags, device="[/]", sampling=sampling, model=model)
    RunWriter.create(tmp_path / "run", made).close()
    shown = run("show", tmp_path / "run").stdout
    assert "[bold]x[/bold]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_a_comparison_cannot_be_steered_by_a_manifest(tmp_path: Path) -> None:
    Path(shutil.copytree(SAMPLE, tmp_path / "run"))
    data = json.loads((SAMPLE / "run.json").read_text())
    data["sampling"]["rows"] = "\x1b[2J"
    data["model"]["dtype"] = "\x1b]0;title\x07"
    (tmp_path / "run" / "run.json").write_text(json.dumps(data))
    result = run("compare", SAMPLE, tmp_path / "run")
    assert result.exit_code in {0, 1}
    assert "\\x1b[2J" in result.stdout
    assert "\x1b" not in result.output
