"""Each alarm is told once, at its step, when it happens; a training that is well is silent."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ffn_probe.alarms import SPIKE_STEPS, Alarm, growth, metric_alarms
from ffn_probe.vigil import Sentinel, Sighting, first_mover
from ffn_probe.vigil.line import Line

EIGHT = 8  # steps a window
Number = Callable[[int], float]


def row(window: int, role: str = "hidden", **numbers: float) -> dict[str, Any]:
    """A row of the trends of a site that is well, but for these numbers."""
    well = {"nonfinite": 0.0, "absmax": 3.0, "dead_share": 0.01, "branch_ratio": 0.5}
    return {
        "layer": 3, "block": "layers.3", "role": role, "expert": -1, "rows": 4096,
        "first_step": window * EIGHT, "last_step": window * EIGHT + EIGHT - 1,
    } | well | numbers  # fmt: skip


def told(windows: int, role: str = "hidden", **numbers: Number) -> list[Sighting]:
    """All sightings of a training whose numbers depend on the window."""
    sentinel, found = Sentinel(), []
    for window in range(windows):
        now = {name: of(window) for name, of in numbers.items()}
        found += sentinel.window([row(window, role, **now)], [])
    assert found == sentinel.sightings
    return found


def told_of(name: str, values: Sequence[float], at_once: int = EIGHT) -> list[Sighting]:
    """All sightings of a metric, told a few steps at a time."""
    sentinel, found = Sentinel(), []
    for start in range(0, len(values), at_once):
        some = values[start : start + at_once]
        found += sentinel.window([], [(start + i, name, v) for i, v in enumerate(some)])
    return found


# ---- planted faults and healthy controls ------------------------------------------------


@pytest.mark.parametrize("windows", [20, 500])
def test_a_training_that_is_well_is_silent(windows: int) -> None:
    noise = np.random.default_rng(0).lognormal(0, 0.2, windows)
    slow = {
        "absmax": lambda w: float((2 + 6 * (1 - math.exp(-w / 5))) * noise[w]),
        "dead_share": lambda w: 0.03 + 0.02 * math.sin(w),
        "branch_ratio": lambda w: float(0.03 + 4 * (1 - math.exp(-w / 9)) * noise[w]),
    }
    assert told(windows, "hidden", **slow) == []
    assert told(windows, "out", **slow) == []


def test_the_first_non_finite_value_is_told_once_with_its_window() -> None:
    found = told(20, nonfinite=lambda w: 12.0 if w >= 7 else 0.0)
    assert [(s.alarm.kind, s.first_step, s.last_step) for s in found] == [
        ("non-finite", 56, 63)
    ]
    assert str(found[0]).startswith("steps 56..63: non-finite at layers.3/hidden: 12 NaN")


def test_where_the_address_is_known_it_is_told() -> None:
    bad = row(7, nonfinite=2.0)
    found = Sentinel().window([bad], [], addresses={"layers.3/hidden": (58, "token 17")})
    assert str(found[0]).startswith("step 58: non-finite at layers.3/hidden (token 17): 2 NaN")


def test_what_spreads_from_a_nan_is_one_alarm_at_its_source() -> None:
    rows = [row(7, role, nonfinite=5.0) for role in ("out", "resid", "hidden", "normed")]
    addresses = {f"layers.3/{r['role']}": (60, "") for r in rows}
    sentinel = Sentinel()
    (found,) = sentinel.window(rows, [], addresses=addresses)
    assert found.alarm.where == "layers.3/resid"
    assert "after it 3 more sites" in found.alarm.text
    assert sentinel.window(rows, []) == ()


def test_growth_is_told_with_the_step_at_which_it_reaches_the_limit() -> None:
    doubling = 40.0  # steps; reaches 448 at step 40 * log2(448 / 2) = 312
    found = told(60, absmax=lambda w: 2 * 2 ** ((w * EIGHT + EIGHT - 1) / doubling))
    kinds = [(s.alarm.kind, s.last_step) for s in found if "e4m3" in s.alarm.text]
    assert [kind for kind, _ in kinds] == ["growth", "limit"]
    warned, reached = (step for _, step in kinds)
    assert warned < 200
    assert 311 < reached < 320
    assert found[0].alarm.value == pytest.approx(doubling * math.log2(448 / 2), rel=0.02)


def test_alarms_while_it_runs_are_those_of_the_stored_history() -> None:
    """What is told last is what the whole history says, while no points were put together."""
    rng = np.random.default_rng(3)
    peaks = [float(2 ** (0.2 * w + rng.normal(0, 0.3))) for w in range(100)]
    steps = np.arange(100) * EIGHT + EIGHT - 1
    live = [s.alarm for s in told(100, "out", absmax=lambda w: peaks[w])]
    assert live[-1:] == list(growth("layers.3/out", steps, np.array(peaks)))


@pytest.mark.parametrize("role", ["hidden", "out"])
def test_only_hidden_is_held_to_the_limit_of_e4m3(role: str) -> None:
    found = told(2, role, absmax=lambda _: 500.0)
    assert [s.alarm.kind for s in found] == (["limit"] if role == "hidden" else [])


def test_neurons_that_die_are_told_when_they_stay_dead() -> None:
    assert told(40, dead_share=lambda w: 0.5 if w % 7 == 3 else 0.02) == []
    found = told(40, dead_share=lambda w: min(0.02 + 0.01 * w, 0.4))
    assert [(s.alarm.kind, s.last_step) for s in found] == [("dead", 95)]
    assert "13% of the neurons are dead, 2% were at best" in found[0].alarm.text


def test_neurons_that_rest_in_a_small_window_are_not_called_dead() -> None:
    sentinel = Sentinel()
    for window in range(20):
        few = row(window, dead_share=0.02 * window, rows=100)
        assert sentinel.window([few], []) == ()


def test_a_branch_that_outgrows_its_stream_is_told() -> None:
    found = told(30, "out", branch_ratio=lambda w: 0.4 if w < 20 else 15.0)
    assert [(s.alarm.kind, s.first_step) for s in found] == [("branch", 160)]
    assert "rms(out) is 15 rms(resid); it was 0.4" in found[0].alarm.text


@pytest.mark.parametrize(
    ("name", "kind", "well", "ill"),
    [("cos_max", "alignment", 0.95, 0.991), ("gain_spread", "gain", 3.0, 12.0)],
)
def test_weights_are_told_between_two_readings(
    name: str, kind: str, well: float, ill: float
) -> None:
    sentinel = Sentinel()
    metric = f"weights/model.layers.3.mlp/{name}"
    assert sentinel.window([], [(7, metric, well)]) == ()
    (found,) = sentinel.window([], [(39, metric, ill)])
    assert (found.alarm.kind, found.first_step, found.last_step) == (kind, 8, 39)
    assert found.alarm.where == "model.layers.3.mlp"
    assert sentinel.window([], [(71, metric, ill)]) == ()


# ---- metrics ----------------------------------------------------------------------------


def healthy(steps: int) -> list[float]:
    rng = np.random.default_rng(1)
    return [float(3 + 5 * math.exp(-s / 50) + rng.normal(0, 0.05)) for s in range(steps)]


def test_a_loss_that_falls_is_silent() -> None:
    assert told_of("loss", healthy(3000)) == []


@pytest.mark.parametrize("at_once", [1, 8, 4000])
def test_a_spike_of_the_loss_is_told_once_at_its_step(at_once: int) -> None:
    values = healthy(3000)
    values[2000:2004] = [9.0, 9.5, 9.0, 8.0]
    values[2500] = 20.0
    found = told_of("loss", values, at_once)
    assert [s.last_step for s in found] == [2000, 2500]
    assert all(s.alarm.kind == "spike" and s.alarm.value > 7 for s in found)


def test_a_metric_that_jumps_by_design_has_no_spikes() -> None:
    values = healthy(300)
    values[200] = 99.0
    assert told_of("lr", values) == []
    assert [s.last_step for s in told_of("grad_norm", values)] == [200]


def test_a_loss_of_nan_is_told_once() -> None:
    found = told_of("loss", [*healthy(100), *[math.nan] * 50])
    assert [(s.alarm.kind, s.last_step) for s in found] == [("non-finite", 100)]


# ---- bounded ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 1000, 12345])
def test_a_line_keeps_the_largest_and_the_last_step_in_bounded_points(count: int) -> None:
    values = np.random.default_rng(count).permutation(count).astype(float)
    line = Line()
    for step, value in enumerate(values):
        line.add(step, float(value))
    assert line.values.size <= 128
    assert line.values.size >= min(count, 64)
    assert line.values.max() == count - 1
    assert line.steps[-1] == count - 1
    assert np.all(np.diff(line.steps) > 0)
    edges = np.r_[-1, line.steps]
    parts = [values[a + 1 : b + 1].max() for a, b in pairwise(edges)]
    assert line.values.tolist() == parts


def test_what_is_kept_does_not_grow_with_the_training() -> None:
    sentinel = Sentinel()
    for window in range(600):
        loss = [(window * EIGHT + i, "loss", 5.0 + (window % 97 == 96) * 99) for i in range(8)]
        sentinel.window([row(window, "out")], loss)
    assert sum(len(held) for held in sentinel._metrics.values()) == SPIKE_STEPS + 256
    assert all(line.values.size <= 128 for line in sentinel._lines.values())
    assert len(sentinel.sightings) <= 256


# ---- what came first --------------------------------------------------------------------


def seen(kind: str, where: str, first: int, last: int, role: str = "", layer: int = -1) -> Any:
    return Sighting(Alarm(kind, where, last, 1.0, "text"), first, last, layer, role)


def test_the_first_mover_is_told_with_its_lead() -> None:
    found = [
        seen("spike", "loss", 160, 160),
        seen("growth", "a/hidden", 112, 119, "hidden", 3),
        seen("growth", "a/out", 128, 135, "out", 3),
        seen("branch", "a/out", 144, 151, "out", 3),
    ]
    assert first_mover(found) == (
        "growth at a/hidden (steps 112..119) moved first, 25 to 39 steps before branch at "
        "a/out (steps 144..151), 41 to 48 steps before spike at loss (step 160)"
    )


def test_stretches_that_overlap_leave_the_order_undetermined() -> None:
    found = [seen("growth", "a/hidden", 112, 119, "hidden", 3), seen("spike", "loss", 115, 115)]
    assert first_mover(found).startswith("order undetermined: spike at loss (step 115) and")
    apart = [seen("growth", "a/hidden", 112, 119, "hidden", 3), seen("spike", "loss", 120, 120)]
    assert "moved first, 1 to 8 steps before spike at loss" in first_mover(apart)


def test_within_one_known_step_the_flow_decides() -> None:
    site = seen("non-finite", "a/hidden", 9, 9, "hidden", 3)
    gradient = seen("limit", "a/grad_out", 9, 9, "grad_out", 3)
    loss = seen("spike", "loss", 9, 9)
    text = first_mover([gradient, loss, site])
    assert text.startswith("non-finite at a/hidden (step 9) moved first, earlier in the same")
    assert [s.alarm.where for s in sorted([gradient, loss, site], key=lambda s: s.flow)] == [
        "a/hidden", "loss", "a/grad_out",
    ]  # fmt: skip


def test_of_one_alarm_or_none_there_is_no_order() -> None:
    assert first_mover([]) == "nothing moved"
    assert first_mover([seen("spike", "loss", 4, 4)]) == "spike at loss (step 4) alone moved"


def test_spikes_are_scored_as_in_the_stored_history() -> None:
    values = healthy(3000)
    values[1700], values[2600] = 7.0, 5.0
    steps = np.arange(3000)
    stored = [a for a in metric_alarms("loss", steps, np.array(values)) if a.kind == "spike"]
    assert [s.alarm.value for s in told_of("loss", values)] == pytest.approx(
        [a.value for a in stored]
    )
    assert len(stored) == 2
