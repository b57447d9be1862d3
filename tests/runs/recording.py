"""A run of three sites whose values are known, written window by window."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ffn_probe.anatomy import Block, Norm, Projection, Site, Tap
from ffn_probe.runs import Manifest, RunWriter, WeightGeometry, trend_rows
from ffn_probe.sketches import (
    BitHistogram,
    Channels,
    Extremes,
    Joint,
    Moments,
    QuantNoise,
    Summary,
)

BLOCK = Block(
    name="model.layers.0.mlp",
    layer=0,
    kind="glu",
    activation="silu",
    norm=Norm("rmsnorm", "model.layers.0.norm", gain="w", eps=1e-6, cast="llama"),
    projections={"down": Projection("model.layers.0.mlp.down_proj")},
    d_model=4,
    d_ff=6,
    taps=(Tap("hidden", "input", "model.layers.0.mlp.down_proj"),),
)
SITES = (
    Site(0, BLOCK.name, "resid"),
    Site(0, BLOCK.name, "hidden"),
    Site(1, "model.layers.1.mlp", "hidden", 3),
)
WIDTH = {"resid": 4, "hidden": 6}
WINDOWS, BATCHES = 3, 20

Values = Mapping[tuple[Site, int, int], np.ndarray]
"""(site, window, fold) -> the float32 rows seen there."""


def values(seed: int = 5) -> dict[tuple[Site, int, int], np.ndarray]:
    """Return batches of unlike sizes; some folds stay empty, some values are not finite."""
    rng = np.random.default_rng(seed)
    found = {}
    for site in SITES:
        for window in range(WINDOWS):
            for fold in rng.choice(16, size=9, replace=False).tolist():
                rows = rng.standard_normal((int(rng.integers(1, 40)), WIDTH[site.role]))
                rows *= rng.choice([0.0, 1.0, 30.0], size=rows.shape, p=[0.1, 0.85, 0.05])
                if fold == 3:
                    rows[0, :3] = [np.nan, np.inf, -np.inf]
                found[site, window, fold] = rows.astype(np.float32)
    return found


def noise_of(rows: np.ndarray) -> QuantNoise:
    return QuantNoise.measured(rows, {"int8:tensor": np.rint(rows), "mxfp4:block": rows * 0.5})


def joint_of(rows: np.ndarray) -> Joint:
    return Joint.of(rows, np.roll(rows, 1, axis=1), np.maximum(rows, 0))


def key(site: Site, window: int, fold: int) -> dict[str, Any]:
    """Return the key columns of a row."""
    return {
        "window": window, "fold": fold, "layer": site.layer, "block": site.block,
        "role": site.role, "expert": site.expert, "dp": 0, "tp": 0, "pp": 0, "ep": 0,
    }  # fmt: skip


def geometry(window: int) -> WeightGeometry:
    """Return the weights of the block, which grew from window to window."""
    neurons, channels = np.arange(6, dtype=np.float32), np.arange(4, dtype=np.float32)
    size = neurons + window
    return WeightGeometry(
        neurons / 6, size, 2 * size, 3 * size, channels, channels, channels + window, channels
    )


def tables(data: Values, window: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one window, by table."""
    found: dict[str, list[dict[str, Any]]] = {}
    for site in SITES:
        parts = {f: rows for (s, w, f), rows in data.items() if (s, w) == (site, window)}
        for table, fold, row in _rows(parts, joint=site.role == "hidden"):
            found.setdefault(table, []).append(key(site, window, fold) | row)
    weights = key(SITES[1], window, -1) | geometry(window).to_row()
    return found | {"weights": [weights]}


def write(
    folder: Path, data: Values, *, windows: int = WINDOWS, manifest: Manifest | None = None
) -> None:
    """Write a closed run."""
    with RunWriter.create(folder, manifest or Manifest(blocks=(BLOCK,))) as writer:
        for window in range(windows):
            line = {"window": window, "step": window, "name": "loss", "value": 2.5, "dp": 0}
            found = tables(data, window)
            steps = (window, window)
            found["trends"] = trend_rows(found, (BLOCK,), window=window, steps=steps)
            writer.write_window(window, found | {"metrics": [line]})
            writer.update(windows=window + 1)


def whole(data: Values, site: Site) -> Summary:
    """Return the summary of all rows of a site, made in one go."""
    rows = np.concatenate([x for (s, _, _), x in data.items() if s == site])
    noises = [noise_of(x) for (s, _, _), x in data.items() if s == site]
    total = QuantNoise.empty()
    for noise in noises:
        total = total.merge(noise)
    joint = joint_of(rows) if site.role == "hidden" else None
    return Summary.of(rows, joint=joint, quant=total)


def _rows(
    parts: Mapping[int, np.ndarray], *, joint: bool
) -> Iterator[tuple[str, int, dict[str, object]]]:
    everything = np.concatenate(list(parts.values()))
    for fold, rows in parts.items():
        counts = {"seen_rows": len(rows), "sampled_rows": len(rows), "dtype": "float32"}
        yield "moments", fold, counts | Moments.of(rows).to_row()
        yield "histograms", fold, BitHistogram.of(rows, 3).to_row()
        yield "extremes", fold, Extremes.of(rows).to_row()
        yield "quant", fold, noise_of(rows).to_row()
    yield "histograms", -1, BitHistogram.of(everything).to_row()
    for half in (0, 1):
        rows = [x for fold, x in parts.items() if fold % 2 == half]
        yield "channels", -2 - half, Channels.of(np.concatenate(rows)).to_row()
    if joint:
        yield "joint", -1, joint_of(everything).to_row()
