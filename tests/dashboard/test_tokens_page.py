"""Tokens as a function of a folder and a URL."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dashboard.data import Library
from dashboard.routes import render
from ffn_probe.anatomy import Site
from ffn_probe.figures.numbers import number
from tests.compare.made_runs import draws, make_run
from tests.dashboard.glu_runs import make_glu_run
from tests.dashboard.trees import frame, links, of, rows, text

SAMPLES = Path(__file__).parents[2] / "sample_runs"
LIBRARY = Library(SAMPLES)
BOTH = "?a=ln-swiglu&b=rms-swiglu"
WIDE = 10  # columns of the table of the largest values


def test_the_largest_values_have_their_tokens() -> None:
    page = render(LIBRARY, "/tokens", "?a=ln-gelu&role=resid&layer=2")
    top = LIBRARY.run("ln-gelu").summary("layers.2.ffn/resid").extremes.top
    listed = [row for row in rows(page.content) if len(row) == WIDE]
    assert len(listed) == 16
    for row, entry in zip(listed, top, strict=True):
        assert row[2] == number(float(entry["value"]), signed=True)
        assert row[5] == str(entry["token"])
        assert row[6] == str(entry["position"])
        assert row[9] == str(entry["channel"])
        shown = {"\u21b5": "\n", "\u2423": " "}.get(row[4], row[4])
        assert ord(shown) == int(row[5])  # the model reads bytes


def test_a_sink_is_told_in_a_sentence() -> None:
    page = render(LIBRARY, "/tokens", "?a=ln-gelu&role=resid&layer=2")
    top = LIBRARY.run("ln-gelu").summary("layers.2.ffn/resid").extremes.top
    first = int((top["position"] == 0).sum())
    assert first > 4
    assert f"the 16 largest values: {first} at the first position" in text(page.content)
    marks = of(page.content, "Graph")[1].figure.data[0]
    assert marks.x[0] == 1  # position 0, on an axis that begins at 1
    assert f"layer 2, position 0: {first} of the largest" in marks.text[0]


def test_both_runs_have_their_spikes_by_layer() -> None:
    page = render(LIBRARY, "/tokens", BOTH)
    spikes = of(page.content, "Graph")[0].figure
    for trace, run in zip(spikes.data, ("ln-swiglu", "rms-swiglu"), strict=True):
        expected = [
            LIBRARY.run(run).summary(f"layers.{i}.ffn/hidden").extremes.spike_ratio
            for i in range(4)
        ]
        assert list(trace.y) == pytest.approx(expected)
    assert len(frame(page, "sites")) == 8
    assert len(frame(page, "largest")) == 128


def test_the_view_is_in_the_address() -> None:
    page = render(LIBRARY, "/tokens", BOTH + "&role=gate&layer=1")
    assert links(page.content)["\u2190 layer 0"].endswith("role=gate&layer=0")
    assert {row[1] for row in rows(page.content) if len(row) == WIDE} == {"1"}
    for wrong in ("role=hiden", "layer=7"):
        assert render(LIBRARY, "/tokens", f"{BOTH}&{wrong}").error


def test_a_role_that_one_run_lacks_is_named() -> None:
    page = render(LIBRARY, "/tokens", "?a=ln-gelu&b=rms-swiglu&role=value")
    assert "A ln-gelu has no value, so it is not drawn." in text(page.content)


def test_massive_activations_are_marked(tmp_path: Path) -> None:
    sites = {Site(i, f"layers.{i}.mlp", "resid"): draws(i, folds=2) for i in range(2)}
    sites[Site(1, "layers.1.mlp", "resid")][0][3, 4] = -5000.0
    make_run(tmp_path / "run", sites)
    page = render(Library(tmp_path), "/tokens", "?a=run")
    listed = [row for row in rows(page.content) if len(row) == WIDE + 1]
    assert [row[10] for row in listed[:2]] == ["massive", ""]
    assert "A run: 1 massive values: 1 in channel 4" in text(page.content)
    assert frame(page, "largest")["massive"].sum() == 1


# ---- what is not known ------------------------------------------------------------------


def test_without_ids_the_page_says_how_to_have_them(tmp_path: Path) -> None:
    make_glu_run(tmp_path / "run", ids=False)
    page = render(Library(tmp_path), "/tokens", "?a=run")
    said = text(page.content)
    assert "A run was recorded without token ids" in said
    assert "does not know positions" in said
    assert {row[4] for row in rows(page.content) if len(row) == WIDE} == {"-"}
    titles = [g.figure.layout.xaxis.title.text for g in of(page.content, "Graph")]
    assert not any("position" in title for title in titles)


def test_ids_without_texts_are_shown_and_the_way_to_texts_is_said(tmp_path: Path) -> None:
    make_glu_run(tmp_path / "run")
    page = render(Library(tmp_path), "/tokens", "?a=run")
    assert "holds the ids of tokens and not their texts" in text(page.content)
    listed = [row for row in rows(page.content) if len(row) == WIDE]
    assert {row[4] for row in listed} == {"-"}
    assert {row[5] for row in listed} <= {str(i) for i in range(7)}


def test_hostile_texts_are_only_text(tmp_path: Path) -> None:
    texts = {"0": "<script>alert(1)", "1": "\u202egnp.exe", "2": "=cmd()", "3": "\x1b[2J"}
    make_glu_run(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"vocabulary": texts}))
    page = render(Library(tmp_path), "/tokens", "?a=run")
    said = text(page.content)
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "<U+202E>gnp.exe" in said
    for chart in of(page.content, "Graph"):
        assert "<script" not in chart.figure.to_json().replace("\\u003c", "<")


def test_experts_are_named_and_80_layers_fit(tmp_path: Path) -> None:
    make_glu_run(tmp_path / "moe", layers=1, experts=(0, 2))
    page = render(Library(tmp_path), "/tokens", "?a=moe")
    assert {row[1] for row in rows(page.content) if len(row) == WIDE} == {"0 #0", "0 #2"}
    make_glu_run(tmp_path / "dense", layers=1)
    both = render(Library(tmp_path), "/tokens", "?a=moe&b=dense")
    found = {tuple(row[:2]) for row in rows(both.content) if len(row) == WIDE}
    assert found == {("A", "0 #0"), ("A", "0 #2"), ("B", "0")}
    make_glu_run(tmp_path / "deep", layers=80)
    page = render(Library(tmp_path), "/tokens", "?a=deep")
    sizes = of(page.content, "Graph")[2].figure
    assert np.asarray(sizes.data[0].z).shape[0] == 80
    assert len(sizes.layout.yaxis.tickvals) <= 24


def test_without_a_run_one_is_asked_for(tmp_path: Path) -> None:
    assert links(render(LIBRARY, "/tokens", "").content)["rms-gelu"] == "/tokens?a=rms-gelu"
    shutil.copytree(SAMPLES / "ln-gelu", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "extremes")
    page = render(Library(tmp_path), "/tokens", "?a=run")
    assert "No tokens were recorded" in text(page.content)
