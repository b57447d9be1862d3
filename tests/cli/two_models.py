"""Pairs of models for the command line: a reference, a copy, and one with a bug in layer 1."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tests.cli.user_code import Batch, Net, model, slow, some


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


def breaking() -> Iterator[Batch]:
    """Yield three batches and fail."""
    yield from some(3)
    raise OSError("the server went away")


def endless() -> Iterator[Batch]:
    """Yield batches slowly; each is said on stderr."""
    return slow()
