"""What theory expects of a swap, in closed form or by quadrature. No model is run here.

Gates and values are taken as centred normal numbers where a moment is asked for; every function
says whose result it is. `verdict` sets what was seen against what was expected.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import scipy  # its special functions load when they are first used
from jaxtyping import Float64

from ffn_probe.attribution.attribution import EXPECTED, INDISTINGUISHABLE, UNEXPLAINED
from ffn_probe.errors import FfnProbeError, UnknownName
from ffn_probe.formats import int8_sqnr_db, number_format

Curve = Callable[[Float64[np.ndarray, " n"]], Float64[np.ndarray, " n"]]


def _sigmoid(x: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    found: np.ndarray = scipy.special.expit(x)
    return found


CURVES: Mapping[str, Curve] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu2": lambda x: np.maximum(x, 0.0) ** 2,
    "silu": lambda x: x * scipy.special.expit(x),
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "sigmoid": _sigmoid,
}
"""Activations by name; a GLU with `identity` is bilinear, with `silu` a SwiGLU."""

SILU_DIP = -1.278464542761074
"""Where x sigmoid(x) is least (-0.278465): 1 + x (1 - sigmoid(x)) = 0."""

GELU_DIP = -0.7517915246935645
"""Where x Phi(x) is least (-0.169971): Phi(x) + x phi(x) = 0."""

WIDTH_RATIO = 2.0 / 3.0
"""d_ff of a GLU over that of an MLP with as many parameters (Shazeer 2020, section 2)."""


class TheoryError(FfnProbeError, ValueError):
    """A number is outside what a formula is defined for."""


# Norms


def ln_to_rms_error(r: float) -> float:
    """Return the error energy of RMSNorm for LayerNorm over the signal's, a token.

    With r = mean / std of a token and no eps, LN = sqrt(1 + r^2) RMS - r 1 (Zhang & Sennrich
    2019 define both): the two have one norm and the cosine 1 / sqrt(1 + r^2), so the relative
    error energy is 2 - 2 / sqrt(1 + r^2).
    """
    return -2 * math.expm1(-0.5 * math.log1p(r * r))


def ln_to_rms_sqnr_db(r: float) -> float:
    """Return the SQNR in dB of RMSNorm for LayerNorm at r = mean / std; about -20 log10 |r|.

    >>> [round(ln_to_rms_sqnr_db(r), 2) for r in (0.01, 0.1, 0.3)]
    [40.0, 20.03, 10.74]
    """
    error = ln_to_rms_error(r)
    return math.inf if error == 0 else -10 * math.log10(error)


def ln_to_rms_parts(r: float) -> dict[str, float]:
    """Return the energies of the causes over the signal's: scale, mean_leakage, cross.

    The change of a token is (1 - sqrt(1 + r^2)) RMS, its scale, and r 1, the mean that leaks
    through; with their cross term they add to `ln_to_rms_error`. A dropped bias comes on top.
    """
    scale = math.sqrt(1 + r * r) - 1
    return {
        "scale": scale * scale,
        "mean_leakage": r * r,
        "cross": -2 * scale * r * r / math.sqrt(1 + r * r),
    }


def eps_change(rms: float, eps: float, other: float) -> float:
    """Return how much larger (share) a norm's output is with `other` as eps instead of `eps`.

    >>> round(100 * eps_change(0.01, 1e-5, 1e-6), 2)
    4.36
    >>> round(-100 * eps_change(0.01, 1e-6, 1e-5), 2)
    4.18

    Raises:
        TheoryError: a root would be of nothing or of a negative number.
    """
    if min(rms * rms + eps, rms * rms + other) <= 0:
        raise TheoryError(f"a token of RMS {rms} with eps {eps} and {other} has no norm")
    return math.sqrt((rms * rms + eps) / (rms * rms + other)) - 1


def eps_sqnr_db(rms: float, eps: float, other: float) -> float:
    """Return the SQNR in dB of a norm with `other` as eps instead of `eps`.

    >>> round(eps_sqnr_db(0.01, 1e-5, 1e-6), 1), round(eps_sqnr_db(1.0, 1e-5, 1e-6), 0)
    (27.2, 107.0)
    """
    change = abs(eps_change(rms, eps, other))
    return math.inf if change == 0 else -20 * math.log10(change)


# Hidden values of normal gates


def hidden_moments(
    activation: str, std: float = 1.0, *, kind: str = "glu"
) -> tuple[float, float]:
    """Return E[h^2] and E[h^4] / E[h^2]^2 of the hidden values of a block.

    Args:
        activation: a name of CURVES.
        std: standard deviation of gate and value, which are independent and normal.
        kind: "glu" (activation times value) or "mlp".

    >>> second, kurtosis = hidden_moments("silu")
    >>> round(second, 5), round(kurtosis, 2)
    (0.35578, 21.79)

    Raises:
        UnknownName: the activation is not in CURVES.
    """
    curve = _curve(activation)
    points, weights = _normal()
    squares = curve(points * std) ** 2
    second, fourth = float(weights @ squares), float(weights @ squares**2)
    if kind == "glu":
        second, fourth = second * std**2, fourth * 3 * std**4
    return second, fourth / second**2


def mean_hidden(correlation: float, std_gate: float, std_value: float) -> float:
    """Return E[h] = rho s_g s_u / 2 of SwiGLU, GEGLU and ReGLU: gate and value normal.

    By Stein's identity E[act(g) u] = rho s_g s_u E[act'(g)], and act'(g) + act'(-g) = 1.
    """
    return correlation * std_gate * std_value / 2


def stein_half(activation: str, std: float = 1.0) -> float:
    """Return E[g act(g)] / std^2, which is 1/2 where act'(g) + act'(-g) = 1.

    >>> round(stein_half("silu"), 9), round(stein_half("gelu", 3.0), 9)
    (0.5, 0.5)
    """
    points, weights = _normal()
    return float(weights @ (points * std * _curve(activation)(points * std))) / std**2


def random_cosine(channels: int) -> float:
    """Return E |cos| of two independent directions: what unaligned gate and up rows have.

    About sqrt(2 / (pi channels)); exact: Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)).

    >>> round(random_cosine(768), 4)
    0.0288
    """
    half = channels / 2
    return math.exp(math.lgamma(half) - math.lgamma(half + 0.5)) / math.sqrt(math.pi)


def llama_width(d_model: int, *, multiple_of: int = 256, multiplier: float = 1.0) -> int:
    """Return d_ff of a Llama block: 2/3 of 4 d_model, times a multiplier, rounded up.

    Source: meta-llama's model.py. A port with another d_ff has another formula.

    >>> llama_width(4096), llama_width(8192, multiple_of=4096, multiplier=1.3)
    (11008, 28672)
    """
    width = int(multiplier * int(2 * 4 * d_model / 3))
    return multiple_of * -(-width // multiple_of)


def glu_std_factor(
    std: float = 1.0, *, activation: str = "silu", mlp: str = "gelu", width: float = WIDTH_RATIO
) -> float:
    """Return the std of a GLU's output over that of the MLP it replaces, at initialisation.

    Args:
        std: of the pre-activations, in both.
        activation: of the GLU.
        mlp: activation of the MLP.
        width: d_ff of the GLU over that of the MLP; the weights have one std.

    >>> round(glu_std_factor(), 3)
    0.747
    """
    gated, _ = hidden_moments(activation, std)
    plain, _ = hidden_moments(mlp, std, kind="mlp")
    return math.sqrt(width * gated / plain)


def growth_exponent(
    activation: str, scale: float, *, kind: str, aligned: bool = False
) -> float:
    """Return log2 of how much RMS(h) grows when pre-activations of std `scale` double.

    2: quadratic growth, 1: linear. `aligned`: gate and value are the same numbers.

    >>> [round(growth_exponent(name, 1.0, kind=kind), 2)
    ...  for name, kind in (("silu", "glu"), ("gelu", "mlp"))]
    [2.15, 1.09]

    Raises:
        UnknownName: the activation is not in CURVES.
    """
    twice, once = (
        _rms_hidden(activation, scale * factor, kind=kind, aligned=aligned)
        for factor in (2.0, 1.0)
    )
    return math.log2(twice / once)


def _rms_hidden(activation: str, scale: float, *, kind: str, aligned: bool) -> float:
    points, weights = _normal()
    squares = _curve(activation)(points * scale) ** 2
    if kind == "glu":
        squares = squares * scale**2 * (points**2 if aligned else 1.0)
    return math.sqrt(float(weights @ squares))


def _curve(name: str) -> Curve:
    if name not in CURVES:
        raise UnknownName.of("curve", name, CURVES)
    return CURVES[name]


@cache
def _normal() -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """Return points and weights of a normal density: trapezoids, which converge fast here."""
    points = np.linspace(-14.0, 14.0, 28_001)
    weights = np.exp(-0.5 * points**2)
    return points, weights / weights.sum()


# Number formats


def int_law_db(crest: float) -> float:
    """Return 52.87 - 20 log10(crest): the SQNR of int8 with one scale, uniform rounding noise.

    (Widrow & Kollar 2008: noise of step^2 / 12; crest = absmax / RMS.)
    """
    return int8_sqnr_db(crest)


def float_law_db(name: str) -> float:
    """Return the SQNR in dB of a floating format on any smooth density within its range.

    A value in [2^k, 2^(k+1)) has noise 4^(k - m) / 12 for m mantissa bits; over a binade whose
    start is anywhere alike E[4^k] / E[x^2] = 3 / (4 ln 4), so the SQNR is 16 ln 4 * 4^m.

    >>> [round(float_law_db(name), 1) for name in ("e4m3fn", "e5m2", "bf16", "fp16")]
    [31.5, 25.5, 55.6, 73.7]

    Raises:
        UnknownName: no format has that name.
        TheoryError: it is no floating format.
    """
    form = number_format(name)
    if form.kind != "float":
        raise TheoryError(
            f"{name} is a format of kind {form.kind}; the law is of floating ones"
        )
    return 10 * math.log10(16 * math.log(4) * 4.0**form.mantissa_bits)


def combined_db(*sqnrs: float) -> float:
    """Return the SQNR in dB of errors that do not know of each other: their powers add.

    >>> round(combined_db(30.0, 33.0), 2), combined_db(math.inf, 20.0)
    (28.24, 20.0)
    """
    power = sum(10 ** (-db / 10) for db in sqnrs)
    return math.inf if power == 0 else -10 * math.log10(power)


# Verdict


def verdict(expected: float, observed: float, *, tolerance: float, floor: float = 0.0) -> str:
    """Return "expected", "indistinguishable" or "unexplained".

    Args:
        expected: what theory says; an energy, a ratio or a level.
        observed: what was seen, in the same unit.
        tolerance: how far apart they may be, in that unit.
        floor: the largest |observed| that noise alone may give.

    Both under the floor (or the observed alone, outside the tolerance) is indistinguishable;
    what is not a number is unexplained.
    """
    if abs(observed) <= floor and not abs(expected) > floor:
        return INDISTINGUISHABLE
    if abs(observed - expected) <= tolerance or expected == observed:
        return EXPECTED
    return INDISTINGUISHABLE if abs(observed) <= floor else UNEXPLAINED
