"""The swap lab."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dashboard.components.page import Page
from dashboard.data import Library
from dashboard.files import written
from dashboard.routes import query_of, render
from ffn_probe.anatomy import Site
from ffn_probe.measures import MEASURES
from tests.compare.made_runs import draws, make_run
from tests.dashboard.square import RUNS, square
from tests.dashboard.trees import links, of, rows, text

CELLS = tuple(RUNS)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(square(tmp_path_factory.mktemp("square")))


def shown(library: Library, query: str = "") -> Page:
    return render(library, "/swaps", query)


def means(library: Library, measure: str, role: str) -> list[float]:
    """Return the mean over the layers of each cell, straight from the runs."""
    found = []
    for name in CELLS:
        frame = library.run(name).measures([measure])
        found.append(float(frame[frame["role"] == role]["value"].mean()))
    return found


def effects(page: Page) -> dict[str, dict[str, object]]:
    frame = page.data["effects"]
    whole = frame[frame["layer"] == -1]
    return {str(row["effect"]): row for row in whole.to_dict("records")}


# ---- the 2 x 2 --------------------------------------------------------------------------


def test_the_four_runs_are_found_by_how_they_were_built(library: Library) -> None:
    page = shown(library)
    frame = page.data["cells"]
    assert dict(zip(frame["choice"], frame["run"], strict=True)) == {
        "layernorm, gelu mlp": "ln-gelu", "rmsnorm, gelu mlp": "rms-gelu",
        "layernorm, silu glu": "ln-swiglu", "rmsnorm, silu glu": "rms-swiglu",
    }  # fmt: skip
    found = links(page.content)
    assert found["ln-gelu"] == "/quantization?a=ln-gelu"  # the last: the table of choices
    assert found["ln-gelu \u2192 rms-swiglu"] == "/compare?a=ln-gelu&b=rms-swiglu"
    assert "All runs saw the same inputs" in text(page.content)


@pytest.mark.parametrize("measure", ["rms", "kurtosis_fisher", "absmax", "zero_share"])
def test_effects_are_those_of_the_recorded_values(library: Library, measure: str) -> None:
    found = effects(shown(library, f"?measure={measure}&role=hidden"))
    v00, v10, v01, v11 = means(library, measure, "hidden")
    expected = {
        "rmsnorm for layernorm": (v10 - v00 + v11 - v01) / 2,
        "silu glu for gelu mlp": (v01 - v00 + v11 - v10) / 2,
        "interaction": v11 - v10 - v01 + v00,
        "total": v11 - v00,
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-6, abs=1e-12), name
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]


def test_runs_of_one_depth_need_no_note(library: Library) -> None:
    assert "layers that all cells have" not in text(shown(library).content)


def test_an_interaction_over_a_fifth_is_called_not_separable(library: Library) -> None:
    page = shown(library, "?measure=kurtosis_fisher&role=gate")
    found = effects(page)
    share = abs(found["interaction"]["value"] / found["total"]["value"])  # type: ignore[operator]
    assert share > 0.2
    assert "Main effects and interaction: not separable" in text(page.content)
    calm = effects(shown(library, "?measure=absmax&role=hidden"))
    assert abs(calm["interaction"]["value"] / calm["total"]["value"]) < 0.2  # type: ignore[operator]
    assert calm["total"]["separable"]


def test_levels_in_db_are_compared_as_noise_powers_and_said_to_be(library: Library) -> None:
    page = shown(library, "?measure=sqnr_int8_token&role=hidden")
    run = library.run("ln-gelu")
    powers = [
        10 ** (-run.summary(site).quant.sqnr_db("int8:token") / 10)
        for site in run.sites
        if site.role == "hidden"
    ]
    assert effects(page)["total"]["v00"] == pytest.approx(np.mean(powers), rel=1e-6)
    assert "Levels in dB do not add" in text(page.content)


def test_a_measure_without_folds_says_what_its_floor_rests_on(library: Library) -> None:
    page = shown(library, "?measure=he_kurtosis&role=hidden")
    assert "this measure is kept by fold nowhere, and there are few layers" in text(
        page.content
    )
    assert "this measure is not kept by fold, so there is no floor" in text(page.content)


def test_one_layer_of_the_address_is_shown_by_itself(library: Library) -> None:
    page = shown(library, "?layer=1")
    assert "Layer 1: " in text(page.content)
    frame = page.data["effects"]
    by_layer = frame[(frame["layer"] == 1) & (frame["effect"] == "total")]
    assert len(by_layer) == 1


@pytest.mark.parametrize("entry", MEASURES[::9], ids=lambda entry: entry.name)
def test_no_measure_breaks_the_page(library: Library, entry: object) -> None:
    assert not shown(library, f"?measure={entry.name}&role=gate").error  # type: ignore[attr-defined]


def test_unknown_choices_are_said_with_what_is_possible(library: Library) -> None:
    for query in ("?norm0=batchnorm", "?act1=relu", "?measure=x", "?role=x", "?r00=ln-swiglu"):
        page = shown(library, query)
        assert page.error, query
        assert "Known" in text(page.content)


# ---- distributions and choices ----------------------------------------------------------


def test_small_multiples_are_gate_hidden_and_out_of_four_cells_on_shared_axes(
    library: Library,
) -> None:
    graphs = of(shown(library).content, "Graph")
    figure = next(g.figure for g in graphs if len(g.figure.data) == 12)
    ranges = [figure.layout[f"xaxis{i}"].range for i in range(1, 13)]
    assert [len(set(ranges[row * 4 : row * 4 + 4])) for row in range(3)] == [1, 1, 1]


def test_choices_are_marked_by_whether_they_keep_the_target(library: Library) -> None:
    def signs(query: str) -> dict[str, str]:
        found = [row for row in rows(shown(library, query).content) if len(row) == 16]
        return {row[1].split()[0]: row[0] for row in found}

    assert signs("?need=int8:token&target=30") == dict.fromkeys(CELLS, "\u2713")
    lost = signs("?need=int8:tensor&target=30")
    for name in CELLS:
        run = library.run(name)
        worst = min(run.summary(s).quant.sqnr_db("int8:tensor") for s in run.sites
                    if s.role in {"normed", "hidden"})  # fmt: skip
        assert lost[name] == ("\u2713" if worst >= 30 else "\u2715")


def test_the_twin_holds_effects_choices_and_cells(library: Library) -> None:
    tables = json.loads(written(shown(library), "json", "/swaps", query_of(""))[0])["tables"]
    assert set(tables) == {"effects", "choices", "cells"}
    assert {row["run"] for row in tables["choices"]} == set(CELLS)


# ---- folders of other shapes ------------------------------------------------------------


def test_a_missing_cell_is_named_with_the_command_to_record_it(tmp_path: Path) -> None:
    page = shown(Library(square(tmp_path, "ln-gelu", "rms-gelu", "ln-swiglu")))
    said = text(page.content)
    assert "rmsnorm, silu glu is not recorded." in said
    assert f"ffn-probe record MODEL --data FILE --to {tmp_path}/rmsnorm-silu-glu" in said
    assert "effects" not in page.data
    assert "a cell is missing" in said


def test_one_run_alone_is_no_square(tmp_path: Path) -> None:
    page = shown(Library(square(tmp_path, "ln-gelu")))
    said = text(page.content)
    assert "Only one norm and one activation is chosen" in said
    lines = of(page.content, "Graph")[0].figure
    assert lines.layout.xaxis.ticktext == ("gelu mlp",)


def test_several_runs_of_a_cell_are_a_choice(tmp_path: Path) -> None:
    library = Library(square(tmp_path, "ln-gelu", again="ln-gelu"))
    keys = {s.to_plotly_json()["props"].get("data-key") for s in
            of(shown(library).content, "Select")}  # fmt: skip
    assert "r00" in keys
    assert "r11" not in keys
    page = shown(library, "?r00=again")
    frame = page.data["cells"]
    assert frame["run"].tolist()[0] == "again"


def test_runs_that_saw_other_inputs_are_no_paired_comparison(tmp_path: Path) -> None:
    square(tmp_path, "ln-gelu")
    library = Library(square(tmp_path, "rms-gelu", inputs="other"))
    said = text(shown(library).content)
    assert "Not valid as a paired comparison" in said


def test_runs_of_other_depths_are_compared_on_the_layers_they_share(tmp_path: Path) -> None:
    square(tmp_path, "ln-gelu", layers=1)
    said = text(shown(Library(square(tmp_path, "rms-gelu"))).content)
    assert "effects are of the 1 of 2 layers that all cells have" in said


def test_a_run_that_cannot_be_read_is_left_out_with_the_reason(tmp_path: Path) -> None:
    library = Library(square(tmp_path, "ln-gelu", zz="ln-gelu"))
    for part in (tmp_path / "zz" / "quant").iterdir():
        part.write_bytes(b"no parquet")
    page = shown(library, "?who=all")
    assert "zz is left out:" in text(page.content)
    assert page.data["choices"]["run"].tolist() == ["ln-gelu"]


def test_an_empty_folder_says_what_to_record(tmp_path: Path) -> None:
    page = shown(Library(tmp_path))
    assert "Nothing recorded yet" in text(page.content)
    assert [text(h) for h in of(page.content, "H1")] == ["Swap lab"]
    assert page.command.startswith("ffn-probe record")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    name = "<img src=x>"
    make_run(tmp_path / name, {Site(0, "<b>m</b>", role): draws(i) for i, role in
             enumerate(("gate", "hidden", "out"))})  # fmt: skip
    page = shown(Library(tmp_path))
    for graph in of(page.content, "Graph"):
        assert "<img" not in json.dumps(graph.figure.to_dict(), default=str)
    assert page.command == f"ffn-probe show '{tmp_path}/<img src=x>' --measure rms"


def test_a_cell_takes_the_run_that_saw_the_inputs_of_the_others(tmp_path: Path) -> None:
    samples = Path(__file__).parents[2] / "sample_runs"
    for name in ("ln-gelu", "ln-swiglu", "rms-gelu", "rms-swiglu"):
        shutil.copytree(samples / name, tmp_path / name)
    strange = tmp_path / "a-first-by-name"
    shutil.copytree(samples / "ln-gelu", strange)
    made = json.loads((strange / "run.json").read_text())
    made["folds"] = [fold | {"hash": f"{k:016x}"} for k, fold in enumerate(made["folds"])]
    (strange / "run.json").write_text(json.dumps(made))
    page = render(Library(tmp_path), "/swaps", "")
    assert "All runs saw the same inputs" in text(page.content)
    picked = render(Library(tmp_path), "/swaps", "?r00=a-first-by-name")
    assert "Not valid as a paired comparison" in text(picked.content)
