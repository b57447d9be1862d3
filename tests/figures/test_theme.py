"""Colours: readable as text on both pages, one step after the other on a scale."""

import pytest

from ffn_probe.figures.theme import SCALE, SIGN, WORDS, color_at, css

PAGES = (("#ffffff", "#f5f6f8"), ("#14181d", "#1d2329"))  # page and card of report/style.py


def luminance(color: str) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", list(WORDS))
def test_words_are_readable_on_a_light_and_on_a_dark_page(name: str) -> None:
    for color, backgrounds in zip(WORDS[name], PAGES, strict=True):
        assert min(contrast(color, back) for back in backgrounds) >= 4.5


def test_the_measure_of_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_a_status_has_a_sign_of_its_own() -> None:
    assert len(set(SIGN.values())) == len(SIGN)


def test_a_scale_passes_through_its_stops() -> None:
    assert [color_at(place) for place, _ in SCALE] == [color for _, color in SCALE]
    assert color_at(0.5, ((0.0, "#000000"), (1.0, "#ff8040"))) == "#804020ff"
    assert css("#ff000080") == "rgba(255,0,0,0.502)"
