"""What watching costs: forward time with each observer over the bare forward, in one run.

    python -m benchmarks.overhead [--dtype float32 bfloat16] [--repeats 5]

A Llama-like model (d 512, 8 layers, 2048 tokens) runs bare and with each observer in turn,
interleaved; the table shows the median of the ratios to the bare forward beside it. All
observers see the same seven tensors a block. What leaving costs (for ffn_probe: the flush of a
window to disk) is spread over the steps of a window.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffn_probe import attach, discover
from ffn_probe.probes.attach import WINDOW


class Block(nn.Module):
    """One pre-norm layer: attention, then SwiGLU."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream after the layer."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(b, t, d))
        h = self.norm2(x)
        return x + self.down_proj(self.act(self.gate_proj(h)) * self.up_proj(h))


class Model(nn.Module):
    """A Llama-like stack."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1024, width)
        hidden = (width * 8 // 3 + 15) // 16 * 16
        self.layers = nn.ModuleList(Block(width, hidden, width // 64) for _ in range(layers))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the last residual stream."""
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


@contextmanager
def probes(model: nn.Module, batch: dict[str, Tensor], every: int = 1) -> Iterator[None]:
    """ffn_probe at its default settings, or on every n-th step."""
    found = discover(model, batch)
    with (
        tempfile.TemporaryDirectory() as folder,
        attach(model, to=Path(folder) / "run", found=found, every=every),
    ):
        yield


@contextmanager
def hooks(model: nn.Module, make: Callable[[], Callable[[Tensor], None]]) -> Iterator[None]:
    """A plain hook at the same seven tensors of every block."""
    with ExitStack() as stack:
        for layer in model.layers:  # type: ignore[union-attr]
            for module, side in (
                (layer.norm2, "in"), (layer.norm2, "out"), (layer.gate_proj, "out"),
                (layer.act, "out"), (layer.up_proj, "out"), (layer.down_proj, "in"),
                (layer.down_proj, "out"),
            ):  # fmt: skip
                stack.callback(_hook(module, side, make()).remove)
        yield


def _hook(module: nn.Module, side: str, take: Callable[[Tensor], None]) -> object:
    if side == "in":
        return module.register_forward_pre_hook(lambda _, args: take(args[0]))
    return module.register_forward_hook(lambda _, __, out: take(out))


def naive() -> Callable[[Tensor], None]:
    """mean, std, absmax and a histogram, as one writes it in a notebook."""

    def take(x: Tensor) -> None:
        x = x.detach().float()
        kept.append((x.mean(), x.std(), x.abs().max(), torch.histc(x, 100)))
        del kept[:-1]

    kept: list[tuple[Tensor, ...]] = []
    return take


def cloning() -> Callable[[Tensor], None]:
    """A copy of the tensor, the least that any cache does."""
    kept: list[Tensor] = []

    def take(x: Tensor) -> None:
        kept[:] = [x.detach().clone()]

    return take


def quantization(name: str) -> Callable[[], Callable[[Tensor], None]]:
    """An observer of torch.ao.quantization."""
    from torch.ao import quantization as ao

    def make() -> Callable[[Tensor], None]:
        observer = getattr(ao, name)()

        def take(x: Tensor) -> None:
            observer(x.detach())

        return take

    return make


ROWS: dict[str, Callable[[nn.Module, dict[str, Tensor]], object]] = {
    "ffn_probe, default": probes,
    "ffn_probe, every=8": lambda m, b: probes(m, b, every=8),
    "naive mean/std/absmax/histc": lambda m, _: hooks(m, naive),
    "torch.ao HistogramObserver": lambda m, _: hooks(m, quantization("HistogramObserver")),
    "torch.ao MinMaxObserver": lambda m, _: hooks(m, quantization("MinMaxObserver")),
    "clone of each tensor": lambda m, _: hooks(m, cloning),
}


@torch.no_grad()
def ratios(dtype: torch.dtype, *, repeats: int, forwards: int, width: int) -> dict[str, float]:
    """Return the median ratio of each observer's time to the bare forward's."""
    torch.manual_seed(0)
    model = Model(width, 8).to(dtype).eval()
    batch = {"input_ids": torch.randint(1024, (4, 512))}
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    timed(model, batch, 2)
    for _ in range(repeats):
        for name, observer in ROWS.items():
            bare = timed(model, batch, forwards)
            with observer(model, batch):  # type: ignore[attr-defined]
                timed(model, batch, 2)
                watched = timed(model, batch, forwards)
                start = time.perf_counter()
            watched += (time.perf_counter() - start) * forwards / WINDOW
            found[name].append(watched / ((bare + timed(model, batch, forwards)) / 2))
    return {name: statistics.median(values) for name, values in found.items()}


def timed(model: nn.Module, batch: dict[str, Tensor], forwards: int) -> float:
    """Return the seconds of so many forwards."""
    start = time.perf_counter()
    for _ in range(forwards):
        model(**batch)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--forwards", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    given = parser.parse_args()
    columns = {
        name: ratios(
            getattr(torch, name),
            repeats=given.repeats, forwards=given.forwards, width=given.width,
        )
        for name in given.dtype
    }  # fmt: skip
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"| forward time over bare | {' | '.join(columns)} |")
    print("|---|" + "---|" * len(columns))
    for name in ROWS:
        cells = " | ".join(f"{column[name]:.2f}" for column in columns.values())
        print(f"| {name} | {cells} |")


if __name__ == "__main__":
    main()
