"""Charts of a paired run as numbers: levels, stages, shares, patches, regions, hypotheses."""

import math
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest

from ffn_probe.attribution.attribution import (
    BlockAttribution,
    Hypothesis,
    Interval,
    Region,
    StageError,
)
from ffn_probe.figures.canvas import empty, places, whiskers
from ffn_probe.figures.depth import depth_chart, likeness_chart
from ffn_probe.figures.gate_error import GateError
from ffn_probe.figures.gate_regions import gate_regions_chart
from ffn_probe.figures.hypotheses import MOST, hypotheses_chart, ranked
from ffn_probe.figures.levels import Levels
from ffn_probe.figures.patching import patching_chart
from ffn_probe.figures.shares import shares_chart
from ffn_probe.figures.waterfall import culprit, waterfall_chart

NAN, INF = math.nan, math.inf
EVIL = "<img src=x onerror=alert(1)>"


def block(layer: int, **fields: object) -> BlockAttribution:
    name = str(fields.pop("name", f"layers.{layer}.mlp"))
    return BlockAttribution(layer, name, name, "local", **fields)  # type: ignore[arg-type]


def trace(figure: go.Figure, start: str) -> go.Bar:
    return next(t for t in figure.data if t.name.startswith(start))


# ---- the axis ---------------------------------------------------------------------------


def test_what_is_equal_lies_below_the_best_level_and_what_is_not_known_nowhere() -> None:
    axis = Levels.over([33.3, 12.0, INF, NAN])
    assert (axis.worst, axis.best) == (10.0, 40.0)
    assert axis.equal > axis.best
    assert axis.place(INF) == axis.equal
    assert axis.place(-INF) == axis.worst
    assert math.isnan(axis.place(NAN))
    assert axis.places([NAN, 20.0]) == [None, 20.0]


def test_levels_that_no_one_can_tell_from_equal_lie_there_too() -> None:
    axis = Levels.over([300.0, 20.0])
    assert axis.best == 160.0
    assert axis.place(300.0) == axis.equal


def test_an_axis_without_a_level_still_has_two_ends() -> None:
    axis = Levels.over([NAN, INF])
    assert axis.best - axis.worst >= 20
    figure = go.Figure()
    axis.draw(figure)
    assert figure.layout.yaxis.ticktext[-1] == "equal"
    assert figure.layout.yaxis.range[0] == axis.equal


@pytest.mark.parametrize(("count", "most"), [(1, 24), (24, 24), (80, 24), (1000, 7)])
def test_no_more_places_are_written_than_fit(count: int, most: int) -> None:
    found = places(count, most)
    assert found[0] == 0
    assert len(found) <= most
    assert len({b - a for a, b in pairwise(found)}) <= 1


# ---- by depth ---------------------------------------------------------------------------


def test_bars_stand_on_the_foot_of_the_axis_and_end_at_their_level() -> None:
    blocks = [block(0, local_db=INF, end_db=INF), block(1, local_db=33.3, end_db=30.0),
              block(2, local_db=NAN, end_db=NAN)]  # fmt: skip
    figure = depth_chart(blocks)
    own = trace(figure, "local")
    axis = Levels.over([33.3, 30.0])
    assert own.base == axis.equal
    assert own.y[0] == 0
    assert own.base + own.y[1] == pytest.approx(33.3)
    assert own.y[2] is None
    assert list(own.customdata) == ["layers.0.mlp", "layers.1.mlp", "layers.2.mlp"]


def test_a_block_of_which_nothing_is_known_has_a_question_mark() -> None:
    figure = depth_chart([block(0, local_db=20.0), block(1)])
    assert figure.data[-1].mode == "text"
    assert list(figure.data[-1].x) == [1]
    assert depth_chart([block(0, local_db=20.0)]).data[-1].type == "bar"


def test_the_whole_slot_of_a_block_answers_to_the_pointer() -> None:
    figure = depth_chart([block(0, local_db=20.0), block(1, local_db=INF)])
    slots = figure.data[-1]
    axis = Levels.over([20.0])
    assert slots.base + slots.y[1] == axis.worst
    assert list(slots.customdata) == ["layers.0.mlp", "layers.1.mlp"]
    assert slots.opacity == 0


def test_names_of_blocks_are_escaped_in_what_plotly_reads_as_html() -> None:
    figure = depth_chart([block(0, name=EVIL, local_db=20.0)], chosen=EVIL)
    assert "<img" not in "".join(figure.data[0].text)
    assert "&lt;img" in figure.data[0].text[0]
    assert figure.data[0].customdata[0] == EVIL  # becomes a query, never markup


def test_the_chosen_block_is_in_brackets_and_between_lines() -> None:
    blocks = [block(i, local_db=20.0) for i in range(80)]
    axis = depth_chart(blocks, chosen="layers.41.mlp").layout
    assert "[41]" in axis.xaxis.ticktext
    assert [line.x0 for line in axis.shapes] == [40.5, 41.5]
    assert len(axis.xaxis.ticktext) <= 24


def test_likeness_leaves_a_gap_where_it_is_not_known() -> None:
    figure = likeness_chart([block(0, cka=0.5), block(1)])
    assert list(figure.data[0].y) == [0.5, None]


@pytest.mark.parametrize("draw", [depth_chart, likeness_chart, patching_chart])
def test_bars_stand_over_their_layer_whatever_answers_to_the_pointer(draw: object) -> None:
    figure = draw([block(0, local_db=20.0, cka=0.5)])  # type: ignore[operator]
    assert figure.layout.barmode == "overlay"


# ---- stages -----------------------------------------------------------------------------


def stage(role: str, injected: float, status: str = "drift") -> StageError:
    return StageError(
        role, f"{role} stage", injected, injected - 1, injected - 2, 120.0, status
    )


def test_the_culprit_is_the_stage_with_the_largest_error_of_its_own() -> None:
    found = [
        stage("normed", 40.0),
        stage("hidden", 12.0),
        stage("out", 5.0, "indistinguishable"),
    ]
    culprit_ = culprit(found)
    assert culprit_ is not None
    assert culprit_.role == "hidden"
    assert culprit(found[2:]) is None


def test_the_waterfall_shows_injected_beside_accumulated() -> None:
    stages = (stage("normed", 40.0), stage("hidden", 12.0))
    figure = waterfall_chart(block(0, stages=stages))
    for name, levels in (("injected", (40.0, 12.0)), ("accumulated", (39.0, 11.0))):
        bars = trace(figure, name)
        assert [bars.base + y for y in bars.y] == pytest.approx(levels)
    assert [x for x in trace(figure, "end to end").y] == [38.0, 10.0]  # noqa: C416
    assert "normed stage !" in figure.layout.xaxis.ticktext[0]


# ---- shares -----------------------------------------------------------------------------


def test_shares_are_in_per_cent_with_their_intervals() -> None:
    rows = [("norm", Interval(0.25, 0.2, 0.35)), ("act", Interval(-0.1)), ("x", Interval(NAN))]
    bars = shares_chart(rows, unit="share").data[0]
    assert list(bars.x) == [25.0, -10.0, None]
    assert list(bars.error_x.array) == pytest.approx([10.0, 0, 0])
    assert list(bars.error_x.arrayminus) == pytest.approx([5.0, 0, 0])


def test_an_axis_of_shares_holds_nothing_and_all() -> None:
    low, high = shares_chart([("norm", Interval(0.25))], unit="share").layout.xaxis.range
    assert low <= 0
    assert high >= 100


def test_effects_keep_their_unit_and_hollow_bars_have_no_fill() -> None:
    chart = shares_chart([("norm", Interval(0.25))], unit="nats", share=False, hollow=True)
    assert list(chart.data[0].x) == [0.25]
    assert chart.data[0].marker.color == "rgba(0,0,0,0)"
    assert shares_chart([("n", Interval(1.0))], unit="").data[0].marker.color != "rgba(0,0,0,0)"


def test_bars_without_intervals_have_no_whiskers() -> None:
    assert not whiskers([None, Interval(1.0)])["visible"]
    assert whiskers([None, Interval(1.0, 0.5, 2.0)])["visible"]


# ---- patches ----------------------------------------------------------------------------


def test_patches_stand_beside_each_other_in_per_cent() -> None:
    blocks = [
        block(0, patched_back=Interval(0.3, 0.2, 0.5)),
        block(1, patched_in=Interval(0.7)),
    ]
    back, created, slots = patching_chart(blocks).data
    assert list(back.y) == [30.0, None]
    assert list(created.y) == [None, 70.0]
    assert list(back.error_y.array) == pytest.approx([20.0, 0])
    assert all(b < c for b, c in zip(back.x, created.x, strict=True))
    assert list(slots.customdata) == ["layers.0.mlp", "layers.1.mlp"]
    assert slots.hovertext[0].startswith("removed: layer 0 layers.0.mlp: 30.0 % (20.0 %")


# ---- the gate ---------------------------------------------------------------------------


def gate() -> GateError:
    left, right = np.array([-2.0, -1.0, 0.0, 1.0]), np.array([-1.0, 0.0, 1.0, 2.0])
    counts = np.array([1.0, 5.0, 5.0, 1.0])
    return GateError(0, "mlp", left, right, counts, counts[::-1] * [9, 1, 1, 1], counts * 0)


def test_densities_over_the_gate_have_an_area_of_one() -> None:
    values, error, expected = gate_regions_chart(gate(), ()).data
    for curve, area in ((values, 1.0), (error, 1.0), (expected, 0.0)):
        x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
        assert np.trapezoid(y, x) == pytest.approx(area, abs=1e-3)


def test_regions_are_named_with_their_share_and_parted_by_lines() -> None:
    regions = (Region("tail", -INF, -1.0, 0.6, 0.08), Region("rest", -1.0, INF, 0.4, 0.92),
               Region("nowhere", 50.0, INF, 0.0, 0.0))  # fmt: skip
    layout = gate_regions_chart(gate(), regions).layout
    assert [note.text for note in layout.annotations] == [
        "tail<br><b>60.0 %</b>", "rest<br><b>40.0 %</b>",
    ]  # fmt: skip
    assert [line.x0 for line in layout.shapes] == [-1.0]


# ---- hypotheses -------------------------------------------------------------------------


def hypothesis(name: str, after: float, *, reached: bool = False) -> Hypothesis:
    return Hypothesis(
        name, "", 1, "mlp", "hidden", 30.0, 31.0, after, 120.0, reached, "", "fix"
    )


def test_what_fits_comes_first_then_what_the_fix_leaves_best() -> None:
    found = [hypothesis("a", 20.0), hypothesis("b", NAN), hypothesis("c", 40.0),
             hypothesis("d", 5.0, reached=True)]  # fmt: skip
    assert [h.name for h in ranked(found)] == ["d", "c", "a", "b"]


def test_the_picture_of_hypotheses_is_bounded_and_says_which_fits() -> None:
    many = [hypothesis(f"h{i}", float(i)) for i in range(40)]
    figure = hypotheses_chart([hypothesis(EVIL, INF, reached=True), *many])
    labels = figure.layout.yaxis.ticktext
    assert len(labels) == MOST
    assert labels[0].startswith("\u2713 fits: &lt;img")
    assert figure.data[2].x[0] == max(figure.data[2].x)


def test_a_chart_with_nothing_says_why() -> None:
    assert empty("no gate").layout.annotations[0].text == "no gate"
