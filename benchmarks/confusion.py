"""Plant every bug in every model it fits, and count what the autopsy calls it.

python -m benchmarks.confusion                          # print the table
python -m benchmarks.confusion --write docs/confusion.md
python -m benchmarks.confusion --only "permuted,clamp"  # some of the bugs
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.replay.autopsy.hosts import HOSTS, Host
from tests.replay.autopsy.naming import FLOOR, INVISIBLE, cases, judged, named, told
from tests.replay.autopsy.planted import (
    Plant,
    folded_gain,
    permuted_alike,
    rewritten,
)  # fmt: skip

HARMLESS = (
    Plant(FLOOR, lambda _host, _model: None, "nothing (the model itself, cast)"),
    Plant(FLOOR, rewritten, "nothing (the block written anew)", also=("cast order",)),
    Plant(FLOOR, permuted_alike, "neurons permuted in all matrices alike"),
    Plant(FLOOR, folded_gain, "gain folded into the projections", dtypes=(torch.float32,)),
)
"""What is no bug: these must not be called one."""

INTRO = """# What the autopsy calls a bug that was planted

Made by `python -m benchmarks.confusion --write docs/confusion.md`: every bug below is written,
in plain PyTorch, into the block of one layer of six models, in float32 and in bfloat16, and
`autopsy(reference, candidate, batches)` is asked what is wrong. The models: the sample models
`ln-gelu` and `rms-swiglu`, a Llama and a GPT-2 of transformers, a GLU with gate and up in one
matrix, biases and a (1 + w) norm (`fused`), and the clamped gating of gpt-oss (`clamped`).
"Also called" holds every name that is not the planted one, and how often it came first.

"""

SAME = """
## Bugs that are the same function

Some bugs cannot be told apart, because they compute the same numbers. The autopsy lists all
names that explain the candidate equally well; the table counts each of them as right.

- Gate and up swapped, the halves of a fused matrix in the wrong order, and the activation on
  the value branch. Where gate and up lie in one matrix the second name comes first.
- x sigmoid(x), with beta 1 instead of 1.702, and SiLU.
- A gain that is not multiplied by, and one that was to be folded into the projections and was
  not.
- A clamp of gpt-oss behind the activation instead of before it: beyond the clamp the two
  differ by 5e-5, which bfloat16 cannot hold; planted in float32 alone.
- eps inside or outside of the root, where the stream is large: planted in float32 alone.
"""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the Markdown file to write")
    parser.add_argument("--only", default="", help="parts of names of bugs, with commas")
    options = parser.parse_args()
    started = time.monotonic()
    found = list(_runs([part for part in options.only.split(",") if part]))
    text = _page(found)
    print(text)
    print(f"{len(found)} models in {time.monotonic() - started:.0f} s")
    if options.write is not None:
        options.write.write_text(text)


def _runs(only: list[str]) -> Iterator[tuple[Plant, Host, torch.dtype, str]]:
    """Yield what each planted bug is called."""
    harmless = [
        (plant, host, dtype)
        for plant in HARMLESS
        for host in HOSTS.values()
        for dtype in plant.dtypes
    ]
    for plant, host, dtype in (*cases(), *harmless):
        if not only or any(part in plant.name for part in only):
            yield plant, host, dtype, told(judged(plant, host, dtype))


def _right(plant: Plant, host: Host, dtype: torch.dtype, name: str) -> bool:
    hidden = dtype is torch.bfloat16 and (host.name, plant.name) in INVISIBLE
    return name == FLOOR if hidden else named(plant, name)


def _page(found: list[tuple[Plant, Host, torch.dtype, str]]) -> str:
    right = [_right(*run) for run in found]
    wrong = len(right) - sum(right)
    head = (
        f"Named first, or rightly passed over: **{sum(right)} of {len(right)}**; misnamed, "
        f"missed or unexplained: {wrong}."
    )
    columns = "| planted | models | right | float32 | bfloat16 | also called |"
    names = dict.fromkeys(plant.name for plant, *_ in found)
    rows = [_row(name, [run for run in found if run[0].name == name]) for name in names]
    table = "\n".join([head, "", columns, "|---|---:|---:|---|---|---|", *rows])
    invisible = [
        f'- {plant} in `{host}`: {why}. The autopsy says "{FLOOR}".'
        for (host, plant), why in INVISIBLE.items()
    ]
    below = "\n## Below the rounding of bfloat16\n"
    return INTRO + table + "\n" + SAME + "\n".join([below, *invisible]) + "\n"


def _row(name: str, runs: list[tuple[Plant, Host, torch.dtype, str]]) -> str:
    """Return the row of one bug: how often it was named, and what else it was called."""
    cells = []
    for dtype in (torch.float32, torch.bfloat16):
        mine = [_right(*run) for run in runs if run[2] is dtype]
        cells.append(f"{sum(mine)}/{len(mine)}" if mine else "")
    said = Counter(run[3] for run in runs if not run[3].startswith(run[0].expected))
    also = ", ".join(f"{other} x{count}" for other, count in said.most_common())
    right = sum(_right(*run) for run in runs)
    return f"| {name} | {len(runs)} | {right} | {cells[0]} | {cells[1]} | {also} |"


if __name__ == "__main__":
    main()
