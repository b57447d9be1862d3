"""The page of trainings as a function of a folder and a URL."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashboard.components.page import Page
from dashboard.data import Library
from dashboard.routes import render
from ffn_probe.anatomy import Site
from ffn_probe.measures import MEASURES
from ffn_probe.runs import Manifest, Run, RunWriter, trend_rows
from tests.compare.made_runs import draws, made_blocks, make_run
from tests.dashboard.trees import frame, links, of, rows, text
from tests.runs.recording import BLOCK, tables, values

SAMPLES = Path(__file__).parents[2] / "sample_runs"
LIBRARY = Library(SAMPLES)
BOTH = "?a=train-healthy&b=train-hot"


def charts(page: Page) -> list[Any]:
    return [graph.figure for graph in of(page.content, "Graph")]


def selects(page: Page) -> dict[str, Any]:
    """Return the drop-downs by their label."""
    return {
        label.children[0].children: label.children[1] for label in of(page.content, "Label")
    }


def chosen(select: Any) -> str:
    [found] = [o.children for o in select.children if getattr(o, "selected", False)]
    return str(found)


@pytest.fixture(scope="module")
def both() -> Page:
    return render(LIBRARY, "/training", BOTH)


def test_two_trainings_are_drawn_over_each_other(both: Page) -> None:
    chart, *maps = charts(both)
    assert {t.name for t in chart.data if t.name} == {"train-healthy", "train-hot"}
    assert [chart.layout[f"yaxis{i}"].title.text.split("<")[0] for i in (4, 5, 6)] == [
        "loss", "grad_norm", "lr",
    ]  # fmt: skip
    assert len(maps) == 2
    assert maps[0].layout.xaxis.range == maps[1].layout.xaxis.range
    assert maps[0].layout.xaxis.range == chart.layout.xaxis.range
    assert (maps[0].data[0].zmin, maps[0].data[0].zmax) == (
        maps[1].data[0].zmin, maps[1].data[0].zmax,
    )  # fmt: skip


def test_the_numbers_are_those_of_the_runs(both: Page) -> None:
    lines = frame(both, "trends")
    name = "layers.0.ffn/hidden"
    assert "layers.0.ffn" in text(both.content)
    for run in ("train-healthy", "train-hot"):
        own = Run.open(SAMPLES / run).trends(["absmax", "q50"], site=name)
        shown = lines[lines["run"] == run]
        assert set(shown["site"]) == {name}
        np.testing.assert_array_equal(shown["absmax"], own["absmax"])
        np.testing.assert_array_equal(shown["q50"], own["q50"])
        assert shown["last_step"].tolist() == own["last_step"].tolist()
    metrics = frame(both, "metrics")
    assert len(metrics) == sum(len(Run.open(SAMPLES / r).table("metrics"))
                               for r in ("train-healthy", "train-hot"))  # fmt: skip
    cells = frame(both, "map")
    assert cells["value"].max() == pytest.approx(
        Run.open(SAMPLES / "train-hot")
        .trends(["absmax"])
        .query("role=='hidden'")["absmax"]
        .max()
    )


def test_the_hot_training_alone_has_alarms_which_lead_to_their_sites(both: Page) -> None:
    found = frame(both, "alarms")
    assert set(found["run"]) == {"train-hot"}
    assert {"non-finite", "limit", "growth"} <= set(found["kind"])
    assert (found["step"].diff().dropna() >= 0).all()
    first = found[(found["kind"] == "non-finite") & found["where"].str.contains("/")].iloc[0]
    assert first["where"] == "layers.0.ffn/out"
    assert "layers.0.ffn/out, first in the data flow: 1 NaN or Inf" in text(both.content)
    assert links(both.content)["layers.0.ffn/out"] == (
        "/training?a=train-healthy&b=train-hot&site=layers.0.ffn%2Fout"
    )


def test_a_training_that_is_well_says_so() -> None:
    page = render(LIBRARY, "/training", "?a=train-healthy")
    assert "None in train-healthy" in text(page.content)
    assert frame(page, "alarms").empty


def test_site_measure_and_rows_of_the_map_come_from_the_address() -> None:
    page = render(LIBRARY, "/training", f"{BOTH}&site=layers.2.ffn/gate&measure=crest&by=role")
    found = selects(page)
    assert chosen(found["layer"]) == "2: layers.2.ffn"
    assert chosen(found["role"]) == "gate"
    assert chosen(found["measure"]) == "crest factor"
    assert "expert" not in found
    assert [option.value for option in found["measure"].children] == [m.name for m in MEASURES]
    named = [
        link for link in of(page.content, "Link") if "-layer" in getattr(link, "className", "")
    ]
    steps = {link.className.split()[-1]: link.href for link in named}
    assert steps["prev-layer"].endswith("site=layers.1.ffn%2Fgate&measure=crest&by=role")
    assert steps["next-layer"].endswith("site=layers.3.ffn%2Fgate&measure=crest&by=role")
    chart, one, _ = charts(page)
    assert "crest factor" in chart.layout.yaxis3.title.text
    assert list(one.layout.yaxis.ticktext) == [
        "resid", "normed", "gate", "gate_act", "value", "hidden", "out",
    ]  # fmt: skip
    assert one.data[0].customdata[5, 0] == "layers.2.ffn/hidden"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?a=nobody", "no run 'nobody'"),
        (BOTH + "&measure=crst", "Did you mean 'crest'"),
        (BOTH + "&site=layers.9.ffn/gate", "no site 'layers.9.ffn/gate'"),
        (BOTH + "&by=column", "no by 'column'"),
    ],
)
def test_what_is_not_known_is_told(query: str, said: str) -> None:
    page = render(LIBRARY, "/training", query)
    assert page.error
    assert said in text(page.content)


def test_without_a_run_one_is_chosen_and_told_how_to_record(both: Page) -> None:
    page = render(LIBRARY, "/training", "")
    assert "probe.step(loss=loss" in text(page.content)
    [select] = selects(page).values()
    values_ = [option.value for option in select.children]
    assert {"train-healthy", "ln-gelu"} <= set(values_)
    assert "swap-naive" not in values_
    assert list(selects(both))[:3] == ["run a", "run b", "run c"]


def test_runs_without_a_history_say_how_to_get_one(tmp_path: Path) -> None:
    make_run(tmp_path / "short", {Site(0, "mlp", "hidden"): draws(0)})
    shutil.copytree(SAMPLES / "swap-naive", tmp_path / "pair")
    library = Library(tmp_path)
    for name in ("short", "pair"):
        page = render(library, "/training", f"?a={name}")
        assert not page.error
        assert "one window or none" in text(page.content)
        assert charts(page) == []


def test_a_run_without_a_history_beside_one_is_told(tmp_path: Path) -> None:
    make_run(tmp_path / "short", {Site(0, "mlp", "hidden"): draws(0)})
    shutil.copytree(SAMPLES / "train-healthy", tmp_path / "long")
    for query in ("?a=long&b=short", "?a=short&b=long"):
        page = render(Library(tmp_path), "/training", query)
        assert "short has one window or none" in text(page.content)
        assert len(charts(page)) == 2


def test_another_model_is_drawn_by_layer_and_role_and_a_missing_site_is_told(
    tmp_path: Path,
) -> None:
    shutil.copytree(SAMPLES / "train-healthy", tmp_path / "glu")
    long(tmp_path / "other", [Site(0, "h.0", "hidden"), Site(0, "h.0", "out")])
    library = Library(tmp_path)
    same = render(library, "/training", "?a=glu&b=other&site=layers.0.ffn/hidden")
    assert set(frame(same, "map")["site"]) > {"h.0/hidden"}
    missing = render(library, "/training", "?a=glu&b=other&site=layers.3.ffn/hidden")
    assert "other has no site at layer 3 hidden." in text(missing.content)
    assert len(charts(missing)) == 2


def test_experts_can_be_chosen(tmp_path: Path) -> None:
    long(tmp_path / "moe", [Site(0, "moe", "hidden", e) for e in range(4)])
    page = render(Library(tmp_path), "/training", "?a=moe&site=moe/hidden%232")
    assert chosen(selects(page)["expert"]) == "2"
    assert set(frame(page, "trends")["absmax"]) == {2.0}


def test_a_run_that_is_recorded_is_looked_at_again(tmp_path: Path) -> None:
    folder = tmp_path / "live"
    writer = RunWriter.create(folder, Manifest(blocks=(BLOCK,)))
    data, versions = values(), []
    for window in range(3):
        rows_ = tables(data, window)
        rows_["trends"] = trend_rows(rows_, (BLOCK,), window=window, steps=(window, window))
        writer.write_window(window, rows_)
        writer.update(windows=window + 1)
        versions.append(render(Library(tmp_path), "/training", "?a=live").version)
    assert len(set(versions)) == 3
    writer.close()
    page = render(Library(tmp_path), "/training", "?a=live")
    assert page.version == ""
    assert len(frame(page, "trends")) == 3


def test_names_that_are_markup_are_only_text(tmp_path: Path) -> None:
    long(tmp_path / "<b>odd<b>", [Site(0, "<img src=x onerror=alert(1)>", "hidden")], bad=True)
    page = render(Library(tmp_path), "/training", "?a=<b>odd<b>")
    assert len(frame(page, "alarms")) == 1
    for figure in charts(page):
        drawn = str(figure.to_dict()["data"]) + str(figure.to_dict()["layout"])
        assert "<b>odd" not in drawn.replace("customdata", "")
    [heat] = charts(page)[1:]
    assert heat.data[0].customdata[0, 0] == "<img src=x onerror=alert(1)>/hidden"


def test_eighty_layers_are_legible(tmp_path: Path) -> None:
    long(tmp_path / "deep", [Site(i, f"model.layers.{i}.mlp", "hidden") for i in range(80)])
    page = render(Library(tmp_path), "/training", "?a=deep")
    assert len(selects(page)["layer"].children) == 80
    assert len(charts(page)[1].layout.yaxis.ticktext) <= 24
    assert len(rows(page.content)) < 500


def long(folder: Path, sites: list[Site], *, bad: bool = False, windows: int = 12) -> None:
    """Write a run of trends alone; the absmax is the expert's number, or 1."""
    first = trend_rows(tables(values(), 0), (BLOCK,), window=0, steps=(0, 0))[0]
    with RunWriter.create(
        folder, Manifest(blocks=tuple(made_blocks({site: [] for site in sites})))
    ) as w:
        for window in range(windows):
            w.write_window(window, {"trends": [
                first | {
                    "window": window, "first_step": window, "last_step": window,
                    "layer": s.layer, "block": s.block, "role": s.role, "expert": s.expert,
                    "absmax": float(max(s.expert, 1)), "nonfinite": float(bad and window > 5),
                }
                for s in sites
            ]})  # fmt: skip
            w.update(windows=window + 1)
