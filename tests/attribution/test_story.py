"""The verdict names the bug with its fix, what was excluded, and does not claim too much."""

import math
from typing import Any

import numpy as np
import pytest

from ffn_probe.attribution.attribution import Attribution
from ffn_probe.attribution.explain import attribution_of
from tests.attribution.toy import (
    SEQUENCES,
    TOKENS,
    changed,
    effect,
    frame,
    joined,
    model,
    name,
    quick_gelu,
    rms_norm,
    tables,
)


def hypothesis(title: str, *, reached: bool, rank: int = 0, **more: Any) -> dict[str, Any]:
    row = {
        "fold": -1, "layer": 1, "block": name(1), "role": "hidden", "rank": rank,
        "hypothesis": title, "variant": "", "stage": "hidden", "predicted_db": 33.1,
        "measured_db": 33.3, "after_db": math.inf if reached else 33.2, "floor_db": 120.0,
        "reached": reached, "sentence": "", "fix": "hidden_act='gelu'" if reached else "",
    }  # fmt: skip
    return row | more


def told(*rows: dict[str, Any], **more: Any) -> Attribution:
    given = more.pop("candidate", changed(1, act=quick_gelu))
    return attribution_of(tables(given, hypotheses=frame("hypotheses", list(rows)), **more))


# Hypotheses


def test_a_bug_is_named_with_its_levels_and_its_fix() -> None:
    found = told(
        hypothesis("tanh", reached=False, rank=1),
        hypothesis("quick_gelu", reached=True),
        hypothesis("eps", reached=False, rank=2),
    )
    assert found.status == "bug"
    assert (
        "Layer 1 matches 'quick_gelu': 33.1 dB expected, 33.3 dB measured; replayed with the "
        "fix it is exact. Fix: hidden_act='gelu'." in found.verdict
    )
    assert found.verdict.endswith("Rejected: tanh, eps.")
    assert found.verdict.startswith("Layer 1, stage activation: local ")


def test_hypotheses_that_reach_the_floor_come_first() -> None:
    found = told(
        hypothesis("late", reached=True, layer=2, block=name(2)),
        hypothesis("best guess", reached=False, rank=0),
        hypothesis("early", reached=True, rank=3),
    )
    assert [h.name for h in found.hypotheses] == ["early", "late", "best guess"]


def test_two_hypotheses_that_fit_are_both_listed() -> None:
    found = told(
        hypothesis("quick_gelu", reached=True), hypothesis("swish 1.702", reached=True, rank=1)
    )
    assert "'quick_gelu'" in found.verdict
    assert "'swish 1.702'" in found.verdict


def test_many_that_fit_are_counted() -> None:
    many = [hypothesis(f"h{i}", reached=True, rank=i) for i in range(7)]
    assert "4 more fit." in told(*many).verdict


def test_where_none_fits_it_is_unexplained_with_what_was_excluded() -> None:
    many = [hypothesis(f"h{i}", reached=False, rank=i) for i in range(7)]
    found = told(*many)
    assert found.status == "unexplained"
    assert found.verdict.endswith(
        "No hypothesis reaches the floor; excluded: h0, h1, h2, h3, h4, ...."
    )


def test_what_fits_inside_the_rounding_is_told_and_no_bug() -> None:
    """In bfloat16 two GELUs differ by less than the floor, and the template stands out."""
    tanh = hypothesis("gelu_tanh", reached=True, measured_db=53.0, floor_db=51.0, after_db=53.1)
    found = told(tanh, candidate=model())
    assert found.status == "indistinguishable"
    assert found.verdict.endswith(
        "Inside the rounding (53.0 dB, floor 51.0 dB) layer 1 fits 'gelu_tanh'. "
        "Fix: hidden_act='gelu'."
    )
    beside = told(tanh, hypothesis("eps", reached=False))
    assert beside.status == "unexplained"
    assert "No hypothesis reaches the floor; excluded: eps. Inside the" in beside.verdict
    alone = told(tanh)
    assert alone.status == "drift"
    assert "No hypothesis" not in alone.verdict
    assert "matches" not in alone.verdict


def test_a_healthy_pair_stays_indistinguishable_whatever_was_tried() -> None:
    found = told(hypothesis("quick_gelu", reached=False), candidate=model())
    assert found.status == "indistinguishable"
    assert "quick_gelu" not in found.verdict


def test_a_variant_is_shown_where_the_name_has_it_not() -> None:
    row = hypothesis("eps", reached=True, variant="1e-06")
    assert "matches 'eps' (1e-06): " in told(row).verdict
    again = hypothesis("eps 1e-06", reached=True, variant="1e-06")
    assert "matches 'eps 1e-06': " in told(again).verdict


def test_a_nan_with_a_reason_is_a_bug() -> None:
    broken = model()[1].up.copy()
    broken[0, 0] = np.nan
    found = told(hypothesis("wrong scale", reached=True), candidate=changed(1, up=broken))
    assert found.status == "bug"
    assert found.verdict.startswith("Layer 1, stage up: ")
    assert "'wrong scale'" in found.verdict


# The 2 x 2


def cells(metric: str, values: dict[str, float], count: int) -> list[dict[str, Any]]:
    wobble = 1 + 0.01 * np.random.default_rng(0).standard_normal(SEQUENCES)
    return [
        row
        for part, value in values.items()
        for row in effect("factorial", part, count * value * wobble, metric=metric, count=count)
    ]


def crossed(values: dict[str, dict[str, float]], **about: Any) -> Attribution:
    candidate = changed(0, norm=rms_norm)
    rows = [row for m, cell in values.items() for row in cells(m, cell, TOKENS)]
    effects = joined(tables(candidate).frames["effects"], frame("effects", rows))
    return attribution_of(tables(candidate, effects=effects, about=about))


ADDING = {"v00": 0.0, "v10": 0.001, "v01": 0.1, "v11": 0.101}
CROSSING = {"v00": 0.0, "v10": 0.05, "v01": 0.05, "v11": 0.2}


def test_each_metric_has_its_two_by_two_per_term() -> None:
    found = crossed({"error": ADDING, "kl": CROSSING})
    by_metric = {f.metric: f for f in found.factorial}
    assert by_metric["error"].cells == pytest.approx((0, 0.001, 0.1, 0.101), rel=0.02)
    assert by_metric["error"].separable
    assert not by_metric["kl"].separable
    assert by_metric["kl"].unit == "nats a token"


def test_the_verdict_tells_the_two_by_two_of_kl() -> None:
    found = crossed({"error": ADDING, "kl": CROSSING})
    assert "2 x 2 at the output (kl): norm +0.1 [" in found.verdict
    assert "not separable, report norm and activation as a pair" in found.verdict
    only = crossed({"error": ADDING})
    assert "2 x 2 at the output (error): " in only.verdict
    assert "% of both)" in only.verdict


def test_the_factors_have_the_names_of_the_run() -> None:
    found = crossed({"kl": ADDING}, factors=["dtype", "gating"])
    assert found.factorial[0].factors == ("dtype", "gating")
    assert "dtype +" in found.verdict


def test_a_two_by_two_without_a_cell_is_left_out() -> None:
    assert crossed({"kl": {k: v for k, v in ADDING.items() if k != "v10"}}).factorial == ()


# Names and notes


def test_notes_tell_how_the_floor_came_about() -> None:
    found = attribution_of(tables(model(), about={"notes": ["dropout was on"]}))
    assert found.notes == ("Noise floor: the same twice", "dropout was on")
    given = tables(model(), about={"floors": {}})
    quiet = {**given.frames, "paired": given.frames["paired"].query("view != 'noise'")}
    [note] = attribution_of(type(given)(quiet, given.about, given.blocks)).notes
    assert note.startswith(
        "The reference was not compared with itself: the floor is the rounding"
    )


def test_models_have_the_names_of_the_run() -> None:
    found = attribution_of(tables(model()))
    assert (found.reference, found.candidate) == ("ref", "cand")
    nameless = attribution_of(tables(model(), about={"names": []}))
    assert (nameless.reference, nameless.candidate) == ("reference", "candidate")


def test_many_layers_that_inherit_are_a_range() -> None:
    found = attribution_of(tables(changed(0, act=quick_gelu)))
    assert "The drift of layers 1 and 2 is inherited." in found.verdict
