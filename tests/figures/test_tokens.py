"""Tokens: sizes against numpy, planted sinks and massive activations, safe texts."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.figures.token_chart import by_layer, position_chart, size_chart, spike_chart
from ffn_probe.figures.tokens import (
    SiteTokens,
    TopValue,
    half_octaves,
    shown_token,
    sink,
    sink_told,
    site_tokens,
    size_map,
)
from ffn_probe.runs import Run
from ffn_probe.sketches import BitHistogram
from tests.compare.made_runs import draws, make_run

SITE = Site(0, "layers.0.mlp", "hidden")


def top(value: float, *, position: int = 0, text: str = "", times: float = 5.0, layer: int = 0,
        channel: int = 1) -> TopValue:  # fmt: skip
    site = Site(layer, f"layers.{layer}.mlp", "hidden")
    return TopValue(site, value, times, channel, 7, text, position, 0, 0)


def recorded(path: Path, *, spike: float = 1.0, layers: int = 2) -> Run:
    """Return a run in which one token of layer 1 is `spike` times the others."""
    sites = {Site(i, f"layers.{i}.mlp", "hidden"): draws(i, folds=4) for i in range(layers)}
    sites[Site(1, "layers.1.mlp", "hidden")][2][5] *= spike
    return make_run(path, sites)


def test_the_numbers_of_a_site_are_those_of_its_tokens(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", spike=300.0)
    found = site_tokens(run, "hidden")
    assert [x.site.layer for x in found] == [0, 1]
    rows = np.concatenate(draws(1, folds=4))
    rows[2 * 64 + 5] *= 300
    size = np.abs(rows).max(axis=1)
    assert found[1].spike == pytest.approx(size.max() / np.median(size), rel=0.07)
    assert found[1].absmax[0] == pytest.approx(np.median(size), rel=0.07)
    assert found[1].absmax[2] == pytest.approx(size.max())
    ratio = np.abs(rows.mean(1)) / rows.std(1)
    assert found[1].ratio == pytest.approx(np.median(ratio), rel=0.1)
    assert found[1].median == pytest.approx(np.median(np.abs(rows)), rel=0.02)
    assert found[1].rows == rows.shape[0]
    best = found[1].top[0]
    assert abs(best.value) == pytest.approx(np.abs(rows).max())
    assert best.times == pytest.approx(np.abs(rows).max() / np.median(np.abs(rows)), rel=0.02)
    assert site_tokens(run, "out") == []


def test_half_octaves_are_counted_as_numpy_counts_them() -> None:
    rng = np.random.default_rng(0)
    size = np.exp2(rng.integers(-6, 7, 4000) / 2 + 0.2)  # in the middle of a half octave
    size[:400] = 0
    first, shares, zeros = half_octaves(BitHistogram.of(size, 3))
    expected = np.floor(np.log2(size[400:]) * 2).astype(int)
    assert first == expected.min()
    np.testing.assert_allclose(shares, np.bincount(expected - first) / 4000)
    assert zeros == pytest.approx(0.1)


def test_no_tokens_have_no_sizes() -> None:
    first, shares, zeros = half_octaves(BitHistogram.empty(3))
    assert (first, shares.size) == (0, 0)
    assert math.isnan(zeros)
    assert half_octaves(BitHistogram.of(np.zeros(5), 3))[2] == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" the", "\u2423the"), ("  ", "\u2423\u2423"), ("", ""), ("a b", "a b"),
        ("\n", "\u21b5"), ("\t\x00x", "\u21e5<U+0000>x"), ("\u202eevil", "<U+202E>evil"),
        ("<script>alert(1)</script>", "<script>alert(1)</scrip\u2026"),
    ],
)  # fmt: skip
def test_a_text_is_shown_in_a_line_that_hides_nothing(text: str, expected: str) -> None:
    shown = shown_token(text)
    assert shown == expected or (len(text) > 24 and shown[:-1] == text[: len(shown) - 1])
    assert len(shown) <= 24
    assert shown.isprintable()


# ---- sinks ------------------------------------------------------------------------------


def test_a_massive_activation_needs_both_of_its_conditions() -> None:
    assert top(-150.0, times=2000.0).massive
    assert not top(150.0, times=900.0).massive
    assert not top(90.0, times=2000.0).massive


def test_the_massive_values_alone_say_where_a_sink_is() -> None:
    massive = [top(500.0, times=5000.0, position=0, text="\u21b5", channel=9, layer=i)
               for i in range(3)]  # fmt: skip
    others = [top(3.0, position=k, text="a") for k in range(1, 20)]
    found = sink([*others, *massive])
    assert (found.total, found.massive, found.first, found.delimiters) == (3, 3, 3, 3)
    assert found.channels == ((9, 3),)
    assert sink_told(found) == (
        "3 massive values: 3 at the first position, 3 at a delimiter or space, 3 in channel 9."
    )


def test_what_is_not_known_of_tokens_is_not_counted() -> None:
    found = sink([top(1.0, position=-1), top(2.0, position=4, text=".")])
    assert (found.total, found.placed, found.known) == (2, 1, 1)
    assert found.positions == ((4, 1),)
    assert sink_told(sink([])) == "no value other than zero was seen."
    assert "position" not in sink_told(sink([top(1.0, position=-1)]))


# ---- charts -----------------------------------------------------------------------------


def tokens_of(layer: int, spike: float, sizes: Sequence[float], first: int) -> SiteTokens:
    site = Site(layer, f"layers.{layer}.mlp", "hidden")
    return SiteTokens(
        site, 100, (), 1.0, (1.0, 2.0, 3.0), spike, 0.1, 0.2, first,
        np.array(sizes, np.float64), 0.0,
    )  # fmt: skip


def test_a_map_of_sizes_has_the_shares_of_every_site_in_its_bins() -> None:
    sites = [tokens_of(0, 2.0, [0.25, 0.75], -3), tokens_of(1, 2.0, [1.0], 0)]
    bins, shares = size_map(sites)
    assert bins.tolist() == [-3, -2, -1, 0]
    assert shares.tolist() == [[0.25, 0.75, 0, 0], [0, 0, 0, 1]]
    figure = size_chart(sites, low=-5, high=2)
    z = np.asarray(figure.data[0].z)
    assert z.shape == (2, 7)
    np.testing.assert_allclose(10 ** z[0, 2:4], [0.25, 0.75], rtol=1e-5)
    assert np.isnan(z[1, :5]).all()
    assert figure.data[0].customdata[0, 2, 0] == pytest.approx(2**-1.5)
    assert size_map([])[1].shape == (0, 0)


def test_a_layer_of_experts_shows_its_largest_spike() -> None:
    sites = [tokens_of(0, 2.0, [1], 0), tokens_of(0, 30.0, [1], 0), tokens_of(1, 4.0, [1], 0)]
    figure = spike_chart([("<a>", "#3f7fc6", sites)])
    assert (list(figure.data[0].x), list(figure.data[0].y)) == ([0, 1], [30.0, 4.0])
    assert figure.data[0].name == "&lt;a&gt;"
    assert list(figure.data[0].customdata) == ["0", "1"]  # what a click makes of `layer`
    assert [s.y0 for s in figure.layout.shapes] == [10.0]


def test_numbers_that_no_log_axis_has_are_left_out() -> None:
    figure = by_layer([[0, 1, 2]], [("a", "#3f7fc6", [0.0, math.inf, 2.0])], "x")
    assert list(figure.data[0].y) == [None, None, 2.0]


def test_values_at_one_place_are_one_mark() -> None:
    listed = [top(5.0, text="<b>"), top(-9.0, text="x"), top(2.0, position=31),
              top(1.0, position=-1)]  # fmt: skip
    figure = position_chart([("a", "#3f7fc6", listed), ("b", "#d9722e", [top(1.0, layer=2)])])
    first, second = figure.data
    assert list(first.x) == [1, 32]
    assert first.marker.size[0] > first.marker.size[1]
    assert "2 of the largest" in first.text[0]
    assert first.text[0].index("-9") < first.text[0].index("5 (")
    assert "&lt;b&gt;" in first.text[0]
    assert list(second.y) == [2.2]
    assert figure.layout.xaxis.ticktext[:4] == ("0", "1", "3", "7")


def test_no_positions_are_an_empty_chart() -> None:
    figure = position_chart([("a", "#3f7fc6", [top(1.0, position=-1)])])
    assert len(figure.data[0].x) == 0
