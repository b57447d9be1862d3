"""What a replay costs: `python -m benchmarks.replay`, in forwards of the model itself.

A Llama-like model (d 512, 8 layers) against itself, batches of 4 x 256 tokens. The cost of a
batch is the difference of a long and a short replay; that of the patches is what they add.
"""

import shutil
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ffn_probe import discover
from ffn_probe.replay import Options, replay

SHORT, LONG, REPEATS = 2, 10, 5
SHAPE = (4, 256)
VOCABULARY = 4096


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1376, num_hidden_layers=8,
        num_attention_heads=8,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    blocks = discover(model, {"input_ids": _batches(1)[0]["input_ids"][:1]})
    forward = _forward(model)
    plain = {count: _replay(model, blocks, count, Options(noise=0, patch=0))
             for count in (SHORT, LONG)}  # fmt: skip
    noisy = _replay(model, blocks, LONG, Options(noise=LONG, patch=0))
    patched = _replay(model, blocks, SHORT, Options(noise=0, patch=1))
    rows = {
        "a batch": (plain[LONG] - plain[SHORT]) / (LONG - SHORT),
        "the noise floor, a batch": (noisy - plain[LONG]) / LONG,
        "patches, a block and batch": (patched - plain[SHORT]) / len(blocks),
        "the rest, once": plain[SHORT] - SHORT * (plain[LONG] - plain[SHORT]) / (LONG - SHORT),
    }
    print(f"one forward: {forward * 1000:.0f} ms, {torch.get_num_threads()} threads\n")
    print("| replay, in forwards of the model | |\n|---|---|")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds / forward:.1f} |")


def _batches(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(VOCABULARY, SHAPE, generator=generator)}
        for _ in range(count)
    ]


@torch.no_grad()
def _forward(model: torch.nn.Module) -> float:
    (batch,) = _batches(1)
    model(**batch)
    start = time.perf_counter()
    for _ in range(REPEATS):
        model(**batch)
    return (time.perf_counter() - start) / REPEATS


def _replay(model: torch.nn.Module, blocks: object, count: int, options: Options) -> float:
    folder = Path(tempfile.mkdtemp())
    start = time.perf_counter()
    replay(model, model, _batches(count), to=folder / "run", found=blocks, options=options)
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return seconds


if __name__ == "__main__":
    main()
