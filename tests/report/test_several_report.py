"""Several runs and comparisons in one report, and the command that makes one again."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from ffn_probe.errors import FfnProbeError
from ffn_probe.report import report, report_text
from ffn_probe.report.command import quoted, rebuilding
from ffn_probe.report.papers import command_of
from ffn_probe.report.parts import count, parts_of
from ffn_probe.runs import Run
from tests.compare.made_runs import draws, make_run
from tests.report.made_attributions import healthy
from tests.report.reading import Page, markdown_rows

SAMPLES = Path(__file__).parents[2] / "sample_runs"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the folders of four small runs: a reference and three that drift from it."""
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for name, factor in (("base", 1.0), ("one", 1.3), ("two", 2.0), ("three", 3.0)):
        sites = {
            Site(layer, f"layers.{layer}", "gate"): [
                np.float32(factor) * x for x in draws(layer, rows=16, channels=4)
            ]
            for layer in range(2)
        }
        made.append(make_run(folder / name, sites, inputs="x").folder)
    return made


def kinds(told: Any) -> list[str]:
    return [type(part).__name__ for part in parts_of(told)]


def test_one_run_is_told_two_are_compared_and_more_with_the_first(runs: list[Path]) -> None:
    pair = SAMPLES / "swap-exact"
    assert kinds(runs[0]) == kinds([runs[0]]) == ["Telemetry"]
    assert kinds([runs[0], runs[1]]) == ["Drift"]
    parts: Any = parts_of([runs[0], pair, *runs[1:3]])
    assert [type(part).__name__ for part in parts] == ["Story", "Drift", "Drift"]
    assert [(d.a.name, d.b.name) for d in parts[1:]] == [
        ("base", "one"), ("base", "two"),
    ]  # fmt: skip
    assert kinds([pair, runs[0]]) == ["Story", "Telemetry"]
    assert count([runs[0], pair, *runs[1:3]]) == 3
    assert count([pair, runs[0]]) == 2


def test_the_same_run_twice_is_compared_with_itself(runs: list[Path]) -> None:
    run = Run.open(runs[0])
    assert kinds([run, run]) == ["Drift"]
    assert "The runs are indistinguishable" in report_text([run, run], ".md")


def test_two_runs_are_reported_as_their_drift_is(runs: list[Path]) -> None:
    drift = compare(runs[0], runs[3])
    for suffix in (".html", ".md", ".json"):
        assert report_text([runs[0], runs[3]], suffix) == report_text(drift, suffix)


def test_nothing_is_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(FfnProbeError, match="nothing to report: give a drift, a run"):
        report([], to=tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folder(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    told = [*runs, SAMPLES / "planted", SAMPLES / "swap-exact"]
    return report(told, to=tmp_path_factory.mktemp("several") / "out")


def test_the_verdicts_come_first_the_worst_in_the_banner(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    rows = [row for row in Page(text).rows if len(row) == 6][:6]
    assert [row[1] for row in rows[1:]] == ["1", "2", "3", "4", "5"]
    assert [row[0].split()[-1] for row in rows[1:]] == [
        "FAIL", "FAIL", "FAIL", "BUG", "INDISTINGUISHABLE",
    ]  # fmt: skip
    assert [row[4] for row in rows[1:4]] == ["one", "two", "three"]
    assert "4 of 5 failed: no. 1, 2, 3, 4." in text
    markdown = markdown_rows((folder / "report.md").read_text())
    assert [[cell.strip() for cell in row] for row in rows] == markdown[:6]


def test_each_part_stands_behind_its_line_closed_when_nothing_is_wrong(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert [bool(o) for o in re.findall(r'<details class="part"( open)?>', text)] == [
        True, True, True, True, False,
    ]  # fmt: skip
    places = re.findall(r'<div id="(part-\d)">', text)
    assert places == [f"part-{i}" for i in range(1, 6)]
    assert re.findall(r'<a href="#(part-\d)">', text) == places
    markdown = (folder / "report.md").read_text()
    assert len(re.findall(r"^<details><summary>\d\. ", markdown, re.M)) == 5
    assert markdown.count("<details>") == markdown.count("</details>")


def test_what_all_parts_define_alike_is_defined_once(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert text.count(">Definitions<") == 1
    assert text.count(">Make it again<") == 1
    assert text.count(">How to read this<") == 1
    assert text.count("the 95th percentile of the differences") == 1


def test_a_folder_holds_the_tables_of_all_parts_with_their_numbers(
    runs: list[Path], folder: Path
) -> None:
    drift = pd.read_parquet(folder / "drift.parquet")
    assert set(drift["report_part"]) == {1, 2, 3}
    for i, other in enumerate(runs[1:], 1):
        part = drift[drift["report_part"] == i].reset_index(drop=True)
        assert set(part["run_b"]) == {other.name}
        true = compare(runs[0], other).table()
        pd.testing.assert_frame_equal(part[true.columns], true)
    assert set(pd.read_csv(folder / "blocks.csv")["report_part"]) == {4, 5}
    data = json.loads((folder / "report.json").read_text())
    assert [part["kind"] for part in data["parts"]] == ["drift"] * 3 + ["attribution"] * 2
    assert (folder / "charts" / "part-4-depth.svg").exists()


def test_several_have_no_main_chart(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FfnProbeError, match=r"holds one chart, and there are 2 parts"):
        report([runs[0], *runs[1:3]], to=tmp_path / "x.svg")


# ---- the command ------------------------------------------------------------------------


def command(told: Any, suffix: str = ".html") -> list[str]:
    return shlex.split(command_of(parts_of(told), suffix))


def test_the_command_has_the_runs_in_their_order(runs: list[Path]) -> None:
    pair = SAMPLES / "planted"
    listed = [pair, runs[0], runs[1], runs[2]]
    assert command(listed) == ["ffn-probe", "report", *map(str, listed), "--to", "report.html"]
    assert command(runs[0], ".md") == [
        "ffn-probe", "report", str(runs[0]), "--to", "telemetry.md",
    ]  # fmt: skip
    same = [runs[0], runs[0]]
    assert command(same)[2:4] == [str(runs[0])] * 2


def test_the_command_has_the_options_of_the_comparison(
    runs: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "map ping.json"
    file.write_text('{"layers.0": "layers.1"}')
    drift = compare(
        runs[0], runs[1], thresholds={"ks": 0.1, "psi": 1}, repeat=runs[2], mapping=file
    )
    words = command(drift)
    assert words[4:] == [
        "--threshold", "ks=0.1", "--threshold", "psi=1.0", "--repeat", str(runs[2]),
        "--mapping", str(file), "--to", "drift.html",
    ]  # fmt: skip
    assert f"--mapping '{file}'" in report_text(drift, ".md")


def test_blocks_paired_by_hand_are_named_beside_the_command(runs: list[Path]) -> None:
    drift = compare(runs[0], runs[1], mapping={"layers.0": "layers.1"})
    text = report_text(drift, ".md")
    assert "Blocks were paired by hand, which the command does not do: layers.0 = " in text


def test_what_no_command_makes_has_none(runs: list[Path]) -> None:
    other = compare(runs[1], runs[2])
    assert command_of(parts_of([compare(runs[0], runs[2]), other]), ".md") == ""
    assert command_of(parts_of([other, Run.open(runs[0])]), ".md") == ""
    assert command_of(parts_of(healthy()), ".md") == ""
    assert "Make it again" not in report_text(healthy(), ".html")


@pytest.mark.parametrize("path", ["a b", "it's", "$(x)`y`", "tab\there\n", "\x1b[2J", "-x"])
def test_a_shell_reads_a_path_as_it_is(path: str) -> None:
    word = quoted(path)
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout.decode().removeprefix("./") == path


def test_a_path_is_not_taken_for_an_option() -> None:
    assert quoted("-x") == "./-x"


def test_a_path_that_is_no_text_is_written_as_bytes() -> None:
    assert rebuilding(["\udcff"], "x.md") == r"ffn-probe report $'\xff' --to x.md"
