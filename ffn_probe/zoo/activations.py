"""Every activation that FFNs use, as a plain function of a tensor, with its source.

Functions work in any floating dtype; parameters are keywords with the published defaults.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ffn_probe.errors import UnknownName


@dataclass(frozen=True, slots=True)
class Activation:
    """A named pointwise function: `function(x, **params)`; `params` holds the defaults."""

    name: str
    function: Callable[..., Tensor]
    source: str
    params: Mapping[str, float] = field(default_factory=dict)


def swish(x: Tensor, beta: float) -> Tensor:
    """Return x sigmoid(beta x)."""
    return x * torch.sigmoid(beta * x)


def relu2(x: Tensor) -> Tensor:
    """Return max(0, x) squared."""
    return torch.square(F.relu(x))


def xielu(x: Tensor, alpha_p: float, alpha_n: float, beta: float) -> Tensor:
    """Return the expanded integral of the ELU (alpha_p, alpha_n after softplus)."""
    positive = alpha_p * x * x + beta * x
    negative = (torch.expm1(torch.clamp(x, max=0)) - x) * alpha_n + beta * x
    return torch.where(x > 0, positive, negative)


def laplace(x: Tensor, mu: float, sigma: float) -> Tensor:
    """Return the Laplace activation of MEGA."""
    return 0.5 * (1.0 + torch.erf((x - mu) / (sigma * 2**0.5)))


def gelu_10(x: Tensor) -> Tensor:
    """Return the exact GELU, kept within -10 .. 10."""
    return F.gelu(x).clamp(-10.0, 10.0)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: tuple[Activation, ...] = (
    Activation("silu", F.silu, "Elfwing et al. 2017; Swish with beta 1"),
    Activation("gelu", F.gelu, "Hendrycks & Gimpel 2016, exact (erf)"),
    Activation("gelu_tanh", _gelu_tanh, "Hendrycks & Gimpel 2016, tanh approximation"),
    Activation(
        "quick_gelu", lambda x: swish(x, 1.702), "Hendrycks & Gimpel 2016, x sig(1.702 x)"
    ),
    Activation("relu", F.relu, "Nair & Hinton 2010"),
    Activation("relu2", relu2, "So et al. 2021 (Primer)"),
    Activation("sigmoid", torch.sigmoid, "Dauphin et al. 2017 (GLU)"),
    Activation("tanh", torch.tanh, "classic"),
    Activation("identity", lambda x: x, "Shazeer 2020 (bilinear)"),
    Activation("mish", F.mish, "Misra 2019"),
    Activation("relu6", F.relu6, "Krizhevsky 2010"),
    Activation("hardswish", F.hardswish, "Howard et al. 2019"),
    Activation("hardsigmoid", F.hardsigmoid, "Courbariaux et al. 2015"),
    Activation("softplus", F.softplus, "Dugas et al. 2001"),
    Activation("gelu_10", gelu_10, "Wu et al. 2020 (integer quantization)"),
    Activation("sqrtsoftplus", lambda x: F.softplus(x).sqrt(), "a router's score function"),
    Activation("softsign", F.softsign, "Turian et al. 2009"),
    Activation("selu", F.selu, "Klambauer et al. 2017"),
    Activation(
        "laplace", laplace, "Ma et al. 2022 (MEGA)", {"mu": 0.707107, "sigma": 0.282095}
    ),
    Activation("leaky_relu", F.leaky_relu, "Maas et al. 2013", {"negative_slope": 0.01}),
    Activation("elu", F.elu, "Clevert et al. 2015", {"alpha": 1.0}),
    Activation("swish_beta", swish, "Ramachandran et al. 2017", {"beta": 1.0}),
    Activation(
        "xielu", xielu, "Huang & Schlag 2024", {"alpha_p": 0.8, "alpha_n": 1.3, "beta": 0.5}
    ),
)
"""The activations in the order in which a fingerprint tries them."""


def activation(name: str) -> Activation:
    """Return the activation of that name.

    Raises:
        UnknownName: no activation has it.
    """
    for entry in ACTIVATIONS:
        if entry.name == name:
            return entry
    raise UnknownName.of("activation", name, [entry.name for entry in ACTIVATIONS])
