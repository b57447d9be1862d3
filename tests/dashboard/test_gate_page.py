"""Gate x value as a function of a folder and a URL."""

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
GLUS = "?a=ln-swiglu&b=rms-swiglu"


def names(content: object) -> list[str]:
    """Return the text alternatives of the charts."""
    return [getattr(d, "aria-label", "") for d in of(content, "Div")
            if getattr(d, "role", "") == "img"]  # fmt: skip


def test_two_runs_stand_side_by_side_with_the_same_axes_and_colours() -> None:
    page = render(LIBRARY, "/gate", GLUS + "&layer=2")
    assert not page.error
    a, b, density, *neurons = of(page.content, "Graph")
    assert a.figure.layout.xaxis.ticktext == b.figure.layout.xaxis.ticktext
    assert (a.figure.data[0].zmin, a.figure.data[0].zmax) == (
        b.figure.data[0].zmin, b.figure.data[0].zmax,
    )  # fmt: skip
    assert [t.name for t in density.figure.data[:2]] == ["A ln-swiglu", "B rms-swiglu"]
    assert len(neurons) == 2
    assert all(label for label in names(page.content))


def test_the_numbers_are_those_of_the_runs() -> None:
    page = render(LIBRARY, "/gate", GLUS + "&layer=2")
    table = {row[0]: row[1:4] for row in rows(page.content) if len(row) == 6}
    for i, run in enumerate(("ln-swiglu", "rms-swiglu")):
        found = LIBRARY.run(run)
        joint = found.summary("layers.2.ffn/hidden").joint
        assert joint is not None
        assert table["correlation of gate and value"][i] == number(
            joint.pooled().corr_gate_value
        )
        gate = found.histogram("layers.2.ffn/gate")
        assert table["gate open"][i] == number(1 - float(gate.cdf(0.0)))
        weights = found.weights("layers.2.ffn")
        assert weights is not None
        cosine = float(np.abs(weights.cos_gate_up).mean())
        assert table["cosine of gate and up"][i] == number(cosine)
    assert set(frame(page, "numbers")["side"]) == {"a", "b"}
    assert len(frame(page, "neurons")) == 2 * 256
    assert frame(page, "cells").groupby("side")["pairs"].sum().tolist() == [524288] * 2
    assert set(page.data) == {"numbers", "neurons", "cells"}


def test_the_difference_is_one_chart_of_ratios() -> None:
    page = render(LIBRARY, "/gate", GLUS + "&view=difference")
    ratio = of(page.content, "Graph")[0].figure
    assert "share in B rms-swiglu over A ln-swiglu" in ratio.data[1].colorbar.title.text
    assert len(of(page.content, "Graph")) == 4
    changed = [row for row in rows(page.content) if len(row) == 7 and row[6].endswith("\u00d7")]
    factors = [float(row[6].removesuffix("\u00d7")) for row in changed]
    assert len(changed) == 12
    assert all(np.diff(np.abs(np.log2(factors))) <= 0.01)
    unknown = render(LIBRARY, "/gate", GLUS + "&view=sideways")
    assert unknown.error
    assert "difference" in text(unknown.content)


def test_a_plain_mlp_shows_its_gate_and_says_why_there_is_no_value() -> None:
    page = render(LIBRARY, "/gate", "?a=ln-gelu&b=rms-swiglu")
    said = text(page.content)
    assert "A ln-gelu is a plain MLP here (gelu): it has no value" in said
    assert "for " in said
    assert "gelu falls as the gate grows" in said
    pairs, density, neurons = of(page.content, "Graph")
    assert pairs.figure.data[1].line.color == "#d9722e"  # the only pairs are the candidate's
    assert len([t for t in density.figure.data if "right axis" in t.name]) == 2
    assert neurons.figure.data[0].marker.color == "#d9722e"
    alone = render(LIBRARY, "/gate", "?a=ln-gelu")
    assert len(of(alone.content, "Graph")) == 1
    assert set(alone.data) == {"numbers"}


def test_the_layer_is_in_the_address() -> None:
    first = render(LIBRARY, "/gate", GLUS)
    assert links(first.content)["layer 1 \u2192"] == f"/gate{GLUS}&layer=1"
    last = render(LIBRARY, "/gate", GLUS + "&layer=3&view=difference")
    back = links(last.content)["\u2190 layer 2"]
    assert back == f"/gate{GLUS}&layer=2&view=difference"
    assert render(LIBRARY, "/gate", GLUS + "&layer=4").error


@pytest.mark.parametrize("query", ["?a=nowhere", "?a=ln-gelu&b=swap-naive", "?a=swap-naive"])
def test_what_is_no_run_of_one_model_is_told(query: str) -> None:
    assert render(LIBRARY, "/gate", query).error


def test_without_a_run_one_is_asked_for(tmp_path: Path) -> None:
    page = render(LIBRARY, "/gate", "")
    assert links(page.content)["ln-swiglu"] == "/gate?a=ln-swiglu"
    assert "swap-naive" not in links(page.content)
    assert "ffn-probe record" in text(render(Library(tmp_path), "/gate", "").content)


def test_the_maps_of_all_layers_are_a_click_away() -> None:
    page = render(LIBRARY, "/gate", GLUS)
    assert links(page.content)["hidden_ratio of B rms-swiglu"] == (
        "/run?run=rms-swiglu&measure=hidden_ratio"
    )


def test_values_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    sites = {Site(0, "mlp", "gate"): draws(0, folds=2)}
    sites[Site(0, "mlp", "gate")][1][0, :3] = [np.nan, np.inf, -np.inf]
    make_run(tmp_path / "run", sites)
    page = render(Library(tmp_path), "/gate", "?a=run")
    assert "A run: 2,045 finite values, 3 that are not." in text(page.content)


# ---- states -----------------------------------------------------------------------------


def test_a_mixture_shows_its_busiest_expert_and_offers_the_others(tmp_path: Path) -> None:
    make_glu_run(tmp_path / "moe", experts=(0, 1, 3))
    page = render(Library(tmp_path), "/gate", "?a=moe")
    options = [text(o.children) for o in of(page.content, "Option")]
    assert [o for o in options if o.startswith("expert")] == [
        "expert 3 (160 tokens)", "expert 1 (80 tokens)", "expert 0 (40 tokens)",
    ]  # fmt: skip
    assert "A moe, expert 3: the gate is open" in text(page.content)
    other = render(Library(tmp_path), "/gate", "?a=moe&expert=0")
    assert frame(other, "numbers")["expert"].unique().tolist() == [0]
    assert render(Library(tmp_path), "/gate", "?a=moe&expert=2").error


def test_without_weights_the_correlations_stand_alone(tmp_path: Path) -> None:
    make_glu_run(tmp_path / "run", weights=False)
    page = render(Library(tmp_path), "/gate", "?a=run")
    assert "The weights of A run were not recorded" in text(page.content)
    assert of(page.content, "Graph")[-1].figure.layout.xaxis.title.text == (
        "correlation of gate and value"
    )


def test_without_pairs_the_page_says_what_to_record(tmp_path: Path) -> None:
    make_glu_run(tmp_path / "run", joint=False)
    page = render(Library(tmp_path), "/gate", "?a=run")
    assert "holds no pairs of gate and value" in text(page.content)
    assert len(of(page.content, "Graph")) == 1


def test_a_run_without_a_gate_says_how_to_have_one(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "ln-gelu", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "moments")
    page = render(Library(tmp_path), "/gate", "?a=run")
    assert "No gate was recorded" in text(page.content)
    assert "--roles gate,value,hidden" in text(page.content)


def test_a_second_run_that_has_no_such_block_is_named(tmp_path: Path) -> None:
    make_glu_run(tmp_path / "deep", layers=3)
    make_glu_run(tmp_path / "flat", layers=1)
    page = render(Library(tmp_path), "/gate", "?a=deep&b=flat&layer=1")
    assert "B flat has no gate that this block could be compared with" in text(page.content)


def test_80_layers_can_be_chosen_and_names_are_only_text(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    make_glu_run(tmp_path / evil, layers=80, block_name=evil)
    page = render(
        Library(tmp_path), "/gate", "?a=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&layer=79"
    )
    assert not page.error
    assert f"A {evil}" in text(page.content)  # Dash escapes text; plotly reads HTML
    for chart in of(page.content, "Graph"):
        assert "<img" not in chart.figure.to_json().replace("\\u003c", "<")
