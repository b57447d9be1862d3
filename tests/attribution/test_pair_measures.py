"""The measures of a pair are those of the arrays; each sees what others are blind to."""

import math

import numpy as np
import pandas as pd
import pytest

from ffn_probe.attribution.pair_measures import COLUMNS, PAIR_MEASURES, measures_of
from tests.attribution.toy import (
    CHANNELS,
    HEAD,
    WIDE,
    Toy,
    changed,
    effect,
    frame,
    gelu,
    joined,
    model,
    name,
    quick_gelu,
    rms_norm,
    run,
    tables,
)


def measured(candidate: tuple[Toy, ...], where: str, view: str = "end", layer: int = 1) -> dict:
    found = measures_of(tables(candidate))
    here = found[(found["role"] == where) & (found["view"] == view) & (found["layer"] == layer)]
    return dict(zip(here["measure"], here["value"], strict=True))


def rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


CANDIDATE = changed(1, norm=rms_norm, act=quick_gelu)


@pytest.mark.parametrize("role", ["normed", "hidden", "out"])
def test_measures_are_those_of_the_arrays(role: str) -> None:
    found = measured(CANDIDATE, role)
    a, b = (rows(run(m)[0][1][role]) for m in (model(), CANDIDATE))
    apart = np.linalg.norm(b - a) / np.linalg.norm(a)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    slopes = (a * b).sum(0) / (a * a).sum(0)
    assert found["relative_l2"] == pytest.approx(apart)
    assert found["sqnr_db"] == pytest.approx(-20 * math.log10(apart))
    assert found["cosine"] == pytest.approx(cosines.mean())
    assert found["norm_ratio"] == pytest.approx(np.linalg.norm(b) / np.linalg.norm(a))
    assert found["max_abs"] == pytest.approx(np.abs(b - a).max())
    assert found["gain_slope_median"] == pytest.approx(np.median(slopes))
    assert found["gain_slope_min"] == pytest.approx(slopes.min())
    assert found["gain_slope_max"] == pytest.approx(slopes.max())
    assert found["ulp_share"] == pytest.approx((a != b).mean())


def test_the_standardised_cosine_is_that_of_standardised_channels() -> None:
    found = measured(CANDIDATE, "hidden")
    a, b = (rows(run(m)[0][1]["hidden"]) for m in (model(), CANDIDATE))
    kept = np.argsort(-(a**2).sum(0), kind="stable")[1:]
    x, y = ((m - a.mean(0)) / a.std(0) for m in (a, b))
    x, y = x[:, kept].ravel(), y[:, kept].ravel()
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert found["cosine_standardised"] == pytest.approx(expected)


def test_equal_models_measure_as_equal() -> None:
    found = measured(model(), "out")
    assert (found["sqnr_db"], found["relative_l2"], found["ulp_share"]) == (math.inf, 0, 0)
    for one in ("cosine", "cosine_standardised", "norm_ratio", "gain_slope_max", "cka"):
        assert found[one] == pytest.approx(1.0), one


# Blindness


def test_a_gain_is_seen_by_the_norm_ratio_and_not_by_the_cosine() -> None:
    found = measured(changed(1, down=1.91 * model()[1].down), "out")
    assert found["cosine"] == pytest.approx(1.0)
    assert found["norm_ratio"] == pytest.approx(1.91)
    assert found["gain_slope_median"] == pytest.approx(1.91)


def test_the_gain_of_one_channel_is_seen_by_its_slope() -> None:
    down = model()[1].down.copy()
    down[:, 3] *= 1.5
    found = measured(changed(1, down=down), "out")
    assert found["gain_slope_max"] == pytest.approx(1.5)
    assert found["gain_slope_median"] == pytest.approx(1.0)


def test_one_loud_channel_hides_a_fault_from_the_cosine_only() -> None:
    """A channel 300 times as loud as the others, of which the sign is turned."""
    down = model()[1].down.copy()
    down[:, 0] *= 300
    turned = down.copy()
    turned[:, 1:] *= -1
    given = tables(changed(1, down=turned), changed(1, down=down))
    found = measures_of(given).query("role == 'out' and view == 'local' and layer == 1")
    value = dict(zip(found["measure"], found["value"], strict=True))
    assert value["cosine"] > 0.97
    assert value["cosine_standardised"] < -0.5


def test_neurons_in_another_order_have_the_same_cka_and_no_sqnr() -> None:
    order = np.random.default_rng(0).permutation(WIDE)
    own = model()[1]
    found = measured(changed(1, up=own.up[:, order], down=own.down[order]), "hidden")
    assert found["sqnr_db"] < 0
    assert found["cka"] == pytest.approx(1.0)


# The table


def test_every_line_has_a_known_measure_a_unit_and_its_floor() -> None:
    found = measures_of(tables(CANDIDATE))
    assert found.columns.tolist() == COLUMNS
    assert set(found["measure"]) <= set(PAIR_MEASURES)
    assert (found["unit"] != "").all()
    assert not found.duplicated(["layer", "block", "role", "view", "measure"]).any()
    assert set(found["view"]) == {"end", "local", "stage", "inherited"}
    levels = found[found["measure"] == "sqnr_db"]
    assert levels["floor"].between(100, 150).all()


def test_the_floor_is_the_same_measure_of_the_reference_against_itself() -> None:
    loud = measures_of(tables(CANDIDATE, noise=1e-2)).query(
        "role == 'out' and view == 'end' and layer == 1"
    )
    floors = dict(zip(loud["measure"], loud["floor"], strict=True))
    assert floors["sqnr_db"] == pytest.approx(40, abs=0.5)
    assert floors["relative_l2"] == pytest.approx(0.01, rel=0.1)
    assert floors["norm_ratio"] == pytest.approx(1.0, abs=1e-3)
    assert 0 < floors["max_abs"] < 0.2


def test_unpaired_sites_have_a_cka_and_distances_only() -> None:
    given = tables(changed(1, act=quick_gelu))
    given.frames["paired"]["reason"] = "trained apart"
    apart = [
        row | {"role": "hidden"}
        for metric, value in {"ks": 0.3, "psi": 1.2}.items()
        for row in effect("distribution", "apart", [value], layer=1, metric=metric)
    ]
    frames = {
        **given.frames,
        "effects": joined(given.frames["effects"], frame("effects", apart)),
    }
    found = measures_of(type(given)(frames, given.about, given.blocks))
    here = found[(found["layer"] == 1) & (found["view"] == "end")].set_index(
        ["role", "measure"]
    )
    assert here.loc[("hidden", "ks"), "value"] == 0.3
    assert here.loc[("hidden", "psi"), "unit"] == "nats"
    assert set(here.loc["normed"].index) == {"cka"}


def test_the_output_is_a_site_of_its_own() -> None:
    found = measures_of(tables(CANDIDATE)).query("role == 'logits'").set_index("measure")
    a, b = (rows(run(m)[1]) for m in (model(), CANDIDATE))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    assert found.loc["kl", "value"] == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert found.loc["top1", "value"] == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    assert found.loc["sqnr_db", "layer"] == -1
    assert a.shape[1] == HEAD.shape[1]


def test_values_that_are_not_finite_are_counted() -> None:
    broken = model()[1].up.copy()
    broken[0, 0] = np.nan
    found = measured(changed(1, up=broken), "gate", "local")
    assert (found["nonfinite_a"], found["nonfinite_b"]) == (0, 96)
    assert found["sqnr_db"] == math.inf  # of the values that are finite in both
    assert math.isnan(measured(changed(1, up=broken), "out", "local")["sqnr_db"])


def test_rows_without_a_direction_are_left_out_of_the_cosine() -> None:
    given = tables(CANDIDATE)
    more = given.frames["paired"].assign(rows=given.frames["paired"]["rows"] + 5)
    found = measures_of(type(given)({**given.frames, "paired": more}, {}, given.blocks))
    before = measures_of(type(given)(given.frames, {}, given.blocks))
    pd.testing.assert_frame_equal(found, before)


def test_whole_runs_are_read_where_there_are_no_folds() -> None:
    given = tables(CANDIDATE)
    whole = given.frames["paired"].query("fold == 0").assign(fold=-1)
    one = measures_of(type(given)({**given.frames, "paired": whole}, {}, given.blocks))
    first = given.frames["paired"].query("fold == 0")
    other = measures_of(type(given)({**given.frames, "paired": first}, {}, given.blocks))
    pd.testing.assert_frame_equal(one, other)
    assert len(one) > 50


def test_whole_runs_are_not_added_to_their_folds() -> None:
    given = tables(CANDIDATE)
    frame_ = given.frames["paired"]
    both = joined(frame_, frame_.query("fold == 0").assign(fold=-1, error=1e9))
    found = measures_of(type(given)({**given.frames, "paired": both}, {}, given.blocks))
    before = measures_of(type(given)(given.frames, {}, given.blocks))
    pd.testing.assert_frame_equal(found, before)


def test_experts_and_windows_are_added() -> None:
    given = tables(CANDIDATE)
    again = given.frames["paired"].assign(expert=3, window=1)
    twice = joined(given.frames["paired"], again)
    found = measures_of(type(given)({**given.frames, "paired": twice}, {}, given.blocks))
    before = measures_of(type(given)(given.frames, {}, given.blocks))
    kept = found["measure"].isin(["sqnr_db", "cosine", "ulp_share", "cka"])
    pd.testing.assert_frame_equal(found[kept], before[kept])
    counts = found["measure"] == "nonfinite_b"
    assert (found.loc[counts, "value"] == 2 * before.loc[counts, "value"]).all()


def test_the_toy_has_the_channels_it_says() -> None:
    assert model()[0].down.shape == (WIDE, CHANNELS)
    assert gelu(np.zeros(1))[0] == 0
    assert name(2) == "layers.2.ffn"
