"""Train the four sample models, record and replay them: `python -m sample_runs.make`.

Rebuilds everything under `sample_runs/` that is not code: the weights, the training losses,
the runs and the paired runs. `--step train`, `record`, `replay` or `training` does one part.
Takes about twenty minutes on two cores. Runs are bit-identical on one machine and Python;
another Python carries other sources.
"""

import argparse
import hashlib
import json
import math
import platform
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save_file

from sample_runs.tiny_lm import (
    MODELS,
    VARIANTS,
    VOCABULARY,
    TinyLM,
    batches,
    held_back,
    load,
    loss,
    text,
)
from sample_runs.training import rebuild

HERE = Path(__file__).parent
PAIRS = {
    "swap-naive": ("ln-gelu", None, "norm=rmsnorm,activation=silu"),
    "swap-exact": ("ln-gelu", None, "norm=rmsnorm,norms=all,how=exact"),
    "trained-apart": ("ln-gelu", "rms-swiglu", None),
}
"""Name -> reference, candidate (None: the swapped reference), swap."""
STEPS = 2400
SEQUENCES = 16
PEAK = 3e-3
WARMUP = 60
SEED = 20


def main() -> None:
    """Train, then record, and print what was learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--step",
        choices=["all", "train", "record", "replay", "training"],
        default="all",
        help="train: weights and losses; record: runs of the stored weights (half a minute); "
        "replay: paired runs of them (two minutes); training: two recorded trainings (two "
        "minutes)",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps")
    arguments = parser.parse_args()
    if arguments.step in {"all", "train"}:
        train_all(arguments.steps)
    if arguments.step in {"all", "record"}:
        for name in VARIANTS:
            record(name)
    if arguments.step in {"all", "replay"}:
        for name in PAIRS:
            pair(name)
        planted()
    if arguments.step in {"all", "training"}:
        rebuild()
    print(learned((HERE / "training.json").read_text()))


def train_all(steps: int) -> None:
    """Train every variant, two at a time, and write the weights and `training.json`."""
    MODELS.mkdir(exist_ok=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        histories = list(pool.map(train, VARIANTS, [steps] * len(VARIANTS)))
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seed": SEED,
        "steps": steps,
        "tokens": steps * SEQUENCES * 256,
        "train_text": digest("train"),
        "held_back_text": digest("held-back"),
        "unit": "nats per byte",
        "unigram": unigram(),
        "models": dict(zip(VARIANTS, histories, strict=True)),
    }
    (HERE / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def train(name: str, steps: int) -> dict[str, object]:
    """Train one variant from the fixed seed, store its weights, return its losses."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = TinyLM(VARIANTS[name])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    losses = []
    data = batches("train", count=steps, sequences=SEQUENCES, seed=SEED)
    for step, batch in enumerate(data):
        value = loss(model(**batch), **batch)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(value.item())
        if step % 50 == 49:
            print(f"{name} step {step + 1}/{steps}: {mean(losses[-50:]):.3f}", flush=True)
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, MODELS / f"{name}.safetensors")
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "train": [round(mean(losses[i : i + 50]), 4) for i in range(0, len(losses), 50)],
        "held_back": round(validate(load(name)), 4),
    }


def rate(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a warm-up, then a cosine to a tenth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.inference_mode()
def validate(model: TinyLM) -> float:
    """Return the loss on the text of the recordings, in nats per byte."""
    return mean([loss(model(**batch), **batch).item() for batch in held_back()])


def unigram() -> float:
    """Return the loss of the training text's byte frequencies on the held-back text."""
    counts = Counter(text("train"))
    total = sum(counts.values()) + 256
    held = text("held-back")
    return round(-mean([math.log((counts[byte] + 1) / total) for byte in held]), 4)


def record(name: str) -> None:
    """Record one trained variant on the held-back text, replacing its old run."""
    import ffn_probe

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    target = HERE / name
    shutil.rmtree(target, ignore_errors=True)
    learned = json.loads((HERE / "training.json").read_text())["models"][name]["held_back"]
    ffn_probe.record(
        load(name),
        held_back(),
        to=target,
        window=16,
        vocabulary={byte: letter(byte) for byte in range(VOCABULARY)},
        tags={"sample": name, "held_back_loss": f"{learned:.4f}"},
    )
    print(f"recorded {target}")


def letter(byte: int) -> str:
    """Return the text of a token, which is a byte."""
    return chr(byte) if byte < 128 else f"<0x{byte:02X}>"


def pair(name: str) -> None:
    """Replay one of PAIRS and store the paired run, replacing the old one."""
    import ffn_probe

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    reference, candidate, wanted = PAIRS[name]
    target = HERE / name
    shutil.rmtree(target, ignore_errors=True)
    run = ffn_probe.replay(
        load(reference),
        None if candidate is None else load(candidate),
        held_back(count=16),
        to=target,
        swap=None if wanted is None else ffn_probe.Swap.parse(wanted),
        names=(reference, candidate or f"{reference}, {wanted}"),
        tags={"sample": name},
    )
    print(f"replayed {target}: {run.explain().verdict}")


def planted() -> None:
    """Replay all-MiniLM-L6-v2 (from PyPI) with a planted bug, as the demo does."""
    from ffn_probe.cli.demo import replay_planted

    torch.set_num_threads(1)
    target = HERE / "planted"
    shutil.rmtree(target, ignore_errors=True)
    replay_planted(target)


def learned(facts: str) -> str:
    """Return the table of losses that `training.json` holds."""
    data = json.loads(facts)
    lines = [
        f"{'model':12} {'parameters':>10} {'held-back loss':>14}",
        f"{'unigram':12} {'':>10} {data['unigram']:14.3f}",
    ]
    for name, model in data["models"].items():
        lines.append(f"{name:12} {model['parameters']:10,} {model['held_back']:14.3f}")
    return "\n".join(lines)


def digest(split: str) -> str:
    """Return the SHA-256 of the text of a split."""
    return hashlib.sha256(text(split)).hexdigest()


def mean(values: list[float]) -> float:
    """Return the average."""
    return math.fsum(values) / len(values)


if __name__ == "__main__":
    main()
