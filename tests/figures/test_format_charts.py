"""Number formats over sites: levels, survival, budget, crest, losses and headroom."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.figures.clipping import clipping_chart, lost_values, pooled
from ffn_probe.figures.crest import CROSSOVER, E4M3_DB, crest_chart, level_of
from ffn_probe.figures.error_budget import budget_chart, error_budget, total_db
from ffn_probe.figures.headroom import LIMITS, beyond, headroom_chart, peaks
from ffn_probe.figures.site_formats import (
    EIGHT_BITS,
    SiteFormats,
    best,
    chosen_sites,
    keys_of,
    predicted_formats,
    rescue,
    run_formats,
    survival,
)
from ffn_probe.figures.sqnr import changed_grid, format_columns, format_grid, sqnr_heatmap
from ffn_probe.formats import quantize
from ffn_probe.sketches.quant_noise import Noise
from tests.compare.made_runs import draws, make_run

NAN, INF = math.nan, math.inf
EVIL = "<b>x</b>"


def noise(level: float, *, count: int = 100, clipped: int = 0, zeroed: int = 0) -> Noise:
    """Return the totals of a format with a level in dB, of a signal of 50."""
    return Noise(count, 50.0, 50.0 * 10 ** (-level / 10), clipped, zeroed)


def made(
    role: str,
    layer: int = 0,
    *,
    levels: Mapping[str, float] | None = None,
    predicted: Mapping[str, float] | None = None,
    absmax: float = 4.0,
    crest: float = 4.0,
    expert: int = -1,
    noises: Mapping[str, Noise] | None = None,
) -> SiteFormats:
    site = Site(layer, f"layers.{layer}.mlp", role, expert)
    found = {key: noise(level) for key, level in (levels or {}).items()} | dict(noises or {})
    return SiteFormats(site, absmax, absmax / 2, crest, found, dict(predicted or {}))


# ---- levels -----------------------------------------------------------------------------


def test_a_level_is_signal_over_noise_in_db_and_a_difference_is_of_the_two_views() -> None:
    site = made("hidden", levels={"int8:tensor": 30.0}, predicted={"int8:tensor": 28.0})
    assert site.level("int8:tensor") == pytest.approx(30.0)
    assert site.level("int8:tensor", "predicted") == 28.0
    assert site.level("int8:tensor", "difference") == pytest.approx(2.0)
    assert math.isnan(site.level("mxfp4:block"))


def test_a_difference_of_two_that_are_equal_without_noise_is_nothing() -> None:
    site = made(
        "hidden", predicted={"fp16:none": INF}, noises={"fp16:none": Noise(1, 1.0, 0.0, 0, 0)}
    )
    assert site.level("fp16:none", "difference") == 0


def test_formats_are_listed_by_what_the_view_knows() -> None:
    predicted = {"int8:tensor": 1.0, "int4:tensor": 2.0}
    measured = {"int8:token": 30.0, "int8:tensor": 20.0}
    sites = [made("hidden", levels=measured, predicted=predicted)]
    assert keys_of(sites, "measured") == ("int8:tensor", "int8:token")
    assert keys_of(sites, "predicted") == ("int8:tensor", "int4:tensor")
    assert keys_of(sites, "difference") == ("int8:tensor",)
    assert keys_of([], "measured") == ()


def test_a_run_without_measured_noise_is_predicted_as_the_formats_quantize(
    tmp_path: Path,
) -> None:
    values = draws(3, folds=8, rows=128, channels=64, heavy=True)
    run = make_run(tmp_path / "run", {Site(0, "mlp", "hidden"): values})
    (site,) = predicted_formats(run, run_formats(run))
    assert not site.noise
    x = np.concatenate(values).astype(np.float32)
    assert site.crest == pytest.approx(np.abs(x).max() / np.sqrt(np.mean(x * x)), rel=1e-3)
    for key in ("int8:tensor", "e4m3fn:tensor", "bf16:none"):
        name, scale = key.split(":")
        stored = quantize(x, name, granularity=scale).values
        exact = 10 * math.log10(float((x**2).sum() / ((stored - x) ** 2).sum()))
        assert site.level(key, "predicted") == pytest.approx(exact, abs=0.3), key


def test_sites_are_chosen_by_role_by_what_matrix_products_read_and_by_layer() -> None:
    sites = [made("normed"), made("gate", 1), made("hidden", 1)]
    assert [s.site.role for s in chosen_sites(sites, role="inputs")] == ["normed", "hidden"]
    assert [s.site.role for s in chosen_sites(sites, layer="1")] == ["gate", "hidden"]
    assert [s.site.role for s in chosen_sites(sites, role="gate", layer="0")] == []


# ---- survival ---------------------------------------------------------------------------


def test_survival_counts_what_is_known_and_names_the_worst() -> None:
    sites = [made("hidden", i, levels={"int8:tensor": db}) for i, db in enumerate((35.0, 29.0))]
    sites.append(made("out", 2))
    found = survival(sites, "int8:tensor", 30.0, "measured")
    assert found is not None
    assert (found.held, found.known, found.worst.site.layer) == (1, 2, 1)
    assert [s.site.layer for s in found.lost] == [1]
    assert survival(sites, "mxfp8:block", 30.0, "measured") is None


def test_of_two_formats_that_hold_as_much_the_cheaper_scale_is_taken() -> None:
    both = {"int8:token": 40.0, "e4m3fn:tensor": 31.0, "int8:tensor": 10.0}
    found = best([made("hidden", levels=both)], EIGHT_BITS, 30.0, "measured")
    assert found is not None
    assert found.key == "e4m3fn:tensor"
    assert best([made("hidden")], EIGHT_BITS, 30.0, "measured") is None


def test_a_lost_site_takes_the_first_format_that_holds_else_bf16() -> None:
    site = made("hidden", levels={"int8:tensor": 20.0, "int8:token": 33.0})
    assert rescue(site, 30.0, "measured") == "int8:token"
    assert rescue(site, 34.0, "measured") == "bf16"


# ---- the heatmap ------------------------------------------------------------------------


def test_columns_are_layers_within_a_role_in_the_order_of_the_data_flow() -> None:
    sites = [made("out", 1), made("hidden", 1), made("hidden", 0)]
    assert format_columns(sites, [made("gate", 0)]) == (
        ("gate", 0), ("hidden", 0), ("hidden", 1), ("out", 1),
    )  # fmt: skip


def test_a_mixture_shows_the_expert_that_keeps_the_least() -> None:
    sites = [made("hidden", levels={"int8:tensor": db}, expert=i)
             for i, db in enumerate((35.0, 21.0, 28.0))]  # fmt: skip
    grid = format_grid(sites, ["int8:tensor"], [("hidden", 0)], "measured")
    assert grid.values.tolist() == [[pytest.approx(21.0)]]
    assert grid.names == (("layers.0.mlp/hidden#1",),)
    assert "(expert 1)" in grid.texts[0][0]


def test_a_change_is_b_less_a_and_unknown_where_one_is() -> None:
    columns = [("hidden", 0), ("out", 0)]
    a = format_grid([made("hidden", levels={"int8:tensor": 30.0})], ["int8:tensor"], columns,
                    "measured")  # fmt: skip
    b = format_grid([made("hidden", levels={"int8:tensor": 24.0}), made("out")],
                    ["int8:tensor"], columns, "measured")  # fmt: skip
    assert changed_grid(a, b).values[0, 0] == pytest.approx(-6.0)
    assert math.isnan(changed_grid(a, b).values[0, 1])


def test_numbers_stand_in_the_cells_only_where_they_fit() -> None:
    def chart(count: int) -> object:
        sites = [made("hidden", i, levels={"int8:tensor": 30.0}) for i in range(count)]
        columns = format_columns(sites)
        grid = format_grid(sites, ["int8:tensor"], columns, "measured")
        return sqnr_heatmap(grid, target=30.0).data[0]

    assert chart(4).text[0][0] == "30"  # type: ignore[attr-defined]
    assert chart(80).xgap == 1  # type: ignore[attr-defined]
    assert chart(200).xgap == 0  # type: ignore[attr-defined]
    assert chart(80).text is None  # type: ignore[attr-defined]


def test_a_level_just_below_the_target_is_not_rounded_up_to_it() -> None:
    levels = (29.7, 30.2, 27.6, INF)
    sites = [made("hidden", i, levels={"k": db}) for i, db in enumerate(levels)]
    grid = format_grid(sites, ["k"], format_columns(sites), "measured")
    written = sqnr_heatmap(grid, target=30.0).data[0].text[0]
    assert list(written) == ["29", "30", "28", "\u221e"]


def test_a_small_change_for_the_worse_is_written_as_none() -> None:
    a, b = (format_grid([made("hidden", levels={"k": db})], ["k"], [("hidden", 0)], "measured")
            for db in (30.0, 29.7))  # fmt: skip
    assert sqnr_heatmap(changed_grid(a, b), target=30.0, change=True).data[0].text[0][0] == "0"


def test_the_target_is_where_the_colours_turn_and_values_beyond_are_clipped() -> None:
    sites = [made("hidden", levels={"int8:tensor": 90.0})]
    grid = format_grid(sites, ["int8:tensor"], [("hidden", 0)], "measured")
    cells = sqnr_heatmap(grid, target=35.0).data[0]
    assert (cells.zmin + cells.zmax) / 2 == 35.0
    assert cells.z[0][0] == cells.zmax
    assert cells.z.dtype == np.float32


def test_a_column_that_only_the_other_run_has_is_hatched_and_named() -> None:
    grid = format_grid([made("hidden", levels={"int8:tensor": 30.0})], ["int8:tensor"],
                       [("hidden", 0), ("out", 0)], "measured")  # fmt: skip
    cells, hatched = sqnr_heatmap(grid, target=30.0).data
    assert list(hatched.x) == [1]
    assert hatched.hovertext[0] == "layer 0 out: not in this run"
    assert cells.customdata[0][1] == ""


# ---- crest ------------------------------------------------------------------------------


def test_int8_and_e4m3_cross_at_a_crest_factor_of_11_7() -> None:
    assert pytest.approx(11.7, abs=0.05) == CROSSOVER
    assert pytest.approx(31.5, abs=0.05) == E4M3_DB


def test_a_level_is_measured_where_it_was_else_predicted() -> None:
    both = made("hidden", levels={"int8:tensor": 30.0}, predicted={"int8:tensor": 20.0})
    assert level_of(both, "int8:tensor") == (pytest.approx(30.0), "measured")
    assert level_of(made("x", predicted={"int8:tensor": 20.0}), "int8:tensor") == (
        20.0,
        "predicted",
    )


def test_points_lie_at_their_crest_and_the_law_on_its_line() -> None:
    site = made("hidden", levels={"int8:tensor": 30.0, "e4m3fn:tensor": 31.0}, crest=20.0)
    law, flat, int8, e4m3 = crest_chart([("run", [site])]).data
    assert law.y[0] - law.y[-1] == pytest.approx(
        20 * math.log10(law.x[-1] / law.x[0]), abs=1e-3
    )
    assert set(flat.y) == {E4M3_DB}
    assert (int8.x[0], int8.y[0], e4m3.y[0]) == (20.0, pytest.approx(30.0), pytest.approx(31.0))


def test_a_constant_or_empty_site_has_no_point() -> None:
    chart = crest_chart([("run", [made("hidden", crest=NAN, predicted={"int8:tensor": 3.0})])])
    assert all(not trace.x for trace in chart.data[2:])


# ---- the budget -------------------------------------------------------------------------


def test_noises_add_in_power_so_30_and_33_db_keep_28_24() -> None:
    sites = [made("normed", levels={"k": 33.0}), made("hidden", levels={"k": 30.0})]
    budget = error_budget(sites, "k", "measured")
    assert total_db(budget) == pytest.approx(28.24, abs=0.01)
    assert [spent.role for spent in budget] == ["hidden", "normed"]
    assert budget[0].share == pytest.approx(10**-3 / (10**-3 + 10**-3.3))
    assert math.fsum(spent.share for spent in budget) == pytest.approx(1)


def test_a_budget_leaves_out_what_is_not_known_and_takes_the_worst_expert() -> None:
    sites = [made("hidden", levels={"k": 40.0}, expert=0), made("hidden", levels={"k": 20.0},
             expert=1), made("out"), made("gate", levels={"k": INF})]  # fmt: skip
    (spent,) = error_budget(sites, "k", "measured")
    assert spent.name.endswith("#1")
    assert spent.share == 1
    assert math.isnan(total_db(()))


def test_bars_of_the_budget_are_stacked_by_role_in_per_cent() -> None:
    budget = error_budget([made("normed", 3, levels={"k": 20.0}), made("hidden", 3,
                          levels={"k": 10.0})], "k", "measured")  # fmt: skip
    chart = budget_chart(budget)
    assert chart.layout.barmode == "stack"
    assert {bar.name: bar.y[0] for bar in chart.data} == {
        "normed": pytest.approx(1.0), "hidden": pytest.approx(10.0),
    }  # fmt: skip
    assert chart.layout.xaxis.ticktext == ("3",)


# ---- losses -----------------------------------------------------------------------------


def test_pooled_shares_weigh_sites_by_their_values() -> None:
    sites = [made("hidden", noises={"k": noise(9, count=100, clipped=10, zeroed=50)}),
             made("out", noises={"k": noise(9, count=300, zeroed=30)})]  # fmt: skip
    lost = lost_values(sites)
    assert pooled(lost, "k") == (0.025, 0.2)
    assert [entry.site.role for entry in lost] == ["hidden", "out"]  # worst first
    assert pooled(lost, "other") == (0.0, 0.0)


def test_the_chart_of_losses_has_a_row_for_every_format() -> None:
    keys = {EVIL: noise(9, clipped=1), "int8:tensor": noise(9)}
    clipped, zeroed = clipping_chart(lost_values([made("hidden", noises=keys)])).data
    assert list(clipped.y) == ["int8:tensor", "&lt;b&gt;x&lt;/b&gt;"]
    assert list(clipped.x) == [0.0, 1.0]
    assert list(zeroed.x) == [0.0, 0.0]


# ---- headroom ---------------------------------------------------------------------------


def test_the_peak_of_a_layer_is_its_largest_role() -> None:
    found = peaks(
        [made("gate", absmax=9.0), made("out", absmax=3.0), made("out", 1, absmax=NAN)]
    )
    assert [(p.layer, p.role, p.absmax, p.p99_9) for p in found] == [(0, "gate", 9.0, 4.5)]


def test_formats_that_overflow_are_named() -> None:
    assert beyond(peaks([made("out", absmax=60_000.0)])) == ("e4m3fn", "e5m2")
    assert beyond(peaks([made("out", absmax=3.0)])) == ()
    assert LIMITS["fp16"] == 65504


def test_limits_near_the_values_are_drawn_and_far_ones_left_out() -> None:
    def drawn(absmax: float) -> set[str]:
        chart = headroom_chart([("run", peaks([made("out", absmax=absmax)]))])
        return {note.text.split()[0] for note in chart.layout.annotations}

    assert drawn(3.0) == {"e4m3fn"}
    assert drawn(4000.0) == {"e4m3fn", "e5m2", "fp16"}
    assert headroom_chart([("run", peaks([made("out")]))]).layout.yaxis.type == "log"
