"""A LayerNorm run as an RMSNorm, or the other way: the change by its three exact causes.

For one token of mean mu and standard deviation sigma, r = mu / sigma, without gain and eps:
LN = sqrt(1 + r^2) RMS - r 1. So what a LayerNorm's output loses is a scale, what leaks of the
mean, and the bias; each has an energy, and together they predict the error.
"""

import torch
from torch import Tensor

from ffn_probe.replay.parts import NormPart
from ffn_probe.zoo.norms import NORMS

CAUSES = ("scale", "mean_leakage", "bias_loss", "gain_change")


def kind_of(part: NormPart) -> str:
    """Return "layernorm", "rmsnorm" or "other"."""
    return next((n.kind for n in NORMS if n.name == part.form), "other")


def norm_split(a: NormPart, b: NormPart, resid: Tensor) -> dict[str, Tensor]:
    """Return the energies of the causes, of the prediction and of what was seen, one a row.

    Args:
        a: the reference's norm.
        b: the candidate's; one of the two is a LayerNorm and the other an RMSNorm.
        resid: rows of the residual stream, [rows, d_model].

    Returns:
        The names of CAUSES, "predicted" (the energy of their sum), "observed" (of candidate
        less reference, eps included) and "energy" (of the reference's output), float64 [rows].
    """
    x = resid.double()
    mean = x.mean(1, keepdim=True)
    spread = (x - mean).square().mean(1, keepdim=True).sqrt()
    rms = x.square().mean(1, keepdim=True).sqrt()
    unit = x / torch.where(rms > 0, rms, 1)
    r = mean / torch.where(spread > 0, spread, 1)
    sign = 1.0 if kind_of(a) == "layernorm" else -1.0
    gain, other = _gain(a, x), _gain(b, x)
    scale = sign * gain * (1 - (1 + r.square()).sqrt()) * unit
    leak = sign * gain * r.expand_as(unit)
    bias = (_bias(b, x) - _bias(a, x)).expand_as(unit)
    plain_b = unit if sign > 0 else (1 + r.square()).sqrt() * unit - r
    change = (other - gain) * plain_b
    causes = (scale, leak, bias, change)
    found = {name: _energy(v) for name, v in zip(CAUSES, causes, strict=True)}
    before, after = a.apply(x), b.apply(x)
    return {
        **found,
        "predicted": _energy(scale + leak + bias + change),
        "observed": _energy(after - before),
        "energy": _energy(before),
    }


def _energy(rows: Tensor) -> Tensor:
    return rows.square().sum(1)


def _gain(part: NormPart, x: Tensor) -> Tensor:
    """Return the gain as a vector, 1 + w where the form adds it."""
    form = next((n for n in NORMS if n.name == part.form), None)
    if part.weight is None:
        return torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    weight = part.weight.to(x.device, x.dtype)
    return weight + 1 if form is not None and form.gain == "1+w" else weight


def _bias(part: NormPart, x: Tensor) -> Tensor:
    if part.bias is None:
        return torch.zeros(x.shape[1], dtype=x.dtype, device=x.device)
    return part.bias.to(x.device, x.dtype)
