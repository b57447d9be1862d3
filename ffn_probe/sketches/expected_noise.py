"""The noise of an elementwise number format, integrated over the bins of a histogram."""

from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from ffn_probe.errors import SketchError


@runtime_checkable
class NumberFormat(Protocol):
    """What the noise needs to know of a format: its name, and which numbers it has.

    `kind` is "int" (all whole numbers up to `max`), "float" or "block".
    """

    @property
    def name(self) -> str:
        """As it is called in tables."""

    @property
    def kind(self) -> str:
        """Either "int", "float" or "block"."""

    @property
    def max(self) -> float:
        """Largest number."""

    @property
    def min_normal(self) -> float:
        """Smallest number with the full mantissa."""

    @property
    def min_subnormal(self) -> float:
        """Smallest number above zero."""

    @property
    def mantissa_bits(self) -> int:
        """Stored bits of the mantissa."""


def square_errors(
    inner: Float64[np.ndarray, " bins"],
    outer: Float64[np.ndarray, " bins"],
    *,
    number_format: NumberFormat,
    scale: float,
) -> Float64[np.ndarray, " bins"]:
    """Return the mean of (Q(x / scale) scale - x)^2 over each bin, values spread evenly.

    A bin without width is a point. `inner` and `outer` bound |x|; the formats are symmetric,
    and values beyond the largest number are clamped to it.

    Raises:
        SketchError: the scale is not a positive number, or the format has blocks.
    """
    if not 0 < scale < np.inf:
        raise SketchError(f"a scale is a positive number, not {scale}")
    grid = _rounding(number_format)
    left, right = inner / scale, outer / scale
    width = right - left
    wide = width > 0
    area = _area(right, grid) - _area(left, grid)
    at = np.searchsorted(grid.starts[1:], left, side="right")
    error = np.where(wide, area / np.where(wide, width, 1.0), (left - grid.numbers[at]) ** 2)
    squares: np.ndarray = np.maximum(error, 0.0) * scale * scale
    return squares


def mean_squares(
    inner: Float64[np.ndarray, " bins"], outer: Float64[np.ndarray, " bins"]
) -> Float64[np.ndarray, " bins"]:
    """Return the mean of x^2 over each bin, values spread evenly."""
    squares: np.ndarray = (inner * inner + inner * outer + outer * outer) / 3
    return squares


def weighted_mean(
    values: Float64[np.ndarray, " bins"], counts: Int64[np.ndarray, " bins"]
) -> float:
    """Return the mean of a value of each bin over all counts; NaN for no counts."""
    total = counts.sum()
    return float((values * counts).sum() / total) if total else float("nan")


def magnitudes(number_format: NumberFormat) -> Float64[np.ndarray, " numbers"]:
    """Return every number of an elementwise format from 0 up, ascending, at scale 1.

    Raises:
        SketchError: it is a block format; a histogram does not know who shares a block.
    """
    form = number_format
    if form.kind == "block":
        raise SketchError(f"{form.name} scales blocks of values: measure it with QuantNoise")
    if form.kind == "int":
        return _whole_numbers(float(form.max))
    return _float_numbers(
        float(form.max), float(form.min_normal), float(form.min_subnormal), form.mantissa_bits
    )


@cache
def _whole_numbers(largest: float) -> Float64[np.ndarray, " numbers"]:
    numbers = np.arange(largest + 1.0)
    numbers.flags.writeable = False
    return numbers


@cache
def _float_numbers(
    largest: float, min_normal: float, min_subnormal: float, mantissa_bits: int
) -> Float64[np.ndarray, " numbers"]:
    steps = 2**mantissa_bits
    below = np.arange(steps) * min_subnormal
    exponents = np.arange(np.log2(min_normal), np.floor(np.log2(largest)) + 1)
    normal = np.outer(2.0**exponents, 1 + np.arange(steps) / steps).ravel()
    numbers: np.ndarray = np.concatenate([below, normal[normal <= largest]])
    numbers.flags.writeable = False
    return numbers


@dataclass(frozen=True, slots=True)
class _Rounding:
    """The numbers of a format from 0 up, what rounds to each, and the error below it."""

    numbers: Float64[np.ndarray, " numbers"]
    starts: Float64[np.ndarray, " numbers"]  # the least that rounds to each
    before: Float64[np.ndarray, " numbers"]  # integral of the squared error up to its start


def _rounding(form: NumberFormat) -> _Rounding:
    magnitudes(form)  # raises for a format of blocks
    if form.kind == "int":
        return _integrated_whole(float(form.max))
    return _integrated_float(
        float(form.max), float(form.min_normal), float(form.min_subnormal), form.mantissa_bits
    )


@cache
def _integrated_whole(largest: float) -> _Rounding:
    return _integrated(_whole_numbers(largest))


@cache
def _integrated_float(
    largest: float, min_normal: float, min_subnormal: float, mantissa_bits: int
) -> _Rounding:
    return _integrated(_float_numbers(largest, min_normal, min_subnormal, mantissa_bits))


def _integrated(numbers: Float64[np.ndarray, " numbers"]) -> _Rounding:
    starts = np.r_[0.0, (numbers[:-1] + numbers[1:]) / 2]
    pieces = ((starts[1:] - numbers[:-1]) ** 3 - (starts[:-1] - numbers[:-1]) ** 3) / 3
    return _Rounding(numbers, starts, np.r_[0.0, np.cumsum(pieces)])


def _area(x: Float64[np.ndarray, " bins"], grid: _Rounding) -> Float64[np.ndarray, " bins"]:
    """Return the integral of (t - Q(t))^2 from 0 to x, a cubic between rounding thresholds."""
    at = np.searchsorted(grid.starts[1:], x, side="right")
    number = grid.numbers[at]
    right, left = x - number, grid.starts[at] - number
    # Products: numpy's power of 3 takes ten times as long.
    area: np.ndarray = grid.before[at] + (right * right * right - left * left * left) / 3
    return area
