"""A change in words: what moved, by how much, and how far above the noise."""

import math

from ffn_probe.compare.change import Change
from ffn_probe.compare.statistic import BY_NAME

_NAMES = {
    "rms": "RMS",
    "p99": "p99 of |x|",
    "p99_9": "p99.9 of |x|",
    "p99_99": "p99.99 of |x|",
    "crest": "crest factor",
    "channel_rms": "RMS of a channel",
    "zero_share": "exact zeros",
    "near_zero_share": "near zeros",
    "gate_open": "open gates",
    "ks": "KS",
    "w1_asinh": "W1 of asinh",
    "psi": "PSI",
}


def in_words(change: Change) -> str:
    """Return "RMS x1.31, 5.2 times its floor"."""
    return f"{what(change)}{_above(change)}"


def what(change: Change) -> str:
    """Return the change without its floor: "RMS x1.31", "exact zeros +10.0 points"."""
    name, value = _NAMES.get(change.statistic, change.statistic), change.value
    if math.isnan(value):
        return change.detail or f"{name} cannot be told"
    if change.unit == "octaves":
        return f"{name} x{_factor(value)}"
    if change.statistic in {"dead_channels", "outlier_channels"}:
        return f"{change.statistic.replace('_', ' ')}: {change.detail}"
    match change.statistic:
        case "zero_share" | "near_zero_share" | "gate_open":
            return f"{name} {100 * value:+.2g} points"
        case "nonfinite":
            return f"non-finite values: {change.detail}"
        case "mean":
            return f"mean moved by {value:+.2g} sigma"
        case "int8_sqnr_drop":
            return f"predicted int8 SQNR {-value:+.2g} dB"
        case "headroom_fp16" | "headroom_e4m3fn":
            top = "fp16's 65504" if change.statistic == "headroom_fp16" else "e4m3's 448"
            return f"largest |x| is {value:.3g} times {top}"
    return f"{name} {value:.3g}"


def label(statistic: str) -> str:
    """Return the long name of a statistic."""
    return BY_NAME[statistic].label


def _factor(octaves: float) -> str:
    if not math.isfinite(octaves):
        return "infinity" if octaves > 0 else "0"
    return f"{2.0 ** max(min(octaves, 1000.0), -1000.0):.3g}"


def _above(change: Change) -> str:
    if change.statistic == "nonfinite":
        return ""
    if change.floor is None:
        return ", floor unavailable"
    if change.times_floor is None:
        return ""
    if math.isinf(change.times_floor):
        return ", beyond any floor" if change.floor else ", its floor is 0"
    digits = ".2g" if change.times_floor < 99.5 else ".0f"
    return f", {change.times_floor:{digits}} times its floor"
