"""What a user's own module may hold: models, batches, and every way to get them wrong."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

Batch = dict[str, Tensor]
VOCABULARY, LENGTH = 50, 12
TOKENS = 2 * LENGTH
"""Tokens of one batch."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 40)
        self.down = nn.Linear(40, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


class NoFfn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.one(x)


def some(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(0, VOCABULARY, (2, LENGTH), generator=generator)}
        for _ in range(count)
    ]


# Models


def model() -> Net:
    torch.manual_seed(0)
    return Net()


def pair() -> tuple[Net, list[Batch]]:
    return model(), some(6)


def with_generator() -> tuple[Net, Iterator[Batch]]:
    return model(), iter(some(6))


def with_loader() -> tuple[Net, Any]:
    rows = [row for batch in some(6) for row in batch["input_ids"]]
    return model(), DataLoader(rows, batch_size=2)  # type: ignore[arg-type]


def talking() -> tuple[Net, list[Batch]]:
    print("hello from the factory")  # noqa: T201
    return pair()


def changed() -> tuple[Net, list[Batch]]:
    net, batches = pair()
    with torch.no_grad():
        net.layers[1].up.weight *= 3
    return net, batches


def nan_weights() -> tuple[Net, list[Batch]]:
    net, batches = pair()
    with torch.no_grad():
        net.layers[1].up.weight[2, 3] = torch.nan
    return net, batches


def on_meta() -> tuple[Net, list[Batch]]:
    with torch.device("meta"):
        return Net(), some(6)


def packed() -> tuple[Net, list[Batch]]:
    net, batches = pair()
    weight = torch.ones(40, 16, dtype=torch.int8)
    net.layers[0].up.weight = nn.Parameter(weight, requires_grad=False)
    return net, batches


def no_ffn() -> tuple[NoFfn, list[Tensor]]:
    return NoFfn(), [torch.ones(2, 4)]


def with_number() -> tuple[Net, int]:
    return model(), 3


def triple() -> tuple[Net, list[Batch], int]:
    return (*pair(), 3)


def nothing() -> None:
    return None


def raising() -> Net:
    raise ValueError("boom\nin two lines")


def leaving() -> Net:
    sys.exit(7)


def needing(width: int) -> Net:
    del width
    return model()


net = model()


class Holder:
    """A name with a dot behind the colon."""

    net = net


# Batches


def data() -> list[Batch]:
    return some(20)


def streamed() -> Iterator[Batch]:
    yield from some(20)


def slow() -> Iterator[Batch]:
    for ordinal, batch in enumerate(some(5000)):
        print(f"batch {ordinal}", file=sys.stderr, flush=True)  # noqa: T201
        time.sleep(0.02)
        yield batch


def empty() -> list[Batch]:
    return []


def bad_first() -> list[Any]:
    return [{"wrong": torch.ones(2)}]


def bad_fourth() -> list[Batch]:
    batches = some(6)
    batches[3] = {"input_ids": torch.full((2, LENGTH), VOCABULARY)}
    return batches


def breaking() -> Iterator[Batch]:
    for ordinal, batch in enumerate(some(6)):
        if ordinal == 4:
            raise OSError("the server went away")
        yield batch


def text() -> str:
    return "hello"


batches = some(6)
three = 3
