"""The page of number formats."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dashboard.components.page import Page
from dashboard.data import Library
from dashboard.files import written
from dashboard.pages.quantized_levels import recommendation
from dashboard.routes import query_of, render
from ffn_probe.anatomy import Site
from ffn_probe.figures.site_formats import SiteFormats, predicted_formats, run_formats
from ffn_probe.sketches.quant_noise import Noise
from tests.compare.made_runs import draws, make_run
from tests.dashboard.square import square
from tests.dashboard.trees import of, rows, text

SAMPLES = Path(__file__).parents[2] / "sample_runs"
LIBRARY = Library(SAMPLES)
A, B = "ln-gelu", "rms-swiglu"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(square(tmp_path_factory.mktemp("formats"), A, B))


def shown(library: Library, query: str) -> Page:
    return render(library, "/quantization", query)


def heatmaps(page: Page) -> list[object]:
    return [g.figure for g in of(page.content, "Graph") if g.figure.data[0].type == "heatmap"]


# ---- what is shown ----------------------------------------------------------------------


def test_the_numbers_in_the_table_are_those_that_were_measured() -> None:
    listed = rows(shown(LIBRARY, f"?a={A}").content)
    found = {row[0]: row for row in listed if len(row) == 4}
    run = LIBRARY.run(A)
    levels = [run.summary(site).quant.sqnr_db("int8:token") for site in run.sites]
    held = sum(level >= 30 for level in levels)
    assert found["int8:token"][1:3] == [f"{held} of {len(levels)}", f"{min(levels):.1f}"]


def test_the_target_of_the_address_moves_what_holds(library: Library) -> None:
    def held(target: str) -> str:
        table = rows(shown(library, f"?a={A}&target={target}").content)
        return next(row[1] for row in table if len(row) == 4 and row[0] == "e4m3fn:tensor")

    assert held("30") == "8 of 8"
    assert held("40") == "0 of 8"


def test_a_role_and_a_layer_of_the_address_narrow_every_part(library: Library) -> None:
    page = shown(library, f"?a={A}&role=hidden&layer=1")
    (grid,) = heatmaps(page)
    assert grid.data[0].z.shape[1] == 1
    twin = page.data["levels"]()
    assert set(twin["role"]) == {"hidden"}
    assert set(twin["layer"]) == {1}


def test_a_chosen_layer_has_the_way_to_the_next(library: Library) -> None:
    def steps(query: str) -> dict[str, str]:
        every = of(shown(library, query).content, "Link")
        found = {getattr(a, "className", ""): a.href for a in every}
        return {kind: where for kind, where in found.items() if "-layer" in str(kind)}

    assert steps(f"?a={A}&layer=0&role=hidden") == {
        "button next-layer": f"/quantization?a={A}&layer=1&role=hidden"
    }
    assert list(steps(f"?a={A}&layer=1")) == ["button prev-layer"]
    assert steps(f"?a={A}") == {}


def test_the_views_show_what_they_say(library: Library) -> None:
    def top(view: str) -> np.ndarray:
        return heatmaps(shown(library, f"?a={A}&view={view}&role=hidden"))[0].data[0].z

    run = library.run(A)
    sites = [site for site in run.sites if site.role == "hidden"]
    measured = [run.summary(site).quant.sqnr_db("int8:tensor") for site in sites]
    predicted = [
        float(line["value"])
        for line in run.measures(["sqnr_int8_predicted"]).to_dict("records")
        if line["role"] == "hidden"
    ]
    assert top("measured")[0] == pytest.approx(measured, abs=1e-3)
    assert top("predicted")[0] == pytest.approx(predicted, abs=1e-3)
    assert top("difference")[0] == pytest.approx(np.subtract(measured, predicted), abs=1e-3)


def test_two_runs_stand_beside_each_other_or_as_their_difference(library: Library) -> None:
    one, other = heatmaps(shown(library, f"?a={A}&b={B}"))
    (change,) = heatmaps(shown(library, f"?a={A}&b={B}&against=change"))
    assert len(one.data) == 2  # hatched where only the other run has sites
    assert len(other.data) == 1
    both = other.data[0].z - one.data[0].z
    inside = (np.abs(both) < 6) & (np.abs(one.data[0].z - 30) < 19)
    inside &= np.abs(other.data[0].z - 30) < 19
    assert inside.sum() > 10
    assert change.data[0].z[inside] == pytest.approx(both[inside], abs=1e-4)


def test_a_site_of_the_address_is_told_in_every_format(library: Library) -> None:
    page = shown(library, f"?a={A}&site=layers.1.ffn/hidden")
    found = {
        row[0]: row for row in rows(page.content) if len(row) == 6 and row[1] in "\u2713\u2715"
    }
    run = library.run(A)
    quant = run.summary("layers.1.ffn/hidden").quant
    assert set(quant.entries) <= set(found)
    assert found["nvfp4:block"][2] == f"{quant.sqnr_db('nvfp4:block'):.1f}"
    assert shown(library, f"?a={A}&site=nowhere/hidden").error


def test_cells_and_points_lead_to_their_site_here(library: Library) -> None:
    page = shown(library, f"?a={A}")
    maps = [g.id for g in of(page.content, "Graph") if isinstance(getattr(g, "id", None), dict)]
    assert maps
    assert {(m["to"], m["key"]) for m in maps} == {("/quantization", "site")}
    assert len({m["name"] for m in maps}) == len(maps)


def test_every_chart_has_words_and_the_command_tells_the_same(library: Library) -> None:
    page = shown(library, f"?a={A}&b={B}&format=mxfp8:block")
    images = [p for p in of(page.content, "Div") if getattr(p, "role", "") == "img"]
    assert len(images) == len(of(page.content, "Graph"))
    assert page.command == (
        f"ffn-probe show {library.root / A} --measure sqnr_mxfp8_block && "
        f"ffn-probe show {library.root / B} --measure sqnr_mxfp8_block"
    )
    assert all(of(t, "Caption") for t in of(page.content, "Table"))


def test_the_twin_has_every_format_of_every_site(library: Library) -> None:
    query = query_of(f"?a={A}")
    tables = json.loads(written(shown(library, f"?a={A}"), "json", "/quantization", query)[0])[
        "tables"
    ]
    run = library.run(A)
    assert len({(r["layer"], r["role"]) for r in tables["levels"]}) == len(run.sites)
    assert {r["format"] for r in tables["survival"]} >= {"int8:token", "nvfp4:block"}


@pytest.mark.parametrize(
    "query", ["view=seen", "role=nose", "layer=99", "format=int3", "target=x"]
)
def test_an_unknown_choice_is_said_with_what_is_possible(library: Library, query: str) -> None:
    page = shown(library, f"?a={A}&{query}")
    assert page.error
    assert "Known" in text(page.content)


# ---- what to take -----------------------------------------------------------------------


def formats(role: str, layer: int, **levels: float) -> SiteFormats:
    noise = {
        key.replace("_", ":"): Noise(1, 1.0, 10 ** (-db / 10), 0, 0)
        for key, db in levels.items()
    }
    return SiteFormats(Site(layer, "mlp", role), 1.0, 0.5, 4.0, noise, {})


def test_the_recommendation_names_the_sites_that_need_another_format() -> None:
    sites = [
        formats("normed", 0, int8_tensor=40.0, e4m3fn_tensor=20.0),
        formats("hidden", 0, int8_tensor=35.0, e4m3fn_tensor=31.0),
        formats("hidden", 3, int8_tensor=20.0, e4m3fn_tensor=31.0),
        formats("out", 3, int8_tensor=20.0, e4m3fn_tensor=21.0),
        formats("gate", 1, int8_tensor=33.0),
    ]
    assert recommendation(sites, 30.0, "measured") == (
        "int8:tensor holds \u2265 30 dB at 3 of 5 sites; hidden of layer 3 needs "
        "e4m3fn:tensor; out of layer 3 needs bf16."
    )


def test_where_all_sites_hold_nothing_else_is_asked_for() -> None:
    said = recommendation([formats("hidden", 0, int8_tensor=40.0)], 30.0, "measured")
    assert said == "int8:tensor holds \u2265 30 dB at 1 of 1 sites, so all of them may take it."
    assert "No format of 8 bits" in recommendation([], 30.0, "measured")


# ---- runs of other shapes ---------------------------------------------------------------


def test_a_run_without_measured_noise_is_predicted_and_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "old", {Site(0, "mlp", role): draws(i) for i, role in
             enumerate(("normed", "hidden"))})  # fmt: skip
    page = shown(Library(tmp_path), "?a=old")
    assert "No noise of formats was measured in old" in text(page.content)
    (grid,) = heatmaps(page)
    assert grid.layout.yaxis.ticktext[0] == "int8:tensor"
    assert "Losses are counted only where the noise was measured." in text(page.content)
    assert page.command.endswith("--measure sqnr_int8_tensor")


def test_eighty_layers_of_a_mixture_stay_in_one_bounded_picture(tmp_path: Path) -> None:
    sites = {
        Site(layer, f"m.{layer}", "hidden", expert): draws(layer, folds=1, rows=4)
        for layer in range(80)
        for expert in range(2)
    }
    make_run(tmp_path / "deep", sites)
    page = shown(Library(tmp_path), "?a=deep")
    (grid,) = heatmaps(page)
    assert grid.data[0].z.shape[1] == 80
    assert len(grid.layout.xaxis.ticktext) <= 28
    assert max(len(of(t, "Tr")) for t in of(page.content, "Table")) <= 501


def test_values_that_are_not_finite_or_all_zero_leave_gaps(tmp_path: Path) -> None:
    broken = [np.full((4, 8), np.nan)] * 8
    make_run(tmp_path / "r", {Site(0, "mlp", "gate"): broken,
             Site(0, "mlp", "hidden"): [np.zeros((4, 8))] * 8,
             Site(0, "mlp", "out"): draws(0)})  # fmt: skip
    page = shown(Library(tmp_path), "?a=r")
    assert not page.error
    run = Library(tmp_path).run("r")
    found = predicted_formats(run, run_formats(run))
    assert math.isnan(found[0].level("int8:tensor", "predicted"))


def test_a_pair_is_no_side_and_without_a_run_one_is_chosen(tmp_path: Path) -> None:
    assert shown(LIBRARY, "?a=swap-naive").error
    assert "Whose formats?" in text(shown(LIBRARY, "").content)
    assert "ffn-probe record" in shown(Library(tmp_path), "").command


def test_a_folder_with_a_hostile_name_stays_text(tmp_path: Path) -> None:
    name = "x'; rm -rf $HOME #<b>"
    make_run(tmp_path / name, {Site(0, "<b>m</b>", "hidden"): draws(0)})
    page = render(Library(tmp_path), "/quantization", "?a=x%27%3B+rm+-rf+%24HOME+%23%3Cb%3E")
    assert page.command.startswith("ffn-probe show '")
    assert "'\"'\"'" in page.command
    for graph in of(page.content, "Graph"):
        assert "<b>m" not in json.dumps(graph.figure.to_dict()["layout"], default=str)
        for trace in graph.figure.data:
            for words in (trace.text, trace.hovertext, trace.name):
                assert "<b>m" not in str(words)
                assert "#<b>" not in str(words)
