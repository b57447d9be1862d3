"""One site of a comparison as a function of a folder and a URL."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dashboard.components.page import Page, href
from dashboard.data import Library
from dashboard.routes import render
from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from ffn_probe.figures.numbers import number
from tests.compare.made_runs import draws, make_run
from tests.dashboard.trees import links, of, rows, text

SAMPLES = Path(__file__).parents[2] / "sample_runs"
A, B = "ln-gelu", "rms-swiglu"
LIBRARY = Library(SAMPLES)
BOTH = f"?a={A}&b={B}"


def test_a_site_shows_both_distributions_and_every_statistic() -> None:
    page = render(LIBRARY, "/compare/site", BOTH + "&site=layers.2.ffn/hidden")
    density, cumulative, moved, folds = of(page.content, "Graph")
    assert [trace.name for trace in density.figure.data] == [A, B]
    assert "unit of the tensor" in cumulative.figure.layout.xaxis.title.text
    drift = compare(SAMPLES / A, SAMPLES / B)
    site = next(s for s in drift.sites if s.name == "layers.2.ffn/hidden")
    ranges = {tuple(g.figure.layout.xaxis.range) for g in (density, cumulative, moved)}
    assert len(ranges) == 1
    assert "multiples of the practical threshold" in folds.figure.layout.xaxis.title.text
    assert len(
        [row for row in rows(page.content) if row[0][2:] in {"PASS", "WARN", "FAIL"}]
    ) == len(site.changes)
    assert links(page.content)["\u2190 1"].endswith("site=layers.1.ffn%2Fhidden")
    assert links(page.content)["gate"].endswith("site=layers.2.ffn%2Fgate")


def test_a_site_of_a_mixture_leads_to_its_other_experts(tmp_path: Path) -> None:
    sites = {Site(0, "mlp", "gate", e): draws(e) for e in range(3)}
    make_run(tmp_path / "a", sites, inputs="x")
    make_run(tmp_path / "b", {s: [x * np.float32(2) for x in v] for s, v in sites.items()})
    page = render(Library(tmp_path), "/compare/site", "?a=a&b=b&site=mlp/gate%231")
    assert page.title == "layer 0 gate#1 - ffn-probe"
    assert links(page.content)["#2"].endswith("site=mlp%2Fgate%232")


def shown(search: str = "", library: Library = LIBRARY) -> Page:
    return render(library, "/compare/site", BOTH + "&site=layers.2.ffn/hidden" + search)


def test_every_number_stands_beside_its_threshold_floor_and_interval() -> None:
    found = {row[2]: row for row in rows(shown().content) if len(row) == 12}
    drift = compare(SAMPLES / A, SAMPLES / B)
    site = next(s for s in drift.sites if s.name == "layers.2.ffn/hidden")
    rms = next(c for c in site.changes if c.statistic == "rms")
    low, high = found["rms"][4].split(" to ")
    assert float(low) < rms.value < float(high)
    ratio = abs(rms.value) / rms.threshold
    assert found["rms"][3:10] == [
        number(rms.value, signed=True), found["rms"][4], "octaves", number(rms.threshold),
        number(ratio), number(rms.floor), f"{rms.times_floor:.3g}\u00d7",
    ]  # fmt: skip
    assert found["crest"][4] == "-"


def test_the_axis_of_values_can_be_logarithmic_on_all_charts() -> None:
    plain, log = shown(), shown("&axis=log")
    ranges = [
        {tuple(g.figure.layout.xaxis.range) for g in of(page.content, "Graph")[:3]}
        for page in (plain, log)
    ]
    assert len(ranges[0]) == len(ranges[1]) == 1
    assert ranges[0] != ranges[1]
    assert "log of |x|" in of(log.content, "Graph")[0].figure.layout.xaxis.title.text
    assert "no choice of 'axis' 'linear'" in text(shown("&axis=linear").content)


def test_the_links_around_a_site_have_their_keys_and_keep_the_view() -> None:
    found = {}
    for link in of(shown("&axis=log").content, "Link"):
        for name in getattr(link, "className", "").split():
            found[name] = link.href
    where = f"/compare/site?a={A}&b={B}&site=layers."
    assert found["prev-layer"] == f"{where}1.ffn%2Fhidden&axis=log"
    assert found["next-layer"] == f"{where}3.ffn%2Fhidden&axis=log"
    assert found["prev-role"] == f"{where}2.ffn%2Fgate&axis=log"
    assert found["next-role"] == f"{where}2.ffn%2Fout&axis=log"


def test_the_way_back_leads_to_the_view_that_one_came_from() -> None:
    crumbs = links(shown("&axis=log&thr=2&aspect=tail").content)
    assert crumbs[f"{A} against {B}"] == f"/compare?a={A}&b={B}&thr=2&aspect=tail"


def test_the_first_and_the_last_layer_have_one_neighbour() -> None:
    for layer, lacking in ((0, "prev-layer"), (3, "next-layer")):
        page = render(LIBRARY, "/compare/site", f"{BOTH}&site=layers.{layer}.ffn/gate")
        names = " ".join(getattr(a, "className", "") for a in of(page.content, "Link")).split()
        assert lacking not in names
        assert {"prev-layer", "next-layer"} - {lacking} <= set(names)


def test_the_largest_values_are_those_of_the_run_with_their_addresses() -> None:
    frame = shown().data["extremes"]
    assert isinstance(frame, pd.DataFrame)
    for side, name in (("a", A), ("b", B)):
        run = LIBRARY.run(name)
        top = run.summary("layers.2.ffn/hidden").extremes.top
        mine = frame[frame.side == side]
        assert mine["value"].tolist() == top["value"].tolist()
        assert mine["channel"].tolist() == top["channel"].tolist()
        assert mine["position"].tolist() == top["position"].tolist()


def made(tmp_path: Path, a: list[np.ndarray], b: list[np.ndarray], name: str = "mlp") -> Page:
    for run, values in (("a", a), ("b", b)):
        make_run(tmp_path / run, {Site(0, name, "out"): values}, inputs="x")
    where = href("/compare/site", a="a", b="b", site=f"{name}/out")
    return render(Library(tmp_path), *where.split("?"))


def test_the_channels_that_changed_most_are_named(tmp_path: Path) -> None:
    a = draws(0)
    b = [x.copy() for x in a]
    for x in b:
        x[:, 5] *= 4
        x[:, 11] *= np.float32(0.5)
    page = made(tmp_path, a, b)
    frame = page.data["channels"]
    assert isinstance(frame, pd.DataFrame)
    assert frame.channel.tolist()[:2] == [5, 11]
    assert frame.octaves.tolist()[:2] == pytest.approx([2.0, -1.0])
    flat = np.concatenate(a).astype(np.float64)
    assert frame.rms_a.iloc[0] == pytest.approx(np.sqrt(np.mean(flat[:, 5] ** 2)))
    assert frame.absmax_b.iloc[0] == pytest.approx(4 * np.abs(flat[:, 5]).max())


def test_values_that_are_not_finite_are_counted_apart(tmp_path: Path) -> None:
    a = draws(0)
    b = [x.copy() for x in a]
    b[0][0, :3] = np.nan
    b[1][0, 0], b[1][0, 1] = np.inf, -np.inf
    (row,) = [r for r in rows(made(tmp_path, a, b).content) if r[0] == "b" and len(r) == 9]
    assert row[1:6] == ["16,384", "3", "1", "1", "16,379"]


def test_a_site_without_finite_values_shows_what_there_is(tmp_path: Path) -> None:
    page = made(tmp_path, draws(0), [np.full((2, 16), np.nan, np.float32)] * 16)
    assert "no finite values in the candidate" in text(page.content)
    assert len(of(page.content, "Graph")) == 3
    assert "fewer than two" in of(page.content, "Graph")[2].figure.layout.annotations[0].text


def test_runs_of_one_fold_have_no_band_no_dots_and_no_interval(tmp_path: Path) -> None:
    page = made(tmp_path, draws(0, folds=1), draws(1, folds=1))
    moved, folds = of(page.content, "Graph")[2:]
    assert "chance, 95 %" not in [trace.name for trace in moved.figure.data]
    assert len(folds.figure.data) == 0
    assert "+" not in "".join(row[4] for row in rows(page.content) if len(row) == 12)


def test_a_constant_site_can_be_shown(tmp_path: Path) -> None:
    zeros = [np.zeros((4, 4), np.float32)] * 16
    assert len(of(made(tmp_path, zeros, zeros).content, "Graph")) == 4


def test_names_of_sites_are_text(tmp_path: Path) -> None:
    page = made(tmp_path, draws(0), draws(1), name="<b>x</b>")
    assert page.title == "layer 0 out - ffn-probe"
    for graph in of(page.content, "Graph"):
        assert "<b>x" not in graph.figure.to_json()


def test_a_mixture_of_many_experts_names_the_worst(tmp_path: Path) -> None:
    sites = {Site(0, "mlp", "gate", e): draws(e, rows=8, folds=8) for e in range(40)}
    moved = {s: [x * np.float32(1 + s.expert / 20) for x in v] for s, v in sites.items()}
    make_run(tmp_path / "a", sites, inputs="x")
    make_run(tmp_path / "b", moved, inputs="x")
    page = render(Library(tmp_path), "/compare/site", "?a=a&b=b&site=mlp/gate%230")
    named = [name for name in links(page.content) if name.startswith("#")]
    assert named == ["#0", *(f"#{e}" for e in range(16, 40))]
    assert "and 15 that changed less" in text(page.content)


def test_the_twin_holds_what_is_shown() -> None:
    page = shown()
    assert list(page.data) == ["statistics", "quantiles", "folds", "density", "extremes"]
    frames = {name: frame() if callable(frame) else frame for name, frame in page.data.items()}
    assert frames["density"].share_a.sum() == pytest.approx(1)
    assert frames["density"].share_b.sum() == pytest.approx(1)
    assert set(frames["folds"].of) == {"a to b", "within a"}
    rms = frames["statistics"].set_index("statistic").loc["rms"]
    assert rms.low < rms.value < rms.high
