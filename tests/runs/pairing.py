"""A small paired run: a candidate that is the reference and noise, written window by window."""

from pathlib import Path
from typing import Any

import numpy as np

from ffn_probe.anatomy import Site
from ffn_probe.runs import Manifest, RunWriter
from tests.runs.recording import BLOCK, key

PAIRED_TABLES = ("paired", "paired_channels", "activation_error", "effects", "hypotheses")
FOLDS_SEEN = (0, 1, 2, 5, 7)
ROWS, CHANNELS = 6, 4
OUT = Site(0, BLOCK.name, "out")
GATE = Site(0, BLOCK.name, "gate")


def arrays(window: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the reference and what the candidate made of one fold."""
    rng = np.random.default_rng([window, fold, 3])
    a = rng.standard_normal((ROWS, CHANNELS))
    return a, a + 0.1 * rng.standard_normal(a.shape)


def energies(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Return the sums of a row of `paired`."""
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    centred_a, centred_b = a - a.mean(0), b - b.mean(0)
    grams = {"ab": centred_a.T @ centred_b, "aa": centred_a.T @ centred_a}
    grams["bb"] = centred_b.T @ centred_b
    return {
        "reason": "", "rows": len(a), "count": a.size, "nonfinite_a": 0, "nonfinite_b": 0,
        "energy_a": (a**2).sum(), "energy_b": (b**2).sum(), "error": ((b - a) ** 2).sum(),
        "dot": (a * b).sum(), "cross": 0.0, "max_abs": np.abs(b - a).max(), "ulps": a.size,
        "cosines": ((a * b).sum(1) / sizes).sum(), "cosine_rows": len(a),
        **{f"hsic_{name}": (gram**2).sum() for name, gram in grams.items()},
    }  # fmt: skip


def pair_tables(window: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one window, by table."""
    pairs = {fold: arrays(window, fold) for fold in FOLDS_SEEN}
    a, b = (np.concatenate([pair[side] for pair in pairs.values()]) for side in (0, 1))
    channels = {
        "count": [len(a)] * CHANNELS, "sum_a": a.sum(0), "sum_b": b.sum(0),
        "sum_aa": (a * a).sum(0), "sum_bb": (b * b).sum(0), "sum_ab": (a * b).sum(0),
    }  # fmt: skip
    gates = {
        "codes": [0, 2032, 4080], "counts": [1, 20, 3], "expected": [0.0, 0.2, 0.1],
        "error": [0.0, 0.21, 0.1],
    }  # fmt: skip
    effect = {"analysis": "output", "part": "candidate", "metric": "kl", "count": ROWS}
    story = {
        "hypothesis": "quick_gelu", "variant": "", "stage": "gate_act", "predicted_db": 39.5,
        "measured_db": 33.3, "after_db": np.inf, "floor_db": 120.0, "reached": True,
        "sentence": "the activation is quick_gelu", "fix": "hidden_act='gelu'", "rank": 0,
    }  # fmt: skip
    return {
        "paired": [
            key(OUT, window, fold) | {"view": view} | energies(*pair)
            for fold, pair in pairs.items()
            for view in ("end", "noise")
        ],
        "paired_channels": [key(OUT, window, -1) | {"view": "end"} | channels],
        "activation_error": [key(GATE, window, -1) | gates],
        "effects": [
            key(Site(-1, "", "logits"), window, fold) | effect | {"value": 0.01 * fold}
            for fold in FOLDS_SEEN
        ],
        "hypotheses": [key(OUT, window, -1) | story],
    }


def write_pair(folder: Path, *, windows: int = 2) -> None:
    """Write a closed run of kind "paired"."""
    paired = {"names": ["ref", "cand"], "blocks": [BLOCK.to_dict()], "pairs": []}
    manifest = Manifest(kind="paired", blocks=(BLOCK,), paired=paired)
    with RunWriter.create(folder, manifest) as writer:
        for window in range(windows):
            writer.write_window(window, pair_tables(window))
            writer.update(windows=window + 1)
