"""Whether a name is the one of a plant, and what an autopsy of a plant says."""

from collections.abc import Iterator

import torch

from ffn_probe.replay.autopsy import Autopsy, autopsy
from tests.replay.autopsy.hosts import HOSTS, LAYER, Host, batches, blocks, reference
from tests.replay.autopsy.planted import NARROW, PLANTS, Plant, candidate

FLOOR = "no difference above the floor"

INVISIBLE = {("clamped", "eps 1e-06 instead of"): "107 dB in float32 at a stream of RMS 1"}
"""Bugs that change nothing which bfloat16 can hold: (host, plant) -> why."""


def named(plant: Plant, name: str) -> bool:
    """Return whether `name` says what was planted."""
    if plant.expected == "weights of another layer":
        return name.startswith("weights of ") and "norm" not in name
    if plant.expected == "two bugs":
        return "relu instead" in name and "projection bias dropped" in name
    started = plant.expected.endswith("instead of") and name.startswith(plant.expected)
    return name == plant.expected or name in plant.also or started


def told(found: Autopsy) -> str:
    """Return the name that stands first, or what is said instead."""
    first = next((h for h in found.hypotheses if h.reached), None)
    if first is not None:
        return first.name
    statuses = {f.status for f in found.findings}
    return "unexplained" if "unexplained" in statuses else FLOOR


def judged(plant: Plant, host: Host, dtype: torch.dtype) -> Autopsy:
    """Return the autopsy of a model with one planted bug."""
    return autopsy(
        reference(host.name), candidate(plant, host, dtype), batches(),
        found=blocks(host.name), blocks=[LAYER], rows=256,
    )  # fmt: skip


def cases() -> Iterator[tuple[Plant, Host, torch.dtype]]:
    """Yield every bug in every model it fits, in each dtype it can be seen in."""
    for plant in PLANTS:
        for host in HOSTS.values():
            if plant.fits(host):
                for dtype in plant.dtypes:
                    yield plant, host, dtype


def visible(plant: Plant, host: Host, dtype: torch.dtype) -> bool:
    return dtype is not NARROW or (host.name, plant.name) not in INVISIBLE
