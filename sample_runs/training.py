"""Two short trainings in float16 with a probe on: one that is well, one that runs too hot.

Both start from the same weights and see the same text. `train-healthy` warms up, clips its
gradient and lets the learning rate fall; `train-hot` clips nothing and doubles the learning
rate every seventy steps: the values grow until they are beyond what float16 can hold. A step
whose gradient is no number is skipped, as is usual in float16.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sample_runs.tiny_lm import Shape, TinyLM, batches, loss

HERE = Path(__file__).parent
SHAPE = Shape(norm=nn.RMSNorm, glu=True, d_ff=128, d_model=48, layers=4)
STEPS = 480
AFTER = 40  # steps whose gradient is no number; then a training is given up
EVERY = 2  # one step in two is watched
WINDOW = 4  # watched steps: a window is eight steps, a run sixty windows
SEED = 21


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a training goes: the learning rate at its start and what becomes of it, the clip."""

    peak: float
    warmup: int
    halvings: float  # of the learning rate over the whole training; below zero it doubles
    clip: float

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return (
            self.peak
            * min(1.0, (step + 1) / self.warmup)
            * 2 ** (-self.halvings * step / STEPS)
        )


RECIPES = {
    "train-healthy": Recipe(peak=4e-3, warmup=40, halvings=3, clip=1.0),
    "train-hot": Recipe(peak=4e-3, warmup=1, halvings=-7, clip=math.inf),
}


def record_training(name: str, target: Path) -> None:
    """Train one of RECIPES with a probe on; the run at `target` must not exist."""
    import ffn_probe

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    recipe = RECIPES[name]
    model = TinyLM(SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    data = list(batches("train", count=STEPS, sequences=8, length=64, seed=SEED))
    options = {"every": EVERY, "window": WINDOW, "rows": 128, "tags": {"sample": name}}
    bad = 0
    with ffn_probe.attach(model, to=target, example=data[0], **options) as probe:
        for step, batch in enumerate(data):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            with torch.autocast("cpu", dtype=torch.float16):
                logits = model(**batch)
            value = loss(logits.float(), **batch)
            optimizer.zero_grad()
            value.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            if math.isfinite(norm):
                optimizer.step()
            probe.step(loss=value, grad_norm=norm, lr=recipe.rate(step))
            bad += not math.isfinite(norm)
            if bad > AFTER:
                break


def rebuild() -> None:
    """Record both trainings under `sample_runs/`, replacing the old runs."""
    for name in RECIPES:
        target = HERE / name
        shutil.rmtree(target, ignore_errors=True)
        record_training(name, target)
        print(f"trained {target}")
