"""Pairs of gate and value: cells, shares, densities and ratios against numpy."""

import numpy as np
import pytest

from ffn_probe.figures.activation_curve import CURVES, DIPS
from ffn_probe.figures.joint_chart import joint_chart, joint_difference
from ffn_probe.figures.joint_view import FLOOR, Axis, JointView, joint_view
from ffn_probe.sketches import Joint


def pairs(
    rows: int, seed: int, *, gate: float = 1.0, value: float = 1.0, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return gate * rng.normal(size=(rows, 6)) + shift, value * rng.normal(size=(rows, 6))


def joint(given: tuple[np.ndarray, np.ndarray]) -> Joint:
    g, u = given
    return Joint.of(g, u, CURVES["silu"](g.ravel()).reshape(g.shape))


A, B = pairs(900, 1), pairs(350, 2, gate=3.0, value=0.2, shift=-0.4)
VIEW = joint_view(joint(A), joint(B))


@pytest.mark.parametrize("side", ["a", "b"])
def test_every_pair_is_in_its_cell(side: str) -> None:
    g, u = A if side == "a" else B
    expected, _, _ = np.histogram2d(
        g.ravel(), u.ravel(), bins=(VIEW.gate.edges, VIEW.value.edges)
    )
    counts = VIEW.a if side == "a" else VIEW.b
    np.testing.assert_array_equal(counts, expected)
    assert VIEW.shares(side).sum() == pytest.approx(1)


def test_a_density_times_the_area_of_its_cell_is_the_share() -> None:
    area = np.outer(np.diff(VIEW.gate.edges), np.diff(VIEW.value.edges))
    assert (VIEW.densities("b") * area).sum() == pytest.approx(1)
    flat = joint_view(joint((A[0], 100 * A[1])))
    top = np.unravel_index(flat.densities("a").argmax(), flat.a.shape)
    assert abs(flat.gate.edges[top[0]]) <= 0.5  # a Gaussian is densest around zero


def test_cells_around_zero_hold_few_pairs_and_the_others_are_octaves() -> None:
    for axis, values in ((VIEW.gate, (A[0], B[0])), (VIEW.value, (A[1], B[1]))):
        for x in values:
            assert (np.abs(x) < axis.inner).mean() <= 0.03
        outer = np.abs(axis.edges[np.abs(axis.edges) > axis.inner])
        assert set(np.log2(outer) % 1) == {0.0}
        positive = axis.edges[axis.edges > 0]
        np.testing.assert_array_equal(positive[1:] / positive[:-1], 2)


def test_places_are_cells_and_values_come_back() -> None:
    for axis in (VIEW.gate, VIEW.value):
        np.testing.assert_allclose(axis.place(axis.edges), np.arange(axis.edges.size))
        x = np.array([-1.7, -0.3, -1e-4, 0.0, 1e-5, 0.02, 0.9])
        np.testing.assert_allclose(axis.value(axis.place(x)), x, atol=1e-12)


def test_ticks_are_zero_and_edges_that_do_not_crowd_it() -> None:
    for view in (VIEW, joint_view(joint(pairs(50, 3, gate=900.0, value=1e-3)))):
        for axis in (view.gate, view.value):
            marks = axis.ticks()
            places = [place for place, _ in marks]
            assert "0" in [text for _, text in marks]
            assert len(marks) <= 11
            assert min(np.diff(places)) > 1
            for place, text in marks:
                assert float(text.replace("\u2212", "-")) == pytest.approx(
                    axis.edges[place], rel=0.01
                )


def test_a_ratio_is_that_of_shares_and_unknown_under_a_few_pairs() -> None:
    edges = Axis(np.array([-1.0, 0.0, 1.0, 2.0]))
    a = np.array([[100, 100, 5], [200, 0, 0], [400, 0, 200]])
    b = np.array([[100, 400, 19], [200, 300, 0], [400, 0, 0]])
    ratio = JointView(edges, edges, a, b).log_ratio
    total = np.log2((a.sum() + 0.5) / (b.sum() + 0.5))
    assert ratio[0, 0] == pytest.approx(total)
    assert ratio[0, 1] == pytest.approx(2 + total, abs=0.01)
    assert ratio[1, 1] == pytest.approx(np.log2(300.5 / 0.5) + total)
    assert ratio[2, 2] == pytest.approx(np.log2(0.5 / 200.5) + total)
    assert np.isnan(ratio[0, 2])  # 5 and 19 pairs
    assert np.isnan(ratio[1, 2])
    assert FLOOR == 20


def test_without_a_candidate_there_is_no_ratio() -> None:
    view = joint_view(joint(A))
    assert view.b is None
    assert np.isnan(view.log_ratio).all()


@pytest.mark.parametrize(
    "given",
    [Joint.empty(3), joint((np.full((40, 2), 5.0), np.full((40, 2), -7.0))),
     joint((np.zeros((40, 2)), np.zeros((40, 2)))), joint((np.full((9, 2), 1e9),) * 2)],
    ids=["nothing", "one cell", "zeros", "beyond the grid"],
)  # fmt: skip
def test_odd_pairs_are_drawn_too(given: Joint) -> None:
    view = joint_view(given)
    assert view.a.sum() == given.grid.sum()
    assert np.isfinite(view.densities("a")).all()
    figure = joint_chart(view, "a", color="#000000", activation="silu")
    assert figure.data[0].z.shape == view.a.T.shape


# ---- charts -----------------------------------------------------------------------------


def test_a_chart_holds_the_shares_and_both_sides_share_their_colours() -> None:
    charts = [joint_chart(VIEW, side, color="#3f7fc6") for side in ("a", "b")]
    for figure, side in zip(charts, ("a", "b"), strict=True):
        np.testing.assert_allclose(
            10 ** np.nan_to_num(figure.data[0].z, nan=-np.inf), VIEW.shares(side).T, rtol=1e-5
        )
        assert figure.data[0].z.dtype == np.float32
    assert {(f.data[0].zmin, f.data[0].zmax) for f in charts} == {
        (charts[0].data[0].zmin, charts[0].data[0].zmax)
    }


def test_marginals_are_the_sums_of_the_cells() -> None:
    figure = joint_chart(VIEW, "b", color="#d9722e")
    above, right = figure.data[1:3]
    np.testing.assert_allclose(above.y[1:-1:2], VIEW.shares("b").sum(1), rtol=1e-6)
    np.testing.assert_allclose(right.x[1:-1:2], VIEW.shares("b").sum(0), rtol=1e-6)
    assert above.line.color == "#d9722e"


def test_the_activation_is_drawn_on_the_axis_of_the_value() -> None:
    figure = joint_chart(VIEW, "a", color="#3f7fc6", activation="silu")
    line = figure.data[-1]
    gates = VIEW.gate.value(np.asarray(line.x, np.float64))
    kept = ~np.isnan(line.y)
    heights = VIEW.value.value(np.asarray(line.y, np.float64)[kept])
    np.testing.assert_allclose(heights, CURVES["silu"](gates)[kept], rtol=1e-3, atol=1e-6)
    assert kept.sum() > 100


def test_the_part_where_the_activation_falls_is_marked_where_it_is() -> None:
    place = float(VIEW.gate.place(np.array([DIPS["silu"]]))[0])
    shapes = joint_chart(VIEW, "a", color="#3f7fc6", activation="silu").layout.shapes
    assert [s.x1 for s in shapes if s.type == "rect"] == [pytest.approx(place)]
    assert [s.x0 for s in shapes[-1:]] == [pytest.approx(place)]
    for name in ("relu", "unheard of"):
        plain = joint_chart(VIEW, "a", color="#3f7fc6", activation=name)
        assert [s.type for s in plain.layout.shapes] == ["line", "line"]


def test_a_difference_strikes_out_what_says_little_and_keeps_the_true_ratio_in_the_hover() -> (
    None
):
    figure = joint_difference(VIEW, ("A", "<b>"), activation="silu")
    few, ratio = figure.data[:2]
    assert VIEW.b is not None
    expected = (VIEW.a + VIEW.b > 0) & np.isnan(VIEW.log_ratio)
    np.testing.assert_array_equal(~np.isnan(few.z), expected.T)
    struck = figure.data[2]
    assert {(int(x), int(y)) for x, y in zip(struck.x, struck.y, strict=True)} == set(
        zip(*(axis.tolist() for axis in np.nonzero(expected)), strict=True)
    )
    np.testing.assert_allclose(ratio.customdata[..., 6], VIEW.log_ratio.T, rtol=1e-5)
    assert np.nanmax(np.abs(ratio.z)) <= ratio.zmax == -ratio.zmin == VIEW.reach
    assert "&lt;b&gt;" in ratio.colorbar.title.text


def test_the_scale_of_a_difference_fits_it() -> None:
    edges = Axis(np.array([-1.0, 0.0, 1.0]))
    a = np.full((2, 2), 1000)
    for factor, reach in ((1.2, 0.5), (3.0, 1.0), (200.0, 4.0)):
        b = (a * np.array([[1, factor], [factor, 1]])).astype(np.int64)
        assert JointView(edges, edges, a, b).reach == reach
