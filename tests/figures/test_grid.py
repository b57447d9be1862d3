"""Layers times roles: the score of a cell, what one side lacks, mixtures, other depths."""

import math
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import Drift, compare
from ffn_probe.errors import UnknownName
from ffn_probe.figures.grid import (
    Cell,
    drift_grid,
    ordered_roles,
    score,
    shade,
    ticks,
)
from ffn_probe.figures.heatmap import drift_heatmap, measure_heatmap
from ffn_probe.figures.measure_grid import measure_grid
from ffn_probe.figures.theme import SCALE, THRESHOLD_AT, color_at
from ffn_probe.runs import Run
from tests.compare.made_runs import draws, make_run

ROLES = ("resid", "gate", "hidden")


def sites(layers: int, roles: tuple[str, ...] = ROLES) -> list[Site]:
    return [Site(i, f"layers.{i}.mlp", role) for i in range(layers) for role in roles]


def run(path: Path, listed: list[Site], factors: dict[int, float] | None = None) -> Run:
    values = {
        site: [x * np.float32((factors or {}).get(site.layer, 1.0)) for x in draws(site.layer)]
        for site in listed
    }
    return make_run(path, values, inputs="x")


@pytest.fixture
def drift(tmp_path: Path) -> Drift:
    """Layer 1 is 1.6 times as large; `resid` only in a, `out` only in b."""
    a = run(tmp_path / "a", sites(3))
    return compare(a, run(tmp_path / "b", sites(3, ("gate", "hidden", "out")), {1: 1.6}))


def cell(drift: Drift, role: str, layer: int) -> Cell:
    grid = drift_grid(drift)
    return grid.cells[grid.roles.index(role)][layer]


def test_rows_are_roles_in_the_order_of_the_flow_and_columns_layers(drift: Drift) -> None:
    grid = drift_grid(drift)
    assert grid.roles == ("resid", "gate", "hidden", "out")
    assert [column.label for column in grid.columns] == ["0", "1", "2"]


def test_a_cell_says_how_far_over_its_threshold_a_site_is(drift: Drift) -> None:
    found = cell(drift, "gate", 1)
    assert found.mark == "FAIL"
    assert found.value == pytest.approx(math.log2(1.6) / math.log2(1.1), rel=0.2)
    assert "layer 1 gate" in found.text
    assert found.name == "layers.1.mlp/gate"


def test_what_did_not_move_scores_nothing(drift: Drift) -> None:
    still = cell(drift, "gate", 0)
    assert (still.value, still.mark, still.raw) == (0.0, "PASS", 0.0)
    assert all(score(s) == 0 for s in drift.sites if s.layer != 1)


def test_what_is_on_one_side_only_is_marked_with_the_side(drift: Drift) -> None:
    assert cell(drift, "resid", 0).mark == "only_a"
    assert cell(drift, "resid", 0).text == "layer 0 resid: only in a"
    assert cell(drift, "out", 2).mark == "only_b"
    assert cell(drift, "out", 2).text == "layer 2 out: only in b"


def test_layers_of_the_candidate_alone_have_columns_of_their_own(tmp_path: Path) -> None:
    deeper = compare(run(tmp_path / "a", sites(3)), run(tmp_path / "b", sites(5)))
    grid = drift_grid(deeper)
    assert [column.label for column in grid.columns] == ["0", "(1)", "1", "(3)", "2"]
    assert {row[1].mark for row in grid.cells} == {"only_b"}


def test_layers_of_the_reference_alone_stay_in_their_place(tmp_path: Path) -> None:
    shallower = compare(run(tmp_path / "a", sites(5)), run(tmp_path / "b", sites(3)))
    grid = drift_grid(shallower)
    assert [column.label for column in grid.columns] == ["0", "1", "2", "3", "4"]
    assert [grid.cells[0][j].mark for j in range(5)] == ["PASS", "only_a"] * 2 + ["PASS"]


def test_a_mixture_shows_its_worst_expert(tmp_path: Path) -> None:
    experts = [Site(0, "mlp", "gate", e) for e in range(4)]
    plain = {site: draws(site.expert) for site in experts}
    moved = {s: [x * (2 if s.expert == 2 else 1) for x in v] for s, v in plain.items()}
    a, b = (make_run(tmp_path / n, v, inputs="x") for n, v in (("a", plain), ("b", moved)))
    found = drift_grid(compare(a, b)).cells[0][0]
    assert (found.mark, found.name) == ("FAIL", "mlp/gate#2")


def test_colour_begins_at_the_threshold() -> None:
    assert shade(1.0) == pytest.approx(THRESHOLD_AT, abs=0.001)
    assert shade(math.nan) == shade(0.0) == 0.0
    assert shade(1e9) == shade(math.inf) == 1.0
    assert color_at(1.5) == SCALE[-1][1]
    assert color_at(-1.0) == SCALE[0][1]


def test_a_measure_is_a_grid_of_its_values(tmp_path: Path) -> None:
    made = run(tmp_path / "a", sites(2), {1: 3.0})
    grid = measure_grid(made, "rms")
    frame = made.measures(["rms"])
    assert sorted(grid.values.ravel()) == pytest.approx(sorted(frame["value"]))
    gates = measure_grid(made, "gate_open")
    assert {c.mark for c in gates.cells[gates.roles.index("hidden")]} == {"absent"}
    with pytest.raises(UnknownName, match="rms"):
        measure_grid(made, "rmss")


def test_a_measure_beyond_float32_is_drawn_at_its_end(tmp_path: Path) -> None:
    tiny = {Site(0, "mlp", "gate"): [np.full((4, 2), 1e-42, np.float32)] * 16}
    figure = measure_heatmap(make_run(tmp_path / "a", tiny), "headroom_fp16")
    assert figure.data[0].z[0][0] == np.finfo(np.float32).max


def test_a_measure_that_applies_nowhere_says_so(tmp_path: Path) -> None:
    figure = measure_heatmap(run(tmp_path / "a", sites(2)), "corr_gate_value")
    assert "applies to no site" in figure.layout.annotations[0].text


def test_heatmap_has_words_site_names_and_hatching(drift: Drift) -> None:
    figure = drift_heatmap(drift)
    cells, hatched = figure.data
    assert cells.z.dtype == np.float32
    assert cells.customdata[1][1] == "layers.1.mlp/gate"
    assert cells.customdata[0][0] == ""
    assert "only in a" in cells.hovertext[0][0]
    assert len(hatched.y) == 6
    assert hatched.marker.pattern.shape == "/"
    assert figure.layout.xaxis.title.text == "layer"
    assert hatched.text == ("A",) * 3 + ("B",) * 3
    assert [list(row) for row in cells.text] == [
        ["", "", ""],
        *[["", "\u2715", ""]] * 2,
        [""] * 3,
    ]


def test_names_from_a_run_are_text_in_a_chart(tmp_path: Path) -> None:
    listed = [Site(0, "layers.0", "<b>x</b>")]
    figure = measure_heatmap(run(tmp_path / "a", listed), "rms")
    assert "&lt;b&gt;" in figure.data[0].text[0][0]


def test_unknown_roles_come_last_and_gradients_after_values() -> None:
    roles = ordered_roles(["zz", "grad_gate", "out", "aa", "gate"])
    assert roles == ("gate", "out", "grad_gate", "aa", "zz")


def test_few_columns_are_all_written_out_and_many_are_thinned(drift: Drift) -> None:
    columns = drift_grid(drift).columns
    assert ticks(columns) == [0, 1, 2]
    assert len(ticks(columns * 40, most=24)) <= 24
