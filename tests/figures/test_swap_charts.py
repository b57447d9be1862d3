"""The 2 x 2 of recorded runs: levels, effects, lines, panels, choices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Norm, Site
from ffn_probe.figures.choices import candidate, recorded_loss, traits
from ffn_probe.figures.factorial import (
    CELLS,
    Choice,
    Level,
    added_unit,
    layer_effects,
    levels,
    pooled_effects,
)
from ffn_probe.figures.interaction import interaction_chart
from ffn_probe.figures.multiples import multiples_chart, panels
from ffn_probe.figures.site_formats import predicted_formats, run_formats
from ffn_probe.measures import measure
from ffn_probe.runs import Run
from ffn_probe.sketches import BitHistogram
from tests.compare.made_runs import draws, made_blocks, make_run

FACTORS = ("norm", "activation")
EVIL = "<b>n</b>"


def run_of(path: Path, **fields: object) -> Run:
    sites = {Site(i, f"mlp.{i}", "hidden"): [x * (i + 1) for x in draws(i, folds=8)]
             for i in range(2)}  # fmt: skip
    return make_run(path / "run", sites, **fields)  # type: ignore[arg-type]


# ---- levels -----------------------------------------------------------------------------


def test_levels_are_the_measure_of_the_whole_run_and_of_each_fold(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    found = levels(run, "rms", "hidden")
    assert [level.layer for level in found] == [0, 1]
    for i, level in enumerate(found):
        values = [x * (i + 1) for x in draws(i, folds=8)]
        assert level.value == pytest.approx(np.sqrt(np.mean(np.concatenate(values) ** 2)))
        assert list(level.folds.values()) == pytest.approx(
            [np.sqrt(np.mean(x**2)) for x in values]
        )


def test_levels_in_db_become_noise_over_signal(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (law, _) = levels(run, "sqnr_int8_law", "hidden")
    (crest, _) = levels(run, "crest", "hidden")
    assert law.value == pytest.approx(crest.value**2 / (12 * 127**2), rel=1e-6)
    assert added_unit(measure("sqnr_int8_law")) == "noise / signal"
    assert added_unit(measure("crest")) == ""


def test_a_mixture_holds_the_mean_over_its_experts(tmp_path: Path) -> None:
    sites = {Site(0, "moe", "hidden", k): [x * (k + 1) for x in draws(k)] for k in range(3)}
    (level,) = levels(make_run(tmp_path / "run", sites), "absmax", "hidden")
    tops = [np.abs(np.concatenate(values)).max() for values in sites.values()]
    assert level.value == pytest.approx(np.mean(tops))
    assert len(level.folds) == 16


def test_a_measure_of_channels_has_no_folds(tmp_path: Path) -> None:
    found = levels(run_of(tmp_path), "he_kurtosis", "hidden")
    assert [level.folds for level in found] == [{}, {}]
    assert levels(run_of(tmp_path / "b"), "rms", "gate") == ()


# ---- effects ----------------------------------------------------------------------------


def cells(
    table: Sequence[float], *, noise: float = 0.0, folds: int = 8, layers: int = 1
) -> Mapping[str, Sequence[Level]]:
    """Return a 2 x 2 whose folds scatter about its values."""
    found = {}
    for k, (name, value) in enumerate(zip(CELLS, table, strict=True)):
        wiggle = np.random.default_rng(k).standard_normal(folds) * noise
        wiggle -= wiggle.sum() / max(folds, 1)
        by_fold = {i: value + float(w) for i, w in enumerate(wiggle)}
        found[name] = [Level(i, value, by_fold) for i in range(layers)]
    return found


def test_main_effects_are_averages_that_add_to_the_total() -> None:
    found = pooled_effects(cells([1.0, 2.0, 5.0, 7.0]), measure("rms"), FACTORS)
    assert found is not None
    made = found.factorial
    assert [v.value for v in made.main] == pytest.approx([1.5, 4.5])
    assert made.interaction.value == pytest.approx(1.0)
    assert made.total.value == pytest.approx(6.0)
    assert made.separable
    assert found.spread == "folds"


def test_an_interaction_over_a_fifth_of_the_total_is_not_separable() -> None:
    found = pooled_effects(cells([0.0, 1.0, 1.0, 3.0]), measure("rms"), FACTORS)
    assert found is not None
    assert not found.factorial.separable
    assert "not separable" in found.factorial.sentence


def test_an_effect_within_the_noise_of_the_folds_is_said_to_be() -> None:
    loud = pooled_effects(cells([1.0, 1.01, 3.0, 3.01], noise=0.3), measure("rms"), FACTORS)
    calm = pooled_effects(cells([1.0, 1.01, 3.0, 3.01], noise=1e-4), measure("rms"), FACTORS)
    assert loud is not None
    assert calm is not None
    assert not loud.factorial.main[0].excludes_zero
    assert "norm +0.01" in loud.factorial.sentence
    assert "cannot be told from zero" in loud.factorial.sentence.split(";")[0]
    assert calm.factorial.main[0].excludes_zero
    assert loud.factorial.main[1].excludes_zero


def test_the_noise_of_a_largest_value_does_not_shrink_with_the_folds() -> None:
    table = cells([1.0, 2.0, 5.0, 7.0], noise=0.1)
    widths = []
    for name in ("rms", "absmax"):
        found = pooled_effects(table, measure(name), FACTORS)
        assert found is not None
        widths.append(found.factorial.total.high - found.factorial.total.low)
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(8), rel=0.05)


def test_without_folds_the_layers_give_the_interval_and_else_there_is_none() -> None:
    many = pooled_effects(
        cells([1.0, 2.0, 5.0, 7.0], folds=0, layers=4), measure("rms"), FACTORS
    )
    few = pooled_effects(
        cells([1.0, 2.0, 5.0, 7.0], folds=0, layers=2), measure("rms"), FACTORS
    )
    assert many is not None
    assert few is not None
    assert many.spread == "layers"
    assert few.spread == "none"
    assert math.isnan(few.factorial.total.low)
    assert "too few folds" in few.factorial.sentence


def test_the_value_of_the_whole_run_stands_whatever_its_folds_say() -> None:
    table = {name: [Level(0, value, dict.fromkeys(range(8), value / 2))]
             for name, value in zip(CELLS, (1.0, 2.0, 5.0, 7.0), strict=True)}  # fmt: skip
    found = layer_effects(table, measure("absmax"), FACTORS)
    assert [effect.factorial.cells for effect in found] == [pytest.approx((1.0, 2.0, 5.0, 7.0))]


def test_only_layers_that_all_cells_have_count_and_a_missing_cell_is_no_square() -> None:
    table = dict(cells([1.0, 2.0, 5.0, 7.0], layers=3))
    table["v11"] = table["v11"][:1]
    assert [e.layer for e in layer_effects(table, measure("rms"), FACTORS)] == [0]
    del table["v11"]
    assert pooled_effects(table, measure("rms"), FACTORS) is None
    assert layer_effects(table, measure("rms"), FACTORS) == ()


def test_the_choice_of_a_run_names_every_kind_in_it(tmp_path: Path) -> None:
    sites = {Site(i, f"mlp.{i}", "hidden"): draws(i) for i in range(2)}
    one, other = made_blocks(sites)
    other = replace(other, norm=Norm("layernorm"), activation="gelu")
    run = make_run(tmp_path / "run", sites, blocks=[one, other])
    assert Choice.of(run) == Choice("rmsnorm, layernorm", "silu mlp, gelu mlp")


# ---- lines ------------------------------------------------------------------------------


def test_lines_hold_the_mean_of_the_layers_and_break_at_a_missing_cell() -> None:
    table = dict(cells([1.0, 2.0, 5.0, 7.0]))
    table["v00"] = [Level(0, 1.0, {}), Level(1, 3.0, {})]
    del table["v11"]
    figure = interaction_chart(table, norms=(EVIL, "rms"), activations=("a", "b"), label="x")
    thick = [t for t in figure.data if t.name]
    assert list(thick[0].y) == [2.0, 5.0]
    assert list(thick[1].y) == [2.0, None]
    thin = [t for t in figure.data if not t.name]
    assert [list(line.y) for line in thin] == [
        [1.0, 5.0, None, 3.0, None, None],
        [2.0, None, None],
    ]
    assert thick[0].name.startswith("&lt;b&gt;")


# ---- panels -----------------------------------------------------------------------------


def test_panels_of_a_row_share_their_bins_and_hold_all_of_a_distribution() -> None:
    narrow, wide = (BitHistogram.of(np.random.default_rng(i).standard_normal(4000) * s)
                    for i, s in enumerate((1.0, 8.0)))  # fmt: skip
    found = panels([("gate", [narrow, wide, None])], ["a", "b", "c"])
    one, other, none = found.cells[0]
    assert none is None
    assert one is not None
    assert other is not None
    assert np.array_equal(one.edges, other.edges)
    for density in (one, other):
        assert (density.b * np.diff(density.edges)).sum() == pytest.approx(1)


def test_small_multiples_are_one_axis_pair_a_panel_with_shared_ranges() -> None:
    histogram = BitHistogram.of(np.random.default_rng(0).standard_normal(500))
    table = [("gate", [histogram, histogram]), ("out", [histogram, None])]
    figure = multiples_chart(panels(table, [EVIL, "b"]))
    assert len(figure.data) == 3
    layout = figure.layout
    assert layout.xaxis1.range == layout.xaxis2.range
    assert layout.yaxis1.range == layout.yaxis2.range
    words = [note.text for note in layout.annotations]
    assert words == ["&lt;b&gt;n&lt;/b&gt;", "b", "not recorded"]
    assert layout.xaxis1.domain[1] < layout.xaxis2.domain[0]
    assert layout.yaxis3.domain[1] < layout.yaxis1.domain[0]


# ---- choices ----------------------------------------------------------------------------


def test_a_choice_is_feasible_when_every_input_of_a_product_keeps_the_target(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path)
    found = traits(run, predicted_formats(run, run_formats(run)))
    worst = min(s.level("e4m3fn:tensor", "predicted") for s in found.formats)
    kept = candidate("r", found, key="e4m3fn:tensor", target=30.0)
    lost = candidate("r", found, key="e4m3fn:tensor", target=40.0)
    assert kept.feasible
    assert not lost.feasible
    assert kept.worst_db == pytest.approx(worst)
    top = max(np.abs(np.concatenate(draws(i, folds=8)) * (i + 1)).max() for i in range(2))
    assert kept.room_fp16 == pytest.approx(65504 / top, rel=1e-6)


def test_a_format_that_is_not_known_makes_nothing_feasible(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    found = candidate(
        "r",
        traits(run, predicted_formats(run, run_formats(run))),
        key="mxfp8:block",
        target=1.0,
    )
    assert not found.feasible
    assert math.isnan(found.worst_db)


def test_a_loss_is_read_from_a_tag_and_is_nothing_without_one(tmp_path: Path) -> None:
    assert recorded_loss(run_of(tmp_path, tags={"loss": "1.43"})) == (1.43, "tag loss")
    assert math.isnan(recorded_loss(run_of(tmp_path / "b", tags={"loss": "low"}))[0])
