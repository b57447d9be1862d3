"""The history of a training as numbers and charts, on made runs whose answers are known."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.errors import UnknownName
from ffn_probe.figures.history import (
    History,
    alarms,
    history_of,
    site_lines,
    thinned,
    unusual,
)
from ffn_probe.figures.step_grid import StepGrid, step_grid
from ffn_probe.figures.steps_heatmap import steps_ends, steps_heatmap
from ffn_probe.figures.training import training_chart
from ffn_probe.runs import QUANTILES

ROLES = ("resid", "gate", "hidden", "out")
SITES = [Site(layer, f"layers.{layer}.mlp", role) for layer in range(3) for role in ROLES]
NAMES = ("absmax", "nonfinite", "rms", *QUANTILES)


def trends(
    windows: int = 12, *, sites: list[Site] | None = None, ranks: int = 1, **given: Any
) -> pd.DataFrame:
    """Return trends whose absmax is 100 layer + window + 1000 rank, and bands around zero."""
    lines = []
    for window in range(windows):
        for rank in range(ranks):
            for site in SITES if sites is None else sites:
                line: dict[str, Any] = {
                    "window": window, "layer": site.layer, "block": site.block,
                    "role": site.role, "expert": site.expert, "dp": rank, "tp": 0, "pp": 0,
                    "ep": 0, "first_step": 10 * window, "last_step": 10 * window + 9, "rows": 4,
                    "absmax": 100.0 * site.layer + window + 1000 * rank + max(site.expert, 0),
                    "nonfinite": 0.0, "rms": 1.0,
                }  # fmt: skip
                line |= {
                    name: (share - 0.5) * (1 + window) for name, share in QUANTILES.items()
                }
                lines.append(line | given)
    frame = pd.DataFrame(lines, columns=list(lines[0]) if lines else [])
    return frame.astype({"block": "category", "role": "category"}) if lines else frame


def metrics(**named: Mapping[int, float] | list[float]) -> pd.DataFrame:
    rows = [
        {"window": 0, "step": step, "name": name, "value": value, "dp": 0}
        for name, values in named.items()
        for step, value in (
            values.items() if isinstance(values, Mapping) else enumerate(values)
        )
    ]
    return pd.DataFrame(rows, columns=["window", "step", "name", "value", "dp"])


def made(frame: pd.DataFrame, label: str = "run", **named: Any) -> History:
    return history_of(frame, metrics(**named), NAMES, label)


def lines_of(of: History, site: Site, name: str = "absmax") -> pd.DataFrame:
    return site_lines(of, of, site, name)


# Numbers


def test_the_sites_are_in_the_order_of_the_data_flow_however_they_come() -> None:
    shuffled = trends(2).sample(frac=1, random_state=3)
    found = made(shuffled)
    assert list(found.sites) == SITES
    assert (found.first.tolist(), found.last.tolist()) == ([0, 10], [9, 19])
    for i, site in enumerate(SITES):
        assert found.values["absmax"][i].tolist() == [100 * site.layer, 100 * site.layer + 1]


def test_a_site_that_comes_late_has_no_values_before() -> None:
    frame = trends(4)
    late = (frame["layer"] == 2) & (frame["window"] < 3)
    found = made(frame[~late])
    own = lines_of(found, SITES[-1])
    assert own["first_step"].tolist() == [30]
    assert np.isnan(found.values["absmax"][-1]).tolist() == [True, True, True, False]


def test_of_several_ranks_the_most_unusual_value_stands() -> None:
    found = made(trends(3, ranks=2))
    assert found.values["absmax"][0].tolist() == [1000.0, 1001.0, 1002.0]
    reversed_ = trends(3, ranks=2).iloc[::-1]
    assert made(reversed_).values["absmax"][0].tolist() == [1000.0, 1001.0, 1002.0]


@pytest.mark.parametrize(
    ("name", "worst"), [("absmax", 9.0), ("headroom_fp16", -5.0), ("mean", 9.0), ("q50", 9.0)]
)
def test_unusual_follows_the_direction_of_a_measure(name: str, worst: float) -> None:
    values = np.array([1.0, 9.0, np.nan, -5.0])
    assert values[unusual(values, name).argmax()] == worst


def test_the_lines_of_a_site_are_its_quantiles_by_window() -> None:
    own = lines_of(made(trends(5)), SITES[6])
    assert own["q95"].tolist() == pytest.approx([0.45 * (1 + w) for w in range(5)])
    assert own["absmax"].tolist() == [100.0 + w for w in range(5)]
    assert own["last_step"].tolist() == [9, 19, 29, 39, 49]
    assert site_lines(made(trends(5)), made(trends(5)), None, "absmax").empty


def test_the_counterpart_of_a_site_has_the_same_layer_role_and_expert() -> None:
    renamed = [Site(s.layer, f"h.{s.layer}", s.role) for s in SITES if s.layer < 2]
    other = made(trends(2, sites=renamed))
    assert other.like(SITES[5]) == Site(1, "h.1", "gate")
    assert other.like(SITES[-1]) is None
    assert other.site("h.1/gate") == Site(1, "h.1", "gate")
    with pytest.raises(UnknownName, match=r"Did you mean 'h.1/gate'"):
        other.site("h.1/gat")


def test_metrics_come_by_step_the_well_known_first() -> None:
    found = made(trends(2), zeta=[1.0], lr=[2.0], loss={5: 1.0, 2: 4.0}, alpha=[0.0])
    assert found.metric_names == ("loss", "lr", "alpha", "zeta")
    steps, values = found.metric("loss")
    assert (steps.tolist(), values.tolist()) == ([2, 5], [4.0, 1.0])


def test_a_thinned_metric_keeps_its_ends_and_every_spike() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[[777, 54_321]] = [1e6, -1e6]
    steps, kept = thinned(np.arange(100_000), values, most=1000)
    assert steps.size <= 1000
    assert {777, 54_321} <= set(steps.tolist())
    assert (np.diff(steps) > 0).all()
    assert np.array_equal(kept, values[steps])
    short = thinned(np.arange(10), values[:10])
    assert short[0].size == 10


def test_a_stretch_without_numbers_stays_a_gap() -> None:
    values = np.ones(4000)
    values[1000:2000] = np.nan
    steps, kept = thinned(np.arange(4000), values, most=400)
    inside = (steps >= 1000) & (steps < 2000)
    assert inside.any()
    assert np.isnan(kept[inside]).all()
    assert np.isfinite(kept[~inside]).all()


def test_alarms_are_by_step_then_in_the_order_of_the_data_flow() -> None:
    frame = trends(30)
    bad = (frame["window"] >= 7) & (frame["layer"] >= 1)
    frame.loc[bad, "nonfinite"] = 3.0
    frame.loc[frame["layer"] == 2, "absmax"] = 1e5
    found = alarms(made(frame, loss=[2.0] * 75 + [np.nan]))
    assert [(a.kind, a.where) for a in found[:4]] == [
        ("limit", f"layers.2.mlp/{role}") for role in ("resid", "gate", "hidden", "hidden")
    ]
    later = [(a.step, a.kind, a.where) for a in found if a.step > 9]
    assert later[0] == (75, "non-finite", "loss")
    assert [where for _, _, where in later[1:]] == [s.name for s in SITES if s.layer >= 1]


def test_a_training_that_is_well_raises_no_alarm() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 500)
    assert alarms(made(trends(50), loss=list(2 + noise), lr=[1e-3] * 500)) == ()


# Maps


def grid_of(of: History, by: str = "layer", site: Site = SITES[2], **options: Any) -> StepGrid:
    return step_grid(of, "absmax", site, by=by, **options)


def test_a_map_holds_a_measure_of_the_layers_at_one_role() -> None:
    grid = grid_of(made(trends(4)))
    assert grid.rows == ("0", "1", "2")
    assert grid.edges.tolist() == [0, 10, 20, 30, 40]
    assert grid.values.tolist() == [[100.0 * i + w for w in range(4)] for i in range(3)]
    assert grid.names[1] == ("layers.1.mlp/hidden",) * 4


def test_a_map_by_role_holds_the_roles_of_one_block() -> None:
    grid = grid_of(made(trends(4)), "role", SITES[5])
    assert grid.rows == ROLES
    assert grid.values[0].tolist() == [100.0, 101.0, 102.0, 103.0]


def test_neighbours_share_a_column_by_the_most_unusual_window_whose_step_is_kept() -> None:
    frame = trends(1001)
    frame.loc[(frame["window"] == 333) & (frame["layer"] == 1), "absmax"] = 7e4
    grid = grid_of(made(frame), most=300)
    assert grid.values.shape == (3, 91)
    assert grid.together == 11
    assert grid.values[1].max() == 7e4
    assert grid.steps[1, 333 // 11] == 3339
    assert grid.values[0].tolist() == [min(11 * c + 10, 1000) for c in range(91)]
    assert grid.edges.size == 92
    assert grid.edges[-1] == 10_010


def test_a_cell_of_a_mixture_is_its_most_unusual_expert_by_name() -> None:
    experts = [Site(0, "moe", "hidden", e) for e in range(3)]
    grid = step_grid(made(trends(2, sites=experts)), "absmax", experts[0])
    assert grid.values.tolist() == [[2.0, 3.0]]
    assert grid.names == (("moe/hidden#2", "moe/hidden#2"),)


def test_a_map_of_many_layers_stays_small_and_readable() -> None:
    deep = [Site(layer, f"layers.{layer}.mlp", "hidden") for layer in range(80)]
    figure = steps_heatmap(grid_of(made(trends(700, sites=deep)), site=deep[0]))
    assert figure.data[0].z.size <= 24_000
    assert len(figure.layout.yaxis.ticktext) <= 24
    assert len(figure.to_json()) < 2_000_000


def test_a_map_over_decades_has_a_logarithmic_scale_with_values_in_words() -> None:
    frame = trends(3)
    frame["absmax"] = 10.0 ** frame["layer"] * 10.0 ** frame["window"]
    grid = grid_of(made(frame))
    figure = steps_heatmap(grid)
    assert figure.data[0].z.tolist() == [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    assert "10000" in figure.data[0].colorbar.ticktext
    assert figure.data[0].text[2, 2] == "10000 until step 29"
    assert figure.data[0].customdata[2, 0] == "layers.2.mlp/hidden"
    assert steps_ends([grid]) == (1.0, 10_000.0)


def test_a_map_of_no_value_is_empty_and_does_not_fail() -> None:
    grid = grid_of(made(trends(3, absmax=np.nan)))
    assert steps_ends([grid]) is None
    figure = steps_heatmap(grid)
    assert np.isnan(figure.data[0].z).all()
    assert set(figure.data[0].text.ravel()) == {"no value"}


def test_windows_whose_steps_are_the_same_stand_one_after_another() -> None:
    grid = grid_of(made(trends(4).assign(first_step=0, last_step=0)))
    assert steps_heatmap(grid).data[0].x.tolist() == [0, 1, 2, 3, 4]


# The chart


def trace(figure: Any, axis: str, name: str, *, mode: str = "lines") -> Any:
    [found] = [t for t in figure.data if t.yaxis == axis and t.name == name and t.mode == mode]
    return found


def test_everything_stands_on_one_axis_of_steps() -> None:
    of = made(trends(12), loss=[2.0, 1.0], grad_norm=[1.0, 1.0], lr=[0.1, 0.1])
    figure = training_chart([of], [lines_of(of, SITES[2])], "absmax")
    assert {t.xaxis or "x" for t in figure.data} == {"x"}
    assert figure.layout.hoversubplots == "axis"
    assert figure.layout.xaxis.spikemode == "across"
    titles = [figure.layout[f"yaxis{i}"].title.text for i in range(2, 7)]
    assert titles[2:] == ["loss", "grad_norm", "lr"]
    assert "unit of the tensor" in titles[0]
    domains = [figure.layout[f"yaxis{i or ''}"].domain for i in (0, 2, 3, 4, 5, 6)]
    assert all(upper[0] > lower[1] for upper, lower in pairwise(domains))
    assert figure.layout.xaxis.range == (0, 120)


def test_the_bands_are_the_percentiles_and_the_line_is_the_median() -> None:
    of = made(trends(6))
    own = lines_of(of, SITES[2])
    figure = training_chart([of], [own], "absmax")
    drawn = [t for t in figure.data if t.yaxis == "y2"]
    for band, name in zip(
        drawn, ("q01", "q99", "q05", "q95", "q25", "q75", "q50"), strict=True
    ):
        np.testing.assert_allclose(band.y, own[name], rtol=1e-6)
    assert [t.fill for t in drawn] == [None, "tonexty"] * 3 + [None]
    assert drawn[-1].text[0].startswith("median 0<br>25-75 %: \u22120.25 to 0.25")


def test_bands_that_grow_by_decades_are_drawn_on_an_asinh_axis() -> None:
    frame = trends(6)
    for name in QUANTILES:
        frame[name] = (QUANTILES[name] - 0.5) * 10.0 ** frame["window"]
    of = made(frame)
    figure = training_chart([of], [lines_of(of, SITES[2])], "absmax")
    top = next(t for t in figure.data if t.yaxis == "y2" and t.fill == "tonexty")
    scale = 0.98 / 6
    np.testing.assert_allclose(
        np.sinh(top.y.astype(float)) * scale, 0.49 * 10.0 ** np.arange(6), rtol=1e-4
    )
    ticks = dict(zip(figure.layout.yaxis2.ticktext, figure.layout.yaxis2.tickvals, strict=True))
    assert ticks["10000"] == pytest.approx(np.arcsinh(1e4 / scale))
    assert ticks["0"] == 0.0


def test_runs_differ_in_colour_and_dash_and_one_without_the_site_has_no_line() -> None:
    of, other = made(trends(6), "a"), made(trends(6, sites=SITES[:4]), "b")
    lines = [lines_of(of, SITES[6]), site_lines(other, other, other.like(SITES[6]), "absmax")]
    figure = training_chart([of, other], lines, "absmax")
    a, b = (t for t in figure.data if t.yaxis == "y3")
    assert (a.line.color, a.line.dash) != (b.line.color, b.line.dash)
    assert (len(a.y), len(b.y)) == (6, 0)


def test_a_value_between_gaps_is_a_point() -> None:
    frame = trends(9)
    frame.loc[~frame["window"].isin([0, 1, 4, 8]), "absmax"] = np.nan
    of = made(frame)
    figure = training_chart([of], [lines_of(of, SITES[2])], "absmax")
    drawn = trace(figure, "y3", "run", mode="lines+markers")
    assert np.flatnonzero(np.isfinite(drawn.y)).tolist() == [0, 1, 4, 8]
    whole = made(trends(9))
    assert trace(training_chart([whole], [lines_of(whole, SITES[2])], "absmax"), "y3", "run")


def test_alarms_are_ticks_in_the_lane_of_their_kind() -> None:
    frame = trends(12)
    frame.loc[frame["window"] >= 5, "nonfinite"] = 1.0
    bare = made(frame)
    of = History(
        bare.name, bare.sites, bare.first, bare.last, bare.values, bare.metrics, alarms(bare)
    )
    figure = training_chart([of], [lines_of(of, SITES[2])], "absmax")
    ticks = trace(figure, "y", "run", mode="markers")
    assert list(zip(ticks.x, ticks.y, strict=True)) == [(59, "non-finite")]
    assert ticks.text == ("non-finite: layers.0.mlp/resid and 11 more",)


def test_names_that_are_markup_are_text() -> None:
    odd = Site(0, "<img src=x>", "hidden")
    of = made(trends(6, sites=[odd], nonfinite=1.0), "<b>run</b>", **{"<i>loss": [1.0, 2.0]})
    of = History(of.name, of.sites, of.first, of.last, of.values, of.metrics, alarms(of))
    figure = training_chart([of], [lines_of(of, odd)], "absmax")
    text = str(figure.to_dict())
    assert "<b>run" not in text
    assert "<i>loss" not in text
    assert "<img" not in text
    assert "&lt;img" in text


def test_a_long_training_of_several_runs_stays_small() -> None:
    one = [SITES[2]]
    of = made(trends(1000, sites=one), loss=list(np.random.default_rng(0).normal(size=50_000)))
    figure = training_chart([of] * 6, [lines_of(of, one[0])] * 6, "absmax")
    assert len(figure.to_json()) < 1_500_000


def test_values_beyond_float32_and_none_at_all_are_drawn() -> None:
    of = made(trends(6, absmax=np.inf, q99=np.nan, q01=np.nan), loss=[np.inf, np.nan])
    figure = training_chart([of], [lines_of(of, SITES[2])], "absmax")
    assert np.isnan(trace(figure, "y3", "run").y).all()
    none = history_of(trends(1).iloc[:0], metrics(), NAMES, "none")
    assert none.windows == 0
    assert training_chart([none], [site_lines(none, none, None, "absmax")], "absmax").data
