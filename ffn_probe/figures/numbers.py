"""Numbers as charts, tables and reports write them."""

import math

MINUS, INFINITY = "\u2212", "\u221e"


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a number at three significant digits; a dash for none.

    >>> number(1638.4), number(1.5e-7), number(0.25, signed=True)
    ('1640', '1.5e-07', '+0.25')
    """
    if value is None or math.isnan(value):
        return "-"
    sign = MINUS if value < 0 else "+" if signed and value > 0 else ""
    size = abs(value)
    if math.isinf(size):
        return sign + INFINITY
    text = f"{size:.3g}"
    if "e+" in text and size < 1e6:
        text = f"{float(text):.0f}"
    return sign + text


def decibels(value: float) -> str:
    """Return dB with one decimal.

    >>> decibels(33.333), decibels(float("inf")), decibels(float("nan"))
    ('33.3', '∞', '-')
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return (MINUS if value < 0 else "") + INFINITY
    return f"{value:.1f}".replace("-", MINUS)


def percent(value: float) -> str:
    r"""Return a share as per cent with one decimal; beyond 1000 % at three digits.

    >>> percent(0.9941), percent(-0.012), percent(-1e-9), percent(69.609), percent(float("nan"))
    ('99.4 %', '\u22121.2 %', '0.0 %', '6960 %', '-')
    """
    if not math.isfinite(value):
        return decibels(value)
    if abs(value) >= 10:
        return number(100 * value) + " %"
    return decibels(round(100 * value, 1) + 0.0) + " %"


def axis_percent(value: float) -> str:
    """Return a share as a label of an axis.

    >>> axis_percent(0.5), axis_percent(1.0)
    ('50 %', '100 %')
    """
    return f"{100 * value:.0f} %".replace("-", MINUS)
