"""The report of one run: whether it can be trusted, what stands out, how it was made."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ffn_probe.anatomy import Block, Norm, Site, Tap
from ffn_probe.errors import FfnProbeError
from ffn_probe.report import report
from ffn_probe.report.telemetry import Telemetry, kinds
from ffn_probe.report.unusual import most_unusual, standouts
from ffn_probe.runs import Run
from tests.compare.made_runs import draws, make_run
from tests.report.reading import Page, read

SAMPLES = Path(__file__).parents[2] / "sample_runs"
LOUD = Site(1, "layers.1.mlp", "hidden")


def run_of(folder: Path, **more: object) -> Run:
    """Return a run of three layers whose hidden of layer 1 has one value of 500."""
    sites = {
        Site(layer, f"layers.{layer}.mlp", role): draws(layer)
        for layer in range(3)
        for role in ("gate", "hidden", "out")
    }
    loud = draws(1)
    loud[4][3, 5] = 500.0
    return make_run(folder, sites | {LOUD: loud}, **more)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("telemetry")
    return report(SAMPLES / "rms-swiglu", to=folder / "x.html").read_text()


def test_the_page_has_every_section(text: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "What stands out", "Distributions of what stands out", "Layers and roles",
        "Largest values", "Blocks", "Definitions", "How it was made", "Make it again",
    ]  # fmt: skip
    page = " ".join(Page(text).texts)
    for words in ("4 blocks: glu silu after rmsnorm", "28 sites", "32,768 tokens", "torch 2."):
        assert words in page
    assert f"ffn-probe report {SAMPLES / 'rms-swiglu'} --to telemetry.html" in page


def test_every_map_has_a_cell_a_site_and_its_numbers(text: str) -> None:
    run = Run.open(SAMPLES / "rms-swiglu")
    maps = re.findall(r"<figure>(?:(?!</figure>).)*by layer and role.*?</figure>", text, re.S)
    assert len(maps) == 7
    for chart in maps:
        assert chart.count("<title>layer ") == len(run.sites) == 28
        assert "The numbers of the map" in chart


def test_the_site_of_the_largest_value_stands_out(tmp_path: Path) -> None:
    told = Telemetry.of(run_of(tmp_path / "a"))
    first = standouts(told.measures, 3)[0]
    assert first.site == LOUD
    found = dict(first.measures)
    assert found["absmax"] == 500.0
    values = np.concatenate(draws(1)).astype(np.float64)
    values[4 * 64 + 3, 5] = 500.0
    assert found["crest"] == pytest.approx(500 / np.sqrt(np.mean(values**2)))
    text = report(told.run, to=tmp_path / "x.html").read_text()
    rows = {row[0]: row for row in reversed(Page(text).rows) if len(row) == 6}
    assert rows["largest magnitude"][1:] == ["500", "unit of the tensor", "1", "hidden",
                                             "layers.1.mlp"]  # fmt: skip
    assert rows["crest factor"][3:5] == ["1", "hidden"]


def test_the_site_with_most_extremes_comes_first_and_low_may_be_extreme() -> None:
    lines = [
        (0, "gate", "crest", 9.0), (1, "gate", "crest", 3.0), (0, "gate", "absmax", 1.0),
        (1, "gate", "absmax", 7.0), (0, "gate", "headroom_fp16", 90.0),
        (1, "gate", "headroom_fp16", 4.0), (1, "gate", "dead_share", 0.0),
    ]  # fmt: skip
    frame = pd.DataFrame(lines, columns=["layer", "role", "measure", "value"])
    frame = frame.assign(block="m", expert=-1, unit="1")
    found = standouts(frame, 5)
    assert [one.site.layer for one in found] == [1, 0]
    assert found[0].measures == (("absmax", 7.0), ("headroom_fp16", 4.0))
    assert found[1].measures == (("crest", 9.0),)


def test_counts_of_none_do_not_stand_out() -> None:
    run = Run.open(SAMPLES / "rms-swiglu")
    names = set(most_unusual(run.measures(), 1)["measure"])
    assert "nonfinite" not in names
    assert "crest" in names


def test_values_that_are_not_finite_fail_the_run_and_come_first(tmp_path: Path) -> None:
    bad = draws(0)
    bad[2][0, :3] = np.nan
    run = make_run(tmp_path / "a", {Site(0, "m", "gate"): draws(1), Site(2, "n", "out"): bad})
    text = report(run, to=tmp_path / "x.html").read_text()
    assert 'class="banner FAIL"' in text
    assert "3 values at 1 of 2 sites are not finite; the first in depth is layer 2 out." in text
    assert "not finite, so not drawn: 3 values" in text


def test_a_run_that_was_not_closed_is_to_be_read_with_care(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", close=False, windows=1)
    text = report(run, to=tmp_path / "x.md").read_text()
    assert text.startswith("## FFN telemetry report: \u26a0\ufe0f WARN\n")
    assert "- the run was not closed: its last window may be missing" in text


def test_a_whole_run_passes_and_says_how_exactly(tmp_path: Path) -> None:
    text = report(run_of(tmp_path / "a"), to=tmp_path / "x.html").read_text()
    assert 'class="banner PASS"' in text
    assert "every block is computed again from what was tapped, exactly." in text


def test_a_run_without_a_site_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {})
    folder = report(run, to=tmp_path / "out")
    text = (folder / "telemetry.html").read_text()
    assert "No blocks; 0 sites" in text
    assert "What stands out" not in text
    assert not (folder / "charts").exists()
    with pytest.raises(FfnProbeError, match="nothing was recorded for a chart"):
        report(run, to=tmp_path / "x.svg")


def test_blocks_of_many_kinds_are_counted() -> None:
    def block(kind: str, activation: str, norm: str) -> Block:
        return Block(
            "b", 0, kind, activation, Norm(norm), {}, 8, 16, taps=(Tap("out", "output", "b"),)
        )

    found = (block("glu", "silu", "rmsnorm"),) * 2 + (block("mlp", "gelu", "none"),)
    assert kinds(found) == "3 blocks: 2 glu silu after rmsnorm, 1 mlp gelu after none"
    assert kinds(found[2:]) == "1 block: mlp gelu after none"


def test_largest_values_have_their_places(text: str) -> None:
    run = Run.open(SAMPLES / "rms-swiglu")
    rows = [row for row in Page(text).rows if len(row) == 9 and row[0] == "hidden"]
    best = max((s for s in run.sites if s.role == "hidden"),
               key=lambda s: run.summary(s).extremes.absmax)  # fmt: skip
    top = run.summary(best).extremes.top[0]
    assert read(rows[0][1]) == pytest.approx(float(top["value"]), rel=0.006)
    names = ("channel", "step", "sequence", "position", "token")
    assert rows[0][2:8] == [str(best.layer), *(str(int(top[name])) for name in names)]
