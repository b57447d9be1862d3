"""The chart of the shift function: places, both upright axes, the band, words."""

import math

import numpy as np
import pytest

from ffn_probe.compare.quantile_shift import QuantileShift
from ffn_probe.figures.density import shared_density
from ffn_probe.figures.quantile_shift import NAMED, percent, quantile_shift_chart
from ffn_probe.sketches import BitHistogram

SHARES = np.linspace(0.001, 0.999, 41)
A = np.linspace(-3.0, 3.0, 41)
DENSITY = shared_density(BitHistogram.of(A.astype(np.float32)))


def moved(shift: float, band: float | None = 0.2, sigma: float = 2.0) -> QuantileShift:
    edge = None if band is None else np.full(41, band)
    return QuantileShift(SHARES, A, A + shift, edge, sigma)


def test_a_point_stands_at_its_value_and_at_its_shift() -> None:
    figure = quantile_shift_chart(moved(0.5), DENSITY)
    line = next(trace for trace in figure.data if trace.name == "B less A")
    assert np.sinh(line.x) * DENSITY.scale == pytest.approx(A, abs=1e-5)
    assert np.sinh(line.y) * 0.02 * 2.0 == pytest.approx(0.5)
    assert line.x.dtype == np.float32
    assert tuple(figure.layout.xaxis.range) == (DENSITY.edges[0], DENSITY.edges[-1])


@pytest.mark.parametrize("shift", [0.0, 0.5, -30.0, 1e-6, 1e6])
def test_both_upright_axes_tell_the_same_heights(shift: float) -> None:
    figure = quantile_shift_chart(moved(shift), DENSITY)
    left, right = figure.layout.yaxis, figure.layout.yaxis2
    assert left.range == right.range
    for axis, linear in ((left, 0.02 * 2.0), (right, 0.02)):
        values = [float(text.replace("\u2212", "-")) for text in axis.ticktext]
        assert values == sorted(values)
        assert 0.0 in values
        assert 3 <= len(values) <= 7
        places = [math.asinh(value / linear) for value in values]
        assert list(axis.tickvals) == pytest.approx(places, abs=0.01)
        assert max(np.abs(axis.tickvals)) <= axis.range[1]
        assert min(np.diff(axis.tickvals)) > 1.4  # so that labels do not touch
    assert "unit of the tensor" in left.title.text
    assert "sigmas" in right.title.text


def test_the_band_is_as_wide_as_chance_on_both_sides() -> None:
    band = quantile_shift_chart(moved(0.5, band=0.2), DENSITY).data[0]
    assert band.fill == "toself"
    assert np.abs(np.sinh(band.y) * 0.04) == pytest.approx(0.2)
    assert min(band.y) == -max(band.y)


def test_without_folds_there_is_no_band() -> None:
    names = [trace.name for trace in quantile_shift_chart(moved(0.5, None), DENSITY).data]
    assert "chance, 95 %" not in names
    assert "B less A" in names


def test_a_point_says_what_moved_and_what_chance_does() -> None:
    figure = quantile_shift_chart(moved(0.5), DENSITY)
    line = next(trace for trace in figure.data if trace.name == "B less A")
    assert line.text[20] == "quantile 50 %: 0 \u2192 0.5, +0.5 (+0.25 sigmas); chance \u00b10.2"
    bare = quantile_shift_chart(moved(0.5, None), DENSITY).data[0]
    assert bare.text[20] == "quantile 50 %: 0 \u2192 0.5, +0.5 (+0.25 sigmas)"


def test_the_named_quantiles_are_marked() -> None:
    marked = quantile_shift_chart(moved(0.5), DENSITY).data[2]
    assert len(marked.x) == len(NAMED) == 7
    assert marked.x[3] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %"),
     (0.01, "1 %"), (0.001, "0.1 %"), (0.0001, "0.01 %"), (0.25, "25 %")],
)  # fmt: skip
def test_a_share_has_the_digits_that_its_tail_needs(share: float, text: str) -> None:
    assert percent(share) == text
