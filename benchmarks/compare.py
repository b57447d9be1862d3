"""How long comparing two runs of a large model takes.

Makes two synthetic runs in a temporary folder (80 layers, 7 roles, 16 folds, up to 28,672
channels by default), then times opening with reading of the Parquet parts, and `compare`
on what was read. Run: python benchmarks/compare.py [--layers 80] [--repeats 3]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ffn_probe.anatomy import ROLES, Block, Norm, Site, Tap
from ffn_probe.compare import Drift, compare
from ffn_probe.runs import EVEN, FOLDS, ODD, WHOLE, Manifest, Run, RunWriter
from ffn_probe.sketches import BitHistogram, Channels, Extremes, Moments

D_MODEL, D_FF = 8192, 28672
RANKS = {"dp": 0, "tp": 0, "pp": 0, "ep": 0}
SAMPLES = 60_000  # values a fold


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _write(home / "a", given.layers, seed=0, inputs="x", scale=1.0)
        _write(home / "paired", given.layers, seed=0, inputs="x", scale=1.05)
        _write(home / "unpaired", given.layers, seed=1, inputs="y", scale=1.05)
        size = f"{given.layers} layers x {len(ROLES)} roles x {FOLDS} folds"
        print(f"{size}, best of {given.repeats}")
        print(f"{'step':34} {'seconds':>8}")
        for other in ("paired", "unpaired"):
            _time(home / "a", home / other, other, given.repeats)


def _time(a: Path, b: Path, name: str, repeats: int) -> None:
    runs = [Run.open(a), Run.open(b)]
    read = _best(lambda: [_read(Run.open(path)) for path in (a, b)], repeats)
    for run in runs:
        _read(run)
    drift: list[Drift] = []
    seconds = _best(lambda: drift.append(compare(*runs)), repeats)
    table = _best(drift[0].table, repeats)
    print(f"{name + ': read both runs':34} {read:8.2f}")
    print(f"{name + ': compare ' + str(len(drift[0].sites)) + ' sites':34} {seconds:8.2f}")
    print(f"{name + ': table':34} {table:8.2f}")
    print(f"  {drift[0].verdict.status}: {drift[0].verdict.sentence}")


def _read(run: Run) -> None:
    for table in ("moments", "extremes", "histograms", "channels"):
        run.load(table)


def _best(call: Callable[[], Any], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _write(path: Path, layers: int, *, seed: int, inputs: str, scale: float) -> None:
    """Write a run; the sketches of a few drawn tensors stand for all layers."""
    folds = tuple({"hash": f"{inputs}{k}", "batches": 1, "tokens": 1} for k in range(FOLDS))
    blocks = tuple(_block(layer) for layer in range(layers))
    writer = RunWriter.create(path, Manifest(blocks=blocks, folds=folds))
    drawn = {width: _sketched(width, seed, scale) for width in (D_MODEL, D_FF)}
    for layer in range(layers):
        tables: dict[str, list[dict[str, Any]]] = {}
        for role in ROLES:
            width = D_FF if role in {"gate", "gate_act", "value", "hidden"} else D_MODEL
            site = Site(layer, f"model.layers.{layer}.mlp", role)
            for table, fold, row in drawn[width]:
                where = {"layer": layer, "block": site.block, "role": role, "expert": -1}
                key = {"window": 0, "fold": fold} | where | RANKS | {"pp": layer}
                tables.setdefault(table, []).append(key | row)
        writer.write_window(0, tables, rank=f"{layer}")
    writer.close(windows=1)


def _sketched(width: int, seed: int, scale: float) -> list[tuple[str, int, dict[str, Any]]]:
    generator = np.random.default_rng(seed)
    rows: list[tuple[str, int, dict[str, Any]]] = []
    whole = BitHistogram.empty()
    for fold in range(FOLDS):
        x = (scale * generator.standard_t(4, (SAMPLES // 2048, 2048))).astype(np.float32)
        seen = {"seen_rows": x.shape[0], "sampled_rows": x.shape[0], "dtype": "float32"}
        rows.append(("moments", fold, seen | Moments.of(x).to_row()))
        rows.append(("extremes", fold, Extremes.of(x).to_row()))
        rows.append(("histograms", fold, BitHistogram.of(x, 3).to_row()))
        whole = whole.merge(BitHistogram.of(x))
    rows.append(("histograms", WHOLE, whole.to_row()))
    for fold in (EVEN, ODD):
        x = (scale * generator.standard_normal((64, width))).astype(np.float32)
        rows.append(("channels", fold, Channels.of(x).to_row()))
    return rows


def _block(layer: int) -> Block:
    name = f"model.layers.{layer}.mlp"
    taps = tuple(Tap(role, "output", name) for role in ROLES)
    return Block(name, layer, "glu", "silu", Norm("rmsnorm"), {}, D_MODEL, D_FF, taps=taps)


if __name__ == "__main__":
    main()
