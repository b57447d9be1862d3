"""The numbers of a gate: how open it is, how it moves with the value, what theory expects."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ffn_probe.figures.activation_curve import DIPS
from ffn_probe.figures.numbers import number, percent
from ffn_probe.runs import WeightGeometry
from ffn_probe.sketches import BitHistogram, Joint


@dataclass(frozen=True, slots=True)
class Fact:
    """What a number of a gate is; `formula` says how it is made, g being gate, u value."""

    name: str
    label: str
    unit: str
    formula: str


FACTS: tuple[Fact, ...] = (
    Fact("open", "gate open", "share", "P(g > 0)"),
    Fact("dip", "gate where the activation falls", "share", "P(g < where it is least)"),
    Fact("zero", "hidden exactly zero", "share", "P(h = 0)"),
    Fact("gate_mean", "mean gate", "unit of the gate", "E[g]"),
    Fact("gate_std", "spread of the gate", "unit of the gate", "s_g"),
    Fact("value_std", "spread of the value", "unit of the value", "s_u"),
    Fact("rho", "correlation of gate and value", "1", "rho = corr(g, u), all neurons pooled"),
    Fact("neuron_rho", "the same within a neuron", "1", "mean over neurons of |corr(g, u)|"),
    Fact("hidden", "mean hidden", "unit of the hidden", "E[h], observed"),
    Fact(
        "theory", "mean hidden, by theory", "unit of the hidden",
        "rho s_g s_u / 2, for centred Gaussians (Stein)",
    ),
    Fact("ratio", "alignment by the mean hidden", "1", "2 E[h] / (s_g s_u), theory: rho"),
    Fact("cosine", "cosine of gate and up", "1", "mean over neurons of |cos(w_g, w_u)|"),
    Fact(
        "random", "the same of random weights", "1", "sqrt(2 / (pi d_model)): what chance gives"
    ),
    Fact(
        "aligned", "aligned neurons", "share", "|cos(w_g, w_u)| > 5 / sqrt(d_model): our limit"
    ),
    Fact("pairs", "pairs of gate and value", "pairs", "sampled rows times neurons"),
)  # fmt: skip
"""The numbers in the order of display."""


def gate_facts(
    gate: BitHistogram,
    *,
    hidden: BitHistogram | None = None,
    joint: Joint | None = None,
    weights: WeightGeometry | None = None,
    activation: str = "",
) -> dict[str, float]:
    """Return the numbers that can be known, by the name of the fact; none of them is NaN.

    Args:
        gate: of the pre-activation.
        hidden: of what enters the down projection.
        joint: of gate and value; a plain MLP has none.
        weights: of the block, where they were recorded.
        activation: the name of the block's activation, which decides where it falls.
    """
    found: dict[str, float] = {}
    if gate.count:
        found["open"] = 1.0 - float(gate.cdf(0.0))
        if activation in DIPS:
            found["dip"] = float(gate.cdf(DIPS[activation]))
    if hidden is not None and hidden.count:
        found["zero"] = float(hidden.zero_share)
    if joint is not None and joint.count.any():
        found |= _joint(joint)
    if weights is not None and weights.gated:
        size = np.abs(weights.cos_gate_up[np.isfinite(weights.cos_gate_up)]).astype(np.float64)
        if size.size:
            found |= {
                "cosine": float(size.mean()),
                "random": weights.random_cosine,
                "aligned": float((size > weights.aligned).mean()),
            }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _joint(joint: Joint) -> dict[str, float]:
    weight = joint.count / joint.count.sum()
    totals = joint.pooled()
    means = {"g": joint.mean_gate, "u": joint.mean_value}
    spread = {}
    with np.errstate(all="ignore"):
        for name, squares in (("g", joint.c_gg), ("u", joint.c_uu)):
            centre = float(weight @ means[name])
            between = float(weight @ (means[name] - centre) ** 2)
            spread[name] = float(np.sqrt(squares.sum() / joint.count.sum() + between))
        each = np.abs(joint.corr_gate_value)
    known = each[np.isfinite(each)]
    return {
        "gate_mean": float(weight @ joint.mean_gate), "gate_std": spread["g"],
        "value_std": spread["u"], "rho": totals.corr_gate_value,
        "neuron_rho": float(known.mean()) if known.size else np.nan,
        "hidden": float(weight @ joint.mean_hidden),
        "theory": totals.corr_gate_value * spread["g"] * spread["u"] / 2,
        "ratio": totals.hidden_ratio, "pairs": float(joint.grid.sum()),
    }  # fmt: skip


def told(facts: Mapping[str, float], activation: str) -> str:
    """Return the finding in one sentence, "" where nothing is known."""
    if "open" not in facts:
        return ""
    said = f"the gate is open for {percent(facts['open'])} of the values"
    if "dip" in facts:
        said += f", and for {percent(facts['dip'])} {activation} falls as the gate grows"
    if "rho" in facts and "ratio" in facts:
        said += (
            f"; gate and value correlate by {number(facts['rho'], signed=True)}, by the mean "
            f"hidden by {number(facts['ratio'], signed=True)}"
        )
    return said + "."
