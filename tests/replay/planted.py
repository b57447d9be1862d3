"""Models with one thing changed, for the tests of a replay."""

from types import MethodType

import torch
from torch import Tensor, nn

from sample_runs.tiny_lm import TinyLM, load


def quick_gelu(self: nn.Module, x: Tensor) -> Tensor:
    """Run the MLP with x sigmoid(1.702 x) in place of GELU."""
    h = self.up(x)
    return self.down(h * torch.sigmoid(1.702 * h))


def with_quick_gelu(layer: int) -> TinyLM:
    """Return ln-gelu with quick-GELU in one layer."""
    model = load("ln-gelu")
    ffn = model.layers[layer].ffn
    ffn.forward = MethodType(quick_gelu, ffn)
    return model


def with_rms_norms() -> TinyLM:
    """Return ln-gelu whose FFN norms are RMSNorms with the same gain."""
    model = load("ln-gelu")
    for layer in model.layers:
        norm = nn.RMSNorm(96, eps=1e-5)
        norm.weight = layer.ffn_norm.weight
        layer.ffn_norm = norm
    return model


def with_scaled(name: str, path: str, factor: float) -> TinyLM:
    """Return a sample model with one weight scaled."""
    model = load(name)
    with torch.no_grad():
        model.get_parameter(path).mul_(factor)
    return model


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    return {name: value.clone() for name, value in model.state_dict().items()}
