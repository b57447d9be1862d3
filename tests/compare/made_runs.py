"""Runs made of plain arrays: for each site, the values of every fold."""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from ffn_probe.anatomy import Block, Norm, Site, Tap
from ffn_probe.runs import EVEN, ODD, WHOLE, Manifest, Run, RunWriter
from ffn_probe.sketches import BitHistogram, Channels, Extremes, Moments

Values = Sequence[np.ndarray]
RANKS = {"dp": 0, "tp": 0, "pp": 0, "ep": 0}


def make_run(
    path: Path,
    sites: Mapping[Site, Values],
    *,
    inputs: str = "",
    blocks: Sequence[Block] | None = None,
    close: bool = True,
    **manifest: Any,
) -> Run:
    """Write a run of these sites and open it. `inputs` names the inputs; "" is not hashed."""
    folds = max((len(values) for values in sites.values()), default=0)
    hashed = tuple(
        {
            "hash": f"{inputs}-{k}" if inputs and k < folds else "",
            "batches": int(k < folds),
            "tokens": 1,
        }
        for k in range(16)
    )
    fields = {
        "blocks": tuple(blocks if blocks is not None else made_blocks(sites)),
        "folds": hashed,
        "sampling": {"rows": 512, "folds": 16},
    }
    writer = RunWriter.create(path, Manifest(**(fields | manifest)))
    tables: dict[str, list[dict[str, Any]]] = {}
    for site, values in sites.items():
        for table, row in _rows(site, values):
            tables.setdefault(table, []).append(row)
    writer.write_window(0, tables)
    if close:
        writer.close(windows=1)
    return Run.open(path)


def made_blocks(sites: Mapping[Site, Values]) -> list[Block]:
    """Return a plausible block for each block name of the sites."""
    found: dict[str, list[Site]] = {}
    for site in sites:
        found.setdefault(site.block, []).append(site)
    return [
        Block(
            name=name,
            layer=listed[0].layer,
            kind="glu" if any(s.role == "value" for s in listed) else "mlp",
            activation="silu",
            norm=Norm("rmsnorm", eps=1e-6),
            projections={},
            d_model=8,
            d_ff=16,
            experts=len({s.expert for s in listed if s.expert >= 0}),
            taps=tuple(Tap(s.role, "output", name) for s in listed),
        )
        for name, listed in found.items()
    ]


def _rows(site: Site, values: Values) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for fold, x in enumerate(values):
        key = _key(site, fold)
        size = {"seen_rows": x.shape[0], "sampled_rows": x.shape[0], "dtype": str(x.dtype)}
        rows += [
            ("moments", key | size | Moments.of(x).to_row()),
            ("extremes", key | Extremes.of(x).to_row()),
            ("histograms", key | BitHistogram.of(x, 3).to_row()),
        ]
    whole = reduce(lambda a, b: a.merge(b), [BitHistogram.of(x) for x in values])
    rows.append(("histograms", _key(site, WHOLE) | whole.to_row()))
    for fold, chosen in ((EVEN, values[::2]), (ODD, values[1::2])):
        if chosen:
            channels = reduce(lambda a, b: a.merge(b), [Channels.of(x) for x in chosen])
            rows.append(("channels", _key(site, fold) | channels.to_row()))
    return rows


def _key(site: Site, fold: int) -> dict[str, Any]:
    where = {"layer": site.layer, "block": site.block, "role": site.role}
    return {"window": 0, "fold": fold, **where, "expert": site.expert, **RANKS}


def draws(
    seed: int,
    *,
    folds: int = 16,
    rows: int = 64,
    channels: int = 16,
    correlation: float = 0.0,
    heavy: bool = False,
) -> list[np.ndarray]:
    """Return normal values (or Student's t, 4 degrees of freedom), a fold at a time.

    `correlation` is the share of the variance that a fold has in common.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(folds):
        own = (
            generator.standard_t(4, size=(rows, channels))
            if heavy
            else generator.standard_normal((rows, channels))
        )
        common = generator.standard_normal((1, channels))
        mixed = np.sqrt(1 - correlation) * own + np.sqrt(correlation) * common
        found.append(mixed.astype(np.float32))
    return found
