"""Runs of gated blocks made of plain arrays: pairs of gate and value, weights, tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ffn_probe.anatomy import Block, Norm, Site, Tap
from ffn_probe.runs import WHOLE, Manifest, Run, RunWriter, WeightGeometry
from ffn_probe.sketches import BitHistogram, Channels, Extremes, Joint, Moments

RANKS = {"dp": 0, "tp": 0, "pp": 0, "ep": 0}
D_MODEL = 16


def glu_block(layer: int, *, name: str = "", experts: int = 0, neurons: int = 8) -> Block:
    """Return a SwiGLU block of a layer."""
    name = name or f"layers.{layer}.mlp"
    roles = ("normed", "gate", "value", "hidden", "out")
    return Block(
        name=name, layer=layer, kind="glu", activation="silu", norm=Norm("rmsnorm", eps=1e-6),
        projections={}, d_model=D_MODEL, d_ff=neurons, experts=experts,
        taps=tuple(Tap(role, "output", name) for role in roles),
    )  # fmt: skip


def make_glu_run(
    path: Path,
    *,
    layers: int = 2,
    neurons: int = 8,
    experts: Sequence[int] = (-1,),
    joint: bool = True,
    weights: bool = True,
    ids: bool = True,
    gain: float = 1.0,
    block_name: str = "",
    **manifest: Any,
) -> Run:
    """Write a run of SwiGLU blocks; an expert e of a mixture sees 40 (e + 1) tokens."""
    blocks, tables = [], dict[str, list[dict[str, Any]]]()
    for layer in range(layers):
        count = len(experts) if experts != (-1,) else 0
        block = glu_block(layer, experts=count, neurons=neurons,
                          name=f"{block_name}{layer}" if block_name else "")  # fmt: skip
        blocks.append(block)
        for expert in experts:
            values = _values(layer, expert, neurons, gain)
            for role, rows in values.items():
                site = Site(layer, block.name, role, expert)
                _add(tables, site, rows, ids=ids)
            hidden = Site(layer, block.name, "hidden", expert)
            if joint:
                made = Joint.of(values["gate"], values["value"], _silu(values["gate"]))
                tables.setdefault("joint", []).append(_key(hidden, WHOLE) | made.to_row())
            if weights:
                row = _key(hidden, WHOLE) | _weights(neurons).to_row()
                tables.setdefault("weights", []).append(row)
    with RunWriter.create(path, Manifest(blocks=tuple(blocks), **manifest)) as writer:
        writer.write_window(0, tables)
        writer.close(windows=1)
    return Run.open(path)


def _silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


def _values(layer: int, expert: int, neurons: int, gain: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([layer, expert + 1])
    rows = 40 * (max(expert, 2) + 1 if expert < 0 else expert + 1)
    normed = rng.normal(size=(rows, D_MODEL))
    gate, value = gain * rng.normal(size=(2, rows, neurons))
    hidden = _silu(gate) * value
    out = rng.normal(size=(rows, D_MODEL))
    found = {"normed": normed, "gate": gate, "value": value, "hidden": hidden, "out": out}
    return {role: x.astype(np.float32) for role, x in found.items()}


def _weights(neurons: int) -> WeightGeometry:
    cosine = np.linspace(-0.9, 0.9, neurons).astype(np.float32)
    size, channels = np.ones(neurons, np.float32), np.ones(D_MODEL, np.float32)
    gain = np.arange(1, D_MODEL + 1, dtype=np.float32)
    return WeightGeometry(cosine, size, size, size, channels, channels, channels, gain)


def _add(
    tables: Mapping[str, Any], site: Site, rows: np.ndarray, *, ids: bool
) -> None:  # fmt: skip
    size = {"seen_rows": rows.shape[0], "sampled_rows": rows.shape[0], "dtype": "float32"}
    at = np.arange(rows.shape[0])
    where = {"sequence": at // 20, "position": at % 20, "token": at % 7} if ids else {}
    found = {
        "moments": (0, size | Moments.of(rows).to_row()),
        "extremes": (0, Extremes.of(rows, step=3, **where).to_row()),
        "histograms": (WHOLE, BitHistogram.of(rows).to_row()),
        "channels": (-2, Channels.of(rows).to_row()),
    }
    for table, (fold, row) in found.items():
        tables.setdefault(table, []).append(_key(site, fold) | row)


def _key(site: Site, fold: int) -> dict[str, Any]:
    where = {"layer": site.layer, "block": site.block, "role": site.role}
    return {"window": 0, "fold": fold, **where, "expert": site.expert, **RANKS}
