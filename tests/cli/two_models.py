"""Pairs of models for the command line: a reference, a copy, and one with a bug in layer 1."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cli.user_code import VOCABULARY, Batch, Net, model, nan_weights, slow, some


class Quick(nn.Module):
    """A net whose second layer runs quick GELU for GELU."""

    def __init__(self) -> None:
        super().__init__()
        made = model()
        self.embedding, self.layers = made.embedding, made.layers

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.layers[0](self.embedding(input_ids))
        layer = self.layers[1]
        up = layer.up(layer.norm(x))
        out: Tensor = x + layer.down(up * torch.sigmoid(1.702 * up))
        return out


def reference() -> tuple[Net, list[Batch]]:
    return model(), some(4)


def quick() -> Quick:
    return Quick()


class Wide(nn.Module):
    """A net of another width."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 24)
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        out: Tensor = x + self.down(functional.gelu(self.up(self.norm(x))))
        return out


def wide() -> Wide:
    return Wide()


def nan() -> Net:
    return nan_weights()[0]


def breaking() -> Iterator[Batch]:
    """Yield three batches and fail."""
    yield from some(3)
    raise OSError("the server went away")


def endless() -> Iterator[Batch]:
    """Yield batches slowly; each is said on stderr."""
    return slow()
