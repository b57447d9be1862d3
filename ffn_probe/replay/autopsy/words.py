"""The sentences of an autopsy, and the lines of a configuration."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

_LINES: Mapping[str, tuple[str, ...]] = {
    "activation": (
        "hidden_act", "hidden_activation", "activation_function", "hidden_activation_fn",
        "feed_forward_proj", "afn",
    ),
    "eps": (
        "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "layernorm_epsilon",
        "norm_epsilon",
    ),
    "limit": ("swiglu_limit",),
}  # fmt: skip


def lines_of(model: nn.Module) -> dict[str, str]:
    """Return what can be configured -> the line's name, for a model with a `config`."""
    config = getattr(model, "config", None)
    found: dict[str, str] = {}
    for key, names in _LINES.items():
        name = next((n for n in names if _has(config, n)), None)
        if name is not None:
            found[key] = f"config.{name}"
    return found


def _has(config: Any, name: str) -> bool:
    return config is not None and getattr(config, name, None) is not None


def db(value: float) -> str:
    """Return dB in words: "exact", "NaN in one of them", or the number."""
    if value == math.inf:
        return "exact"
    if value == -math.inf:
        return "not finite"
    return "unknown" if math.isnan(value) else f"{value:.1f} dB"


def explained(
    title: str, fix: str, measured: float, expected: float, after: float, floor: float
) -> str:
    """Return the sentence of a bug that explains a difference above the floor."""
    return (
        f"{title}: measured {db(measured)}, predicted {db(expected)}, {db(after)} after the "
        f"fix (floor {db(floor)}). Fix: {fix}."
    )


def left_over(
    title: str, fix: str, measured: float, expected: float, after: float, floor: float
) -> str:
    """Return the sentence of a bug that does not explain a difference."""
    del fix
    return (
        f"{title}: excluded, it predicts {db(expected)} (measured {db(measured)}) and leaves "
        f"{db(after)} (floor {db(floor)})."
    )


def in_noise(
    title: str, fix: str, measured: float, after: float, template: tuple[float, float]
) -> str:
    """Return the sentence of a bug below the floor, by its own numbers or by its template.

    Args:
        title: the bug's name.
        fix: the line to change.
        measured: SQNR of the candidate against the healthy block, in its own dtype.
        after: the same against the block with the bug.
        template: the template's coefficient and its z value.
    """
    if after > measured + 1:
        near = "bit for bit" if after == math.inf else f"to {db(after)}"
        return (
            f"{title}: within the rounding ({db(measured)}), and with it the reference gives "
            f"the candidate's numbers {near}. Fix: {fix}."
        )
    coefficient, z = template
    return (
        f"{title}: within the rounding ({db(measured)}), its template stands in the difference "
        f"with a coefficient of {coefficient:.3f} (z = {z:.0f}). Fix: {fix}."
    )
