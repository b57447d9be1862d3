"""The report of a paired run: every section, true numbers, names as text, one offline file."""

import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ffn_probe.attribution.attribution import Attribution, Cause, Interval, Theory
from ffn_probe.figures.gate_error import GateError
from ffn_probe.report import report
from ffn_probe.report.html import to_html
from ffn_probe.report.markdown import to_markdown
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_paper import paired_paper
from ffn_probe.report.paired_words import decibels, percent
from ffn_probe.report.words import MINUS
from tests.report.made_attributions import (
    STORIES,
    deep,
    evil,
    gates,
    healthy,
    quick_gelu,
    two_swaps,
)
from tests.report.reading import Page, read
from tests.report.test_report import assert_tables_are_rectangular

SAMPLES = Path(__file__).parents[2] / "sample_runs"


def page(told: Attribution) -> str:
    return to_html(paired_paper(Story(told, gates(told)), to="x.html"))


def titles(text: str) -> list[str]:
    return [unescape(title) for title in re.findall(r"<h2>(.*?)</h2>", text)]


def row(text: str, *start: str) -> list[str]:
    """Return the first row of a table that begins so."""
    rows = [[cell.strip() for cell in found] for found in Page(text).rows]
    return next(found for found in rows if tuple(found[: len(start)]) == start)


# ---- what it tells ----------------------------------------------------------------------


def test_two_swaps_have_every_section_but_hypotheses() -> None:
    assert titles(page(two_swaps())) == [
        "At the model's output", "Block by block", "Stage by stage", "Which part did it",
        "Theory beside observation", "LayerNorm to RMSNorm",
        "Error of the activation by region of the gate", "Two factors", "One block exchanged",
        "How to read this",
    ]  # fmt: skip


def test_a_bug_is_named_before_the_blocks_with_its_fix() -> None:
    text = page(quick_gelu())
    assert titles(text)[:3] == ["At the model's output", "Which bug it is", "Block by block"]
    assert "<code>hidden_act: gelu</code>" in text
    fits = row(text, "\u2715 fits")
    assert fits[1:8] == [
        "1", "activation: quick_gelu instead of gelu", "gate_act", "33.3", "33.3", "121.0",
        "120.0",
    ]  # fmt: skip
    verdicts = [r[0] for r in Page(text).rows if len(r) == 9 and r[1] == "1"]
    assert verdicts == ["\u2715 fits", "- excluded", "- excluded"]


def test_a_healthy_pair_has_no_culprit() -> None:
    text = page(healthy())
    assert titles(text) == ["At the model's output", "Block by block", "How to read this"]
    assert 'class="banner PASS"' in text
    assert healthy().verdict in " ".join(Page(text).texts)


@pytest.mark.parametrize(
    ("name", "kind"), [("quick_gelu", "FAIL"), ("two_swaps", "a"), ("unpaired", "WARN")]
)
def test_the_banner_says_the_status_in_words_and_colour(name: str, kind: str) -> None:
    told = STORIES[name]()
    text = page(told)
    assert f'<div class="banner {kind}"><b class="{kind}">' in text
    assert told.status.upper() in text


def test_the_numbers_of_every_block_stand_beside_the_chart() -> None:
    told = two_swaps()
    text = page(told)
    for block in told.blocks:
        shown = next(r for r in Page(text).rows if len(r) == 11 and r[1] == str(block.layer))
        levels = (block.end_db, block.local_db, block.inherited_db, block.floor_db)
        assert [read(cell) for cell in shown[3:7]] == pytest.approx(levels, abs=0.051)
    shares = next(r for r in Page(text).rows if len(r) == 10 and r[0] == "2")
    assert shares[3:9] == ["61.0 %", "55.0 % to 66.0 %", "33.0 %", "29.0 % to 38.0 %",
                           "6.0 %", "1.0 % to 10.0 %"]  # fmt: skip


def test_output_stands_beside_its_floor() -> None:
    text = page(two_swaps())
    assert row(text, "KL divergence")[1:4] == ["0.0712", "0.066 to 0.077", "1e-07"]
    assert row(text, "SQNR")[1:4] == ["8.4", "-", "110.0"]
    assert row(text, "same first choice")[1:3] == ["87.1 %", "86.0 % to 88.0 %"]


def test_what_is_not_separable_is_said_and_drawn_as_outlines() -> None:
    text = page(two_swaps())
    assert "Not separable in layer 3:" in text
    assert row(text, "interaction (not separable)")[1] == "31.0 %"
    assert text.count('fill="none" stroke="#d9722e" stroke-width="1.5"') == 5
    apart = two_swaps()
    apart = replace(apart, blocks=tuple(replace(b, separable=True) for b in apart.blocks))
    assert "Not separable" not in page(apart)


def test_the_unexplained_comes_first() -> None:
    text = page(two_swaps())
    verdicts = [
        r[0]
        for r in Page(text).rows
        if (len(r) == 8 and "dB" in r) or "unit of the tensor" in r
    ]
    assert verdicts[0] == "? unexplained"
    assert verdicts[1:] == ["\u2248 expected"] * 7
    assert "further from theory than the tolerance: 1 of 8." in text


def test_many_layers_that_are_not_separable_are_named_in_order() -> None:
    told = deep(30)
    blocks = tuple(replace(b, separable=False) for b in told.blocks)
    text = page(replace(told, blocks=blocks))
    first = ", ".join(map(str, range(12)))
    assert f"Not separable in layers {first} and 18 more: more than a fifth" in text


def test_effects_are_shares_of_the_total() -> None:
    text = page(two_swaps())
    assert row(text, "activation", "0.142")[1:] == ["0.142", "0.131 to 0.153", "99.4 %"]
    assert row(text, "norm swapped", "0.00051")[2] == "0.143"


def test_blocks_that_cannot_be_paired_are_counted_with_the_reason() -> None:
    text = page(STORIES["unpaired"]())
    assert "4 of 4 blocks cannot be compared value by value" in text
    assert "gate has 384 channels against 256" in text
    assert "The outputs were not compared." in text


def test_what_was_not_measured_at_the_output_is_left_out() -> None:
    told = two_swaps()
    assert told.output is not None
    lost = Interval(math.nan)
    bare = replace(told.output, kl=lost, top1=lost, loss_difference=lost, tokens=0)
    text = page(replace(told, output=bare))
    assert "KL divergence" not in text
    assert "Status: drift." in text
    assert row(text, "SQNR")[1] == "8.4"


def test_patches_say_what_is_left_outside_the_blocks() -> None:
    told = replace(two_swaps(), patched_all=Interval(0.83, 0.8, 0.9))
    first = replace(told.blocks[0], patched_parts=(Cause("w_up", Interval(0.4), 1.0),))
    text = page(replace(told, blocks=(first,)))
    assert "With every block the reference&#x27;s 83.0 % of the final error goes" in text
    assert row(text, "up weights", "40.0 %")[2] == "-"


def test_shares_of_an_error_under_the_floor_are_not_told() -> None:
    told = two_swaps()
    assert told.output is not None
    quiet = replace(told, output=replace(told.output, status="indistinguishable"))
    assert "no share of it means anything" in page(quiet)
    assert "Share of the final error" not in page(quiet)
    assert "Share of the final error" in page(told)


def test_the_theory_of_the_whole_model_stands_with_that_of_the_blocks() -> None:
    whole = Theory("power sum", 9.0, 9.1, "dB", 0.5, "expected", "", "error powers add")
    text = page(replace(two_swaps(), theory=(whole,)))
    assert row(text, "\u2248 expected", "model", "power sum")[3:5] == ["9", "9.1"]
    assert "tolerance: 1 of 9." in text


# ---- pictures ---------------------------------------------------------------------------


def test_the_depth_chart_draws_a_bar_as_high_as_the_error() -> None:
    text = page(quick_gelu())
    chart = re.search(r'<svg[^>]*Error of every block by depth".*?</svg>', text, re.DOTALL)
    assert chart
    bars = re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)" fill="#d9722e"',
                      chart[0])  # fmt: skip
    heights = [float(height) for _, height in bars]
    assert heights[0] == heights[2] == heights[3] == 0
    assert heights[1] > 100
    assert chart[0].count("<title>layer ") == 4


def test_a_block_whose_error_is_not_known_is_marked_in_the_chart() -> None:
    told = quick_gelu()
    lost = replace(told.blocks[1], local_db=math.nan, end_db=math.nan, inherited_db=math.nan)
    text = page(replace(told, blocks=(told.blocks[0], lost, *told.blocks[2:])))
    chart = re.search(r'<svg[^>]*Error of every block by depth".*?</svg>', text, re.DOTALL)
    assert chart
    assert chart[0].count(">?<") == 1
    assert "NaN" not in chart[0]


def test_deep_models_name_layers_without_overlap() -> None:
    text = page(deep(80))
    chart = re.search(r'<svg[^>]*Error of every block by depth".*?</svg>', text, re.DOTALL)
    assert chart
    under = re.findall(r'<text x="([\d.]+)" y="259.0" class="mid">(\d+)<', chart[0])
    assert [int(layer) for _, layer in under] == list(range(0, 80, 2))
    places = [float(x) for x, _ in under]
    assert min(np.diff(places)) >= 24


def test_the_gate_is_drawn_with_the_share_of_each_region() -> None:
    text = page(two_swaps())
    chart = re.search(r'<svg[^>]*by value of the gate, layer 0".*?</svg>', text, re.DOTALL)
    assert chart
    for words in ("negative tail 36.0 %", "dip 33.0 %", "origin 5.0 %", "positive 26.0 %"):
        assert f">{words}<" in chart[0]
    assert "share per unit of the gate" in chart[0]


def test_densities_of_the_gate_and_its_error_are_those_of_the_values() -> None:
    gate = gates(quick_gelu())[1, "model.layers.1.mlp"]
    edges, (values, error, expected) = gate.densities()
    width = np.diff(edges)
    assert (values * width).sum() == pytest.approx(1, abs=2e-3)
    assert error == pytest.approx(expected)
    middle = (edges[:-1] + edges[1:]) / 2
    normal = np.exp(-(((middle + 0.4) / 1.3) ** 2) / 2) / (1.3 * math.sqrt(2 * math.pi))
    assert np.abs(values - normal).max() < 0.03
    assert middle[np.argmax(error)] == pytest.approx(-1.65, abs=0.2)


def test_rows_of_one_block_are_drawn_together() -> None:
    """A mixture has a row an expert."""
    row = {"layer": 0, "block": "x", "codes": [1024, 1030], "counts": [3, 1],
           "error": [1.0, 0.0], "expected": [1.0, 0.0]}  # fmt: skip
    other = row | {"codes": [1030], "counts": [4], "error": [1.0], "expected": [0.5]}
    gate = GateError.of(row, other)
    assert gate.counts.sum() == 8
    assert gate.left.tolist() == sorted(gate.left)
    _, (values, error, _) = gate.densities()
    assert np.count_nonzero(values) > 0
    assert error.sum() > 0


def test_what_is_wrong_with_the_run_is_noted() -> None:
    story = Story(healthy(), problems=("stopped early: Stopped", "a <b>"))
    text = to_html(paired_paper(story, to="x.html"))
    assert '<div class="note">stopped early: Stopped</div>' in text
    assert "a &lt;b&gt;" in text
    assert "- stopped early: Stopped" in to_markdown(paired_paper(story, to="x.md"))


# ---- whatever it is given ---------------------------------------------------------------


@pytest.mark.parametrize("name", list(STORIES))
def test_every_story_is_told_in_every_format(name: str, tmp_path: Path) -> None:
    told = STORIES[name]()
    for suffix in ("html", "md", "json"):
        assert report(told, to=tmp_path / f"x.{suffix}").stat().st_size > 500 or not told.blocks
    text = page(told)
    assert "nan" not in re.sub(r"[\w.]*[nN]a[nN] appears", "", text).lower().split()
    assert not re.search(r'="(nan|inf|-inf)[" ]', text)


def test_names_are_text_in_html() -> None:
    text = page(evil())
    used = Page(text)
    assert not {tag for tag, _ in used.tags} & {"script", "a", "link", "img", "iframe"}
    assert not [a for _, attrs in used.tags for a in attrs if a.startswith(("on", "src"))]
    assert "<script" not in text
    assert "<script>alert(1)</script>|*x*" in " ".join(used.texts)


def test_names_are_text_in_markdown(tmp_path: Path) -> None:
    text = report(evil(), to=tmp_path / "x.md").read_text()
    assert not re.findall(r"<(?!/?(details|summary|code|sub)>|!-- -->)", text)
    assert not re.search(r"(?<!\\)\[a", text)
    assert_tables_are_rectangular(text)


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    text = report(two_swaps(), to=tmp_path / "x.html").read_text()
    assert not {tag for tag, _ in Page(text).tags} & {"script", "link", "img", "iframe"}
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_shares_without_an_interval_have_a_dash() -> None:
    told = quick_gelu()
    lone = replace(told.blocks[1], local=Interval(1.0))
    text = page(replace(told, blocks=(lone,)))
    shares = next(r for r in Page(text).rows if len(r) == 10 and r[0] == "1")
    assert shares[3:5] == ["100.0 %", "-"]


# ---- the other formats ------------------------------------------------------------------


def test_json_is_the_attribution(tmp_path: Path) -> None:
    data = json.loads(report(two_swaps(), to=tmp_path / "x.json").read_text())
    told = json.loads(two_swaps().to_json())
    assert {key: data[key] for key in told} == told
    assert data["kind"] == "attribution"
    assert data["blocks"][0]["inherited_db"] == "inf"


def test_markdown_has_the_verdict_the_output_and_the_blocks(tmp_path: Path) -> None:
    text = report(quick_gelu(), to=tmp_path / "x.md").read_text()
    assert text.startswith("## Why did it drift? \u274c BUG\n\nLayer 1 runs quick\\_gelu")
    assert "### Which bug it is" in text
    assert_tables_are_rectangular(text)


def test_a_folder_holds_every_format_and_every_table(tmp_path: Path) -> None:
    told = two_swaps()
    folder = report(told, to=tmp_path / "out")
    names = ("blocks", "causes", "factorial", "norm_split", "output", "regions", "stages",
             "theory")  # fmt: skip
    expected = {f"{name}.{kind}" for name in names for kind in ("csv", "parquet")}
    made = {path.name for path in folder.iterdir() if path.is_file()}
    assert made == expected | {"attribution.html", "attribution.md", "attribution.json"}
    causes = pd.read_parquet(folder / "causes.parquet")
    assert len(causes) == 4 * 5
    assert set(causes) == {
        "layer", "block", "part", "share", "share_low", "share_high", "energy",
    }  # fmt: skip
    effects = pd.read_csv(folder / "factorial.csv").set_index(["metric", "effect"])["value"]
    assert effects["error", "v11"] == 0.1429
    assert effects["error", "norm"] == 0.00081


@pytest.mark.parametrize(
    ("value", "level", "share"),
    [
        (math.nan, "-", "-"), (math.inf, "\u221e", "\u221e"), (-math.inf, MINUS + "\u221e",
        MINUS + "\u221e"), (0.1234, "0.1", "12.3 %"), (-3.01, MINUS + "3.0", MINUS + "301.0 %"),
    ],
)  # fmt: skip
def test_levels_and_shares_have_one_decimal(value: float, level: str, share: str) -> None:
    assert (decibels(value), percent(value)) == (level, share)
