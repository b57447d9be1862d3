"""Channels that carry too much or nothing: planted ones are found, healthy ones are not."""

from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.errors import UnknownName
from ffn_probe.figures.channel_digest import channel_digest, layer_channels
from ffn_probe.figures.channel_list import (
    Found,
    Widths,
    matched,
    unusual,
)
from ffn_probe.sketches import Channels
from tests.compare.made_runs import draws, make_run

LAYERS, WIDTH = 8, 32


def plain(role: str = "resid", layers: int = LAYERS, seed: int = 0) -> Widths:
    rng = np.random.default_rng(seed)
    rms = rng.uniform(0.8, 1.2, size=(layers, WIDTH))
    return Widths(role, tuple(range(layers)), rms, 3 * rms, np.ones((layers, WIDTH)))


def changed(of: Widths, **changes: dict[tuple[int, int], float]) -> Widths:
    """Return a copy in which single (row, channel) entries have other values."""
    fields = {name: getattr(of, name).copy() for name in ("rms", "absmax", "active")}
    for name, values in changes.items():
        for where, value in values.items():
            fields[name][where] = value
    return Widths(of.role, of.layers, **fields)


def test_healthy_channels_are_not_listed() -> None:
    assert unusual(plain()) == []
    assert unusual(plain("hidden")) == []


def test_an_outlier_of_the_residual_stream_is_listed_once_with_its_layers() -> None:
    of = changed(plain(), rms={(2, 5): 30.0, (3, 5): 50.0, (6, 5): 7.0, (1, 9): 4.0},
                 absmax={(3, 5): 200.0})  # fmt: skip
    (found,) = unusual(of)
    assert (found.kind, found.channel, found.layers) == ("outlier", 5, (2, 3, 6))
    assert found.largest == 200.0
    assert found.times == pytest.approx(50 / of.typical[3])


def test_neurons_are_listed_by_layer() -> None:
    of = changed(plain("hidden"), rms={(2, 5): 30.0, (3, 5): 50.0})
    assert [(f.channel, f.layers) for f in unusual(of)] == [(5, (3,)), (5, (2,))]


@pytest.mark.parametrize(("layers", "listed"), [(1, 0), (2, 1), (5, 1)])
def test_a_channel_is_large_from_a_quarter_of_the_layers_on(layers: int, listed: int) -> None:
    of = changed(plain(), absmax={(i, 4): 6.0 for i in range(layers)})
    found = [f for f in unusual(of) if f.kind == "large"]
    assert len(found) == listed
    assert [f.layers for f in found] == [tuple(range(layers))] * listed
    neurons = changed(plain("gate"), absmax={(i, 4): 6.0 for i in range(layers)})
    assert unusual(neurons) == []  # neuron 4 of one layer is not that of another


def test_where_most_channels_are_large_none_is_listed_for_it() -> None:
    every = {(i, k): 6.0 for i in range(LAYERS) for k in range(WIDTH)}
    of = changed(plain(), absmax=every)
    assert of.large.all()
    assert unusual(of) == []


def test_dead_channels_are_told_from_quiet_ones() -> None:
    of = changed(
        plain("hidden"), rms={(0, 3): 0.0, (0, 8): 1e-4}, absmax={(0, 3): 0.0, (0, 8): 9e-4},
        active={(0, 3): 0.0, (0, 8): 0.5},
    )  # fmt: skip
    assert [(f.kind, f.channel) for f in unusual(of)] == [("never active", 3), ("quiet", 8)]


def test_a_dead_layer_is_not_all_outliers() -> None:
    zeros = np.zeros((1, 6))
    found = unusual(Widths("hidden", (4,), zeros, zeros, zeros))
    assert {f.kind for f in found} == {"never active"}
    assert len(found) == 6


def test_a_z_is_the_distance_in_robust_spreads() -> None:
    of = changed(plain(), rms={(2, 5): 30.0})
    row = of.rms[2]
    spread = 1.4826 * np.median(np.abs(row - np.median(row)))
    assert unusual(of)[0].z == pytest.approx((30 - np.median(row)) / spread)


def test_channels_that_a_block_does_not_have_are_nothing() -> None:
    of = changed(plain("hidden"), rms={(1, k): np.nan for k in range(20, WIDTH)},
                 absmax={(1, k): np.nan for k in range(20, WIDTH)},
                 active={(1, k): np.nan for k in range(20, WIDTH)})  # fmt: skip
    assert unusual(of) == []
    expected = Channels.of(np.diag(of.rms[1, :20]) * np.sqrt(20)).he_kurtosis()
    assert of.kurtosis[1] == pytest.approx(expected)


# ---- of runs ----------------------------------------------------------------------------


def test_a_digest_holds_what_the_sketches_of_a_run_hold(tmp_path: Path) -> None:
    sites = {Site(i, f"layers.{i}.mlp", "hidden"): draws(i, channels=12 + i) for i in range(3)}
    for site, values in sites.items():
        for rows in values:
            rows[:, 2] *= 40 + site.layer
            rows[:, 7] = 0
    run = make_run(tmp_path / "run", sites)
    of = channel_digest(run, "hidden")
    assert (of.role, of.layers, of.loudest) == ("hidden", (0, 1, 2), 2)
    for i, site in enumerate(sites):
        channels = run.summary(site).channels
        size = channels.count.size
        np.testing.assert_allclose(of.maps["rms"].values[i, :size], channels.rms, rtol=1e-6)
        np.testing.assert_allclose(of.maps["mean"].values[i, :size], channels.mean, rtol=1e-6)
        assert np.isnan(of.maps["absmax"].values[i, size:]).all()
        assert of.kurtosis[i] == pytest.approx(channels.he_kurtosis(), rel=1e-5)
        alive = channels.rms[channels.active > 0]
        assert of.typical[i] == pytest.approx(np.median(alive), rel=1e-6)
        line = layer_channels(run, "hidden", i, "absmax")
        np.testing.assert_allclose(line, channels.absmax, rtol=1e-6)
    kinds = [(f.kind, f.channel) for f in of.unusual]
    assert kinds == [("outlier", 2)] * 3 + [("never active", 7)] * 3


def test_a_digest_of_many_channels_can_be_drawn_and_misses_none(tmp_path: Path) -> None:
    sites = {Site(i, f"layers.{i}.mlp", "hidden"): draws(i, folds=1, rows=4, channels=6000)
             for i in range(50)}  # fmt: skip
    sites[Site(31, "layers.31.mlp", "hidden")][0][:, 4321] *= 300
    of = channel_digest(make_run(tmp_path / "run", sites), "hidden")
    drawn = of.maps["absmax"]
    assert drawn.values.size <= 160_000
    assert 4321 in drawn.channels[31]
    assert [(f.channel, f.layers) for f in of.unusual] == [(4321, (31,))]


def test_a_role_that_was_not_recorded_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {Site(0, "layers.0.mlp", "out"): draws(0)})
    with pytest.raises(UnknownName, match="hidden"):
        channel_digest(run, "hidden")


# ---- two runs ---------------------------------------------------------------------------


def found(kind: str, channel: int, *layers: int, times: float = 9.0) -> Found:
    return Found(kind, channel, layers, 1.0, times, 1.0)


def test_the_same_channel_of_both_runs_is_one_line() -> None:
    a = [found("outlier", 3, 1, 2), found("outlier", 7, 1)]
    b = [found("outlier", 3, 2, 4, times=20.0), found("quiet", 5, 0)]
    matches = matched(a, b, shared=True)
    assert [(m.kind, m.channel, m.where) for m in matches] == [
        ("outlier", 3, "both"), ("outlier", 7, "A only"), ("quiet", 5, "B only"),
    ]  # fmt: skip
    assert matches[0].times == 20.0
    assert (matches[0].a, matches[0].b) == (a[0], b[0])


def test_a_neuron_of_another_layer_is_another_neuron() -> None:
    matches = matched([found("outlier", 3, 1)], [found("outlier", 3, 2)], shared=False)
    assert sorted(m.where for m in matches) == ["A only", "B only"]


def test_one_run_alone_is_listed_as_its_own() -> None:
    assert [m.where for m in matched([found("quiet", 1, 0)], [], shared=True)] == ["A only"]
