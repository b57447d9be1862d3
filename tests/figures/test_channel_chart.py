"""Charts of channels: order, colours, ranks, kurtosis; weights beside channels."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from ffn_probe.figures.channel_chart import (
    channel_heatmap,
    channel_order,
    ends_of,
    kurtosis_curve,
    ranked,
    sorted_curves,
)
from ffn_probe.figures.weight_rms import MOST, weight_chart, weight_rms
from ffn_probe.runs import WeightGeometry
from ffn_probe.runs.channel_map import ChannelMap, channel_measure


def channel_map(values: np.ndarray, measure: str = "absmax", width: int = 0) -> ChannelMap:
    rows, columns = values.shape
    width = width or columns
    ids = np.arange(columns, dtype=np.int32) * -(-width // columns)
    return ChannelMap(
        channel_measure(measure), "hidden", tuple(range(rows)),
        tuple(f"layers.{i}.<b>" for i in range(rows)), width, values.astype(np.float32),
        np.where(np.isnan(values), -1, ids).astype(np.int32),
    )  # fmt: skip


VALUES = np.array([[1.0, 50.0, 3.0, np.nan], [2.0, 1.0, 900.0, 0.5]])


def test_columns_are_in_the_order_of_what_stands_out_in_any_layer_of_any_run() -> None:
    one = channel_map(VALUES)
    assert channel_order([one], "channel").tolist() == [0, 1, 2, 3]
    assert channel_order([one], "size").tolist() == [2, 1, 0, 3]
    other = channel_map(np.array([[0.0, 0.0, 0.0, 1e6]]))
    assert channel_order([one, other], "size").tolist() == [3, 2, 1, 0]


def test_of_the_active_share_the_least_stands_out() -> None:
    one = channel_map(np.array([[1.0, 0.0, 0.5]]), "active")
    assert channel_order([one], "size").tolist() == [1, 2, 0]
    assert ends_of([one]) == (0.0, 1.0, False)
    drawn = channel_heatmap(one, np.arange(3), (0.0, 1.0, False)).data[0].colorscale
    others = channel_heatmap(channel_map(VALUES), np.arange(4), (0.0, 1.0, False)).data[0]
    assert [at for at, _ in drawn] == sorted(at for at, _ in drawn)
    assert drawn[0][1] == others.colorscale[-1][1]  # what stands out is dark in both


def test_colours_are_logs_where_magnitudes_span_decades() -> None:
    wide = channel_map(np.geomspace(1e-4, 1e4, 40)[None])
    low, high, log = ends_of([wide])
    assert log
    assert high == pytest.approx(4)
    assert -4 <= low < -3.5
    narrow = channel_map(np.array([[1.0, 2.0], [3.0, 0.0]]))
    assert ends_of([narrow]) == (0.0, 3.0, False)
    assert ends_of([narrow, wide])[2]


@pytest.mark.parametrize(
    "values", [np.full((2, 3), np.nan), np.zeros((2, 3)), np.full((1, 2), np.inf)]
)
def test_channels_without_a_number_are_drawn_without_one(values: np.ndarray) -> None:
    one = channel_map(values)
    figure = channel_heatmap(one, channel_order([one], "size"), ends_of([one]))
    assert np.isfinite(np.nan_to_num(np.asarray(figure.data[0].z))).all()


def test_a_cell_holds_the_number_and_the_id_of_its_channel() -> None:
    one = channel_map(VALUES)
    order = channel_order([one], "size")
    figure = channel_heatmap(one, order, (0.0, 900.0, False))
    np.testing.assert_array_equal(figure.data[0].z, np.abs(VALUES[:, order]).astype(np.float32))
    np.testing.assert_array_equal(figure.data[0].customdata[..., 1], one.channels[:, order])
    assert figure.data[0].z.dtype == np.float32


def test_zero_is_the_palest_of_a_log_scale_not_a_hole() -> None:
    one = channel_map(np.array([[0.0, 1.0, 1e5]]))
    figure = channel_heatmap(one, channel_order([one], "channel"), (-1.0, 5.0, True))
    np.testing.assert_allclose(figure.data[0].z, [[-1.0, 0.0, 5.0]], rtol=1e-5)


def test_labels_stay_readable_at_80_layers_and_name_the_blocks_of_a_shared_layer() -> None:
    deep = channel_map(np.ones((80, 3)))
    figure = channel_heatmap(deep, channel_order([deep], "channel"), ends_of([deep]))
    assert len(figure.layout.yaxis.tickvals) <= 24
    assert figure.layout.height < 1100
    shared = channel_map(np.ones((2, 3)))
    twice = ChannelMap(
        shared.measure, "hidden", (4, 4), shared.blocks, 3, shared.values, shared.channels
    )
    rows = channel_heatmap(twice, np.arange(3), (0.0, 1.0, False)).data[0].y
    assert list(rows) == ["layer 4, layers.0.&lt;b&gt;", "layer 4, layers.1.&lt;b&gt;"]


def test_the_axis_counts_channels_where_several_share_a_column() -> None:
    one = channel_map(np.ones((1, 100)), width=1000)
    figure = channel_heatmap(one, np.arange(100), (0.0, 1.0, False))
    assert one.together == 10
    assert "10 a column" in figure.layout.xaxis.title.text
    assert figure.layout.xaxis.ticktext[1] == f"{figure.layout.xaxis.tickvals[1] * 10:,}"


# ---- sorted -----------------------------------------------------------------------------


def test_ranks_are_those_of_sorting() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    values[:10] = 0
    rank, size = ranked(values)
    whole = np.sort(np.abs(values))[::-1]
    np.testing.assert_array_equal(size, whole[rank.astype(int) - 1])
    assert (rank[0], rank[-1]) == (1, 4990)
    assert rank.size <= 400
    assert ranked(np.array([0.0, np.nan]))[0].size == 0


def test_sorted_curves_name_their_runs_safely() -> None:
    lines = [("<a>", "#3f7fc6", np.array([1.0, 2.0], np.float32)),
             ("b", "#d9722e", np.zeros(3, np.float32))]  # fmt: skip
    figure = sorted_curves(lines, name="absmax", unit="unit of the tensor")
    assert [t.name for t in figure.data] == ["&lt;a&gt;", "b"]
    assert figure.layout.yaxis.type == "log"
    assert (
        sorted_curves(lines, name="active", unit="share", log=False).layout.yaxis.type is None
    )


def test_the_limits_of_kurtosis_are_drawn_where_they_are_near() -> None:
    line = ("a", "#3f7fc6", (0, 1), (1.2, float("nan")))
    assert not kurtosis_curve([line]).layout.shapes
    near = kurtosis_curve([("a", "#3f7fc6", (0, 1), (1.2, 12.0))])
    assert [s.y0 for s in near.layout.shapes] == [10.0, 25.0]
    assert kurtosis_curve([line]).data[0].y == (1.2, None)


# ---- weights ----------------------------------------------------------------------------


def geometry(gain: np.ndarray) -> WeightGeometry:
    neurons, channels = np.ones(5, np.float32), np.ones(gain.size, np.float32)
    none = np.zeros(0, np.float32)
    return WeightGeometry(
        none, none, 2 * neurons, neurons, none, channels, 3 * channels, gain.astype(np.float32)
    )


def test_weights_and_channels_are_ranked_against_each_other() -> None:
    rng = np.random.default_rng(3)
    gain = np.round(rng.normal(size=60), 1)
    rms = np.abs(gain) * rng.uniform(0.5, 2, size=60) + 0.01
    found = weight_rms("normed", geometry(gain), rms)
    assert found is not None
    kept = np.abs(gain.astype(np.float32)) > 0
    expected = spearmanr(np.abs(gain)[kept], rms[kept]).statistic
    assert found.spearman == pytest.approx(expected)


def test_planted_gains_make_the_largest_channels() -> None:
    gain, rms = np.ones(40), np.random.default_rng(0).uniform(0.9, 1.1, 40)
    gain[[3, 7, 11, 20]], rms[[3, 7, 11, 20]] = 9.0, 8.0 + np.arange(4)
    found = weight_rms("normed", geometry(gain), rms)
    assert found is not None
    assert (found.top, found.both) == (4, 4)


@pytest.mark.parametrize(("role", "size"), [("gate", 2.0), ("value", 2.0), ("out", 3.0)])
def test_each_role_has_the_weights_that_make_it(role: str, size: float) -> None:
    rms = np.linspace(1, 2, 5 if role != "out" else 8)
    found = weight_rms(role, geometry(np.ones(8)), rms)
    assert found is not None
    np.testing.assert_array_equal(found.weight, size)
    assert np.isnan(found.spearman)  # all weights are alike


def test_no_weights_are_set_beside_what_they_do_not_make() -> None:
    rms = np.ones(8)
    assert weight_rms("resid", geometry(np.ones(8)), rms) is None
    assert weight_rms("normed", None, rms) is None
    assert weight_rms("normed", geometry(np.ones(9)), rms) is None


def test_the_largest_channels_are_drawn() -> None:
    rms = np.random.default_rng(0).uniform(1, 2, MOST + 100)
    found = weight_rms("normed", geometry(np.arange(1.0, MOST + 101)), rms)
    assert found is not None
    (marks,) = weight_chart(found, "#000000").data
    assert len(marks.x) == MOST
    assert marks.y.min() >= np.sort(rms)[100] - 1e-6
