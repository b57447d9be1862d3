"""Channels as a function of a folder and a URL."""

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


def test_every_channel_of_every_layer_is_in_the_heatmap() -> None:
    page = render(LIBRARY, "/channels", BOTH + "&role=resid&measure=rms")
    a, b, ranks, kurtosis, *_ = of(page.content, "Graph")
    for chart, run in ((a, "ln-swiglu"), (b, "rms-swiglu")):
        expected = [LIBRARY.run(run).summary(f"layers.{i}.ffn/resid").channels.rms
                    for i in range(4)]  # fmt: skip
        np.testing.assert_allclose(chart.figure.data[0].customdata[..., 0], expected, rtol=1e-5)
    assert (a.figure.data[0].zmin, a.figure.data[0].zmax) == (
        b.figure.data[0].zmin, b.figure.data[0].zmax,
    )  # fmt: skip
    assert [t.name for t in ranks.figure.data] == ["A ln-swiglu", "B rms-swiglu"]
    he = LIBRARY.run("ln-swiglu").summary("layers.2.ffn/resid").channels.he_kurtosis()
    assert kurtosis.figure.data[0].y[2] == pytest.approx(he, rel=1e-5)


def test_outliers_are_listed_with_the_run_they_are_in() -> None:
    page = render(LIBRARY, "/channels", "?a=ln-gelu&b=rms-gelu&role=hidden")
    channels = LIBRARY.run("ln-gelu").summary("layers.2.ffn/hidden").channels
    expected = {str(k) for k in np.flatnonzero(channels.outliers())}
    listed = [row for row in rows(page.content) if len(row) == 10 and row[1] == "outlier"]
    assert {r[0] for r in listed if r[3] == "layer 2" and r[2] != "B only"} >= expected
    best = int(np.argmax(channels.rms))
    row = next(r for r in listed if r[0] == str(best) and r[3] == "layer 2")
    assert row[4] == number(float(channels.absmax[best]))
    assert set(frame(page, "unusual")["in"]) <= {"A only", "B only", "both"}
    assert len(frame(page, "channels")) == 2 * 4 * 384
    assert len(frame(page, "layers")) == 8


def test_the_gains_of_the_norm_stand_beside_its_channels() -> None:
    page = render(LIBRARY, "/channels", BOTH + "&role=normed&layer=1")
    assert "|gain of the norm| against RMS: rank correlation" in text(page.content)
    marks = of(page.content, "Graph")[-1].figure.data[0]
    weights = LIBRARY.run("rms-swiglu").weights("layers.1.ffn")
    assert weights is not None
    at = np.asarray(marks.customdata)
    np.testing.assert_allclose(marks.x, np.abs(weights.gain[at]), rtol=1e-6)
    assert "|gain" not in text(render(LIBRARY, "/channels", BOTH + "&role=resid").content)


def test_the_view_is_in_the_address() -> None:
    page = render(LIBRARY, "/channels", BOTH + "&role=hidden&sort=size&layer=1")
    assert "stand out first" in of(page.content, "Graph")[0].figure.layout.xaxis.title.text
    assert links(page.content)["layer 2 \u2192"].endswith("role=hidden&sort=size&layer=2")
    for wrong in ("role=hiden", "measure=loudness", "sort=up", "layer=9"):
        shown = render(LIBRARY, "/channels", f"{BOTH}&{wrong}")
        assert shown.error
        assert wrong.split("=")[1] in text(shown.content)


def test_a_role_that_one_run_lacks_is_named() -> None:
    page = render(LIBRARY, "/channels", "?a=ln-gelu&b=rms-swiglu&role=value")
    assert not page.error
    assert "A ln-gelu has no value, so it is not drawn." in text(page.content)
    assert of(page.content, "Graph")[1].figure.data[0].line.color == "#d9722e"


def test_planted_channels_of_one_run_are_in_its_list_alone(tmp_path: Path) -> None:
    for name, factor in (("a", 1.0), ("b", 60.0)):
        sites = {Site(i, f"layers.{i}.mlp", "resid"): draws(i, folds=2) for i in range(4)}
        for values in sites.values():
            for x in values:
                x[:, 5] *= factor
                x[:, 9] = 0
        make_run(tmp_path / name, sites, inputs="x")
    page = render(Library(tmp_path), "/channels", "?a=a&b=b")
    listed = [row[:4] for row in rows(page.content) if len(row) == 10]
    assert ["5", "outlier", "B only", "layers 0-3"] in listed
    assert ["5", "large", "B only", "layers 0-3"] in listed
    assert ["9", "never active", "both", "layers 0-3"] in listed
    assert "Between runs a number means the same channel only where" in text(page.content)


def test_of_many_channels_neighbours_share_a_column_and_the_list_misses_none(
    tmp_path: Path,
) -> None:
    sites = {Site(i, f"layers.{i}.mlp", "hidden"): draws(i, folds=2, rows=8, channels=9000)
             for i in range(2)}  # fmt: skip
    for x in sites[Site(1, "layers.1.mlp", "hidden")]:
        x[:, 8765] *= 400
    make_run(tmp_path / "wide", sites)
    page = render(Library(tmp_path), "/channels", "?a=wide")
    heatmap = of(page.content, "Graph")[0].figure
    assert heatmap.data[0].z.shape == (2, 3000)
    assert 8765 in heatmap.data[0].customdata[1, :, 1]
    assert "A column stands for 3 channels" in text(page.content)
    assert ["8765", "outlier", "layer 1"] in [row[:3] for row in rows(page.content)]
    ranks = of(page.content, "Graph")[1].figure.data[0]
    assert ranks.x[-1] == 9000
    assert ranks.y[0] / ranks.y[1] > 50


def test_a_stream_of_large_values_is_told_as_one(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {Site(0, "layers.0.mlp", "resid"): [100 * x for x in draws(0)]})
    page = render(Library(tmp_path), "/channels", "?a=run")
    assert "16 channels of A run reach |x| = 6 in 25% of the layers" in text(page.content)
    assert "No channel is an outlier, and none is dead." in text(page.content)


def test_a_layer_of_one_and_a_mixture_are_drawn(tmp_path: Path) -> None:
    make_glu_run(tmp_path / "moe", layers=1, experts=(0, 2))
    page = render(Library(tmp_path), "/channels", "?a=moe&role=hidden")
    assert of(page.content, "Graph")[0].figure.data[0].z.shape == (1, 8)
    assert "weights before them" not in text(page.content)


def test_a_run_without_channels_says_so(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "ln-gelu", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "channels")
    page = render(Library(tmp_path), "/channels", "?a=run")
    assert "No channels were recorded" in text(page.content)
    assert links(render(LIBRARY, "/channels", "").content)["rms-gelu"] == "/channels?a=rms-gelu"
