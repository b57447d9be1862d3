"""Two large synthetic runs, as a recorder leaves them: many layers, channels and windows.

The sketches are those of drawn values (a few thousand a site and fold), so every number has
its true shape; what is per channel is drawn as wide as the model. The same arguments give the
same bytes. Planted: outlier and dead channels in both; in `b` a change of scale in a few
layers, a shifted gate in another and an outlier channel that `a` does not have.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ffn_probe.anatomy import ROLES, Block, Norm, Tap
from ffn_probe.measures import QUANT_KEYS
from ffn_probe.runs import EVEN, FOLDS, ODD, WHOLE, Manifest, Run, RunWriter, WeightGeometry
from ffn_probe.runs.reader import SITE
from ffn_probe.runs.schema import QUANTILES, TABLES
from ffn_probe.runs.trends import NUMBERS
from ffn_probe.runs.writer import group_rows
from ffn_probe.sketches import (
    BitHistogram,
    Channels,
    Extremes,
    Joint,
    Moments,
    QuantNoise,
)
from ffn_probe.sketches.joint import grid_counts
from ffn_probe.sketches.quant_noise import Noise

INNER = ("gate", "gate_act", "value", "hidden")
RANKS = {"dp": 0, "tp": 0, "pp": 0, "ep": 0}
OUTLIERS, DEAD = (3, 1007, 4091), (17, 2048)
"""Channels of the residual stream and neurons that are planted in every layer."""
NEW_OUTLIER = 777
_TOGETHER = 40  # windows of trends that are written at once


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the runs are."""

    layers: int = 80
    d_model: int = 8192
    d_ff: int = 28_672
    windows: int = 1000
    values: int = 12_800  # drawn a site and fold
    steps: int = 8  # a window

    def width(self, role: str) -> int:
        """Return the number of channels at a role."""
        return self.d_ff if role in INNER else self.d_model


SMALL = Shape(layers=3, d_model=96, d_ff=256, windows=12, values=640)


def make(folder: Path, shape: Shape) -> tuple[Path, Path]:
    """Write the runs `a` and `b` into a folder and return their paths."""
    paths = folder / "a", folder / "b"
    for path, candidate in zip(paths, (False, True), strict=True):
        _write(path, shape, candidate=candidate)
    return paths


def planted(shape: Shape) -> Mapping[str, tuple[int, ...]]:
    """Return what differs in `b` -> the layers where it does."""
    deep = max(shape.layers * 3 // 4, 1)
    return {
        "scale": tuple(
            range(shape.layers // 4, shape.layers // 4 + max(shape.layers // 20, 1))
        ),
        "gate": (min(deep, shape.layers - 1),),
        "outlier": (shape.layers - 1,),
    }


# ---- writing ----------------------------------------------------------------------------


class _Tables:
    """The merged parts of a run, written a few rows at a time."""

    def __init__(self, path: Path, windows: int) -> None:
        self._path = path
        self._name = f"part-{0:08d}..{windows - 1:08d}-0.parquet"
        self._open: dict[str, pq.ParquetWriter] = {}

    def add(self, table: str, columns: Mapping[str, Any]) -> None:
        """Append rows, given as columns."""
        schema = TABLES[table]
        data = pa.Table.from_pydict(
            {field.name: pa.array(columns[field.name], field.type) for field in schema},
            schema=schema,
        )
        if table not in self._open:
            (self._path / table).mkdir()
            where = self._path / table / self._name
            self._open[table] = pq.ParquetWriter(where, schema, compression="zstd")
        self._open[table].write_table(data, row_group_size=group_rows(data))

    def close(self) -> None:
        for writer in self._open.values():
            writer.close()


def _write(path: Path, shape: Shape, *, candidate: bool) -> None:
    tokens = 64 * 512
    manifest = Manifest(
        created="2026-01-02T03:04:05+00:00",
        model={"class": "Synthetic", "dtype": "bfloat16", "num_hidden_layers": shape.layers},
        blocks=tuple(_block(layer, shape) for layer in range(shape.layers)),
        sampling={"rows": 512, "bits": 7, "folds": FOLDS},
        folds=tuple({"hash": f"{k:08x}", "batches": 4, "tokens": tokens} for k in range(FOLDS)),
        tags={"variant": "candidate" if candidate else "reference"},
        steps=shape.windows * shape.steps,
        tokens=shape.windows * shape.steps * tokens,
    )
    writer = RunWriter.create(path, manifest)
    parts = _Tables(path, shape.windows)
    for layer in range(shape.layers):
        for table, rows in _layer(layer, shape, candidate=candidate).items():
            parts.add(table, {name: [row[name] for row in rows] for name in rows[0]})
    parts.add("metrics", _metrics(shape, candidate=candidate))
    parts.close()
    writer.close(windows=shape.windows)
    parts = _Tables(path, shape.windows)
    for columns in _trends(Run.open(path), shape):
        parts.add("trends", columns)
    parts.close()


def _block(layer: int, shape: Shape) -> Block:
    name = _name(layer)
    taps = tuple(Tap(role, "output", name) for role in ROLES)
    return Block(
        name, layer, "glu", "silu", Norm("rmsnorm", eps=1e-6), {}, shape.d_model, shape.d_ff,
        taps=taps,
    )  # fmt: skip


def _name(layer: int) -> str:
    return f"model.layers.{layer}.mlp"


# ---- what a layer holds -----------------------------------------------------------------


def _layer(layer: int, shape: Shape, *, candidate: bool) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}

    def add(table: str, role: str, fold: int, row: Mapping[str, Any]) -> None:
        where = {"layer": layer, "block": _name(layer), "role": role, "expert": -1}
        key = {"window": 0, "fold": fold} | where | RANKS
        found.setdefault(table, []).append(key | dict(row))

    drawn = [_drawn(layer, fold, shape, candidate=candidate) for fold in range(FOLDS)]
    for role in ROLES:
        wholes = []
        for fold in range(FOLDS):
            x = drawn[fold][role]
            seen = {"seen_rows": 4096, "sampled_rows": 512, "dtype": "bfloat16"}
            add("moments", role, fold, seen | Moments.of(x).to_row())
            add("extremes", role, fold, _extremes(x, role, shape).to_row())
            add("histograms", role, fold, BitHistogram.of(x, 3).to_row())
            add("quant", role, fold, _noise(x).to_row())
            wholes.append(x)
        whole = BitHistogram.of(np.concatenate(wholes))
        add("histograms", role, WHOLE, whole.to_row())
        for half in (EVEN, ODD):
            channels = _channels(layer, role, half, whole, shape, candidate=candidate)
            add("channels", role, half, channels.to_row())
    add("joint", "hidden", WHOLE, _joint(layer, drawn, shape).to_row())
    add("weights", "hidden", WHOLE, _weights(layer, shape).to_row())
    return found


def _drawn(layer: int, fold: int, shape: Shape, *, candidate: bool) -> dict[str, np.ndarray]:
    """Return role -> values; the same inputs in both runs, so only what is planted differs."""
    generator = np.random.default_rng([layer, fold])
    size = (16, shape.values // 16)
    change = planted(shape)
    scale = 1.3 if candidate and layer in change["scale"] else 1.0
    shift = 0.4 if candidate and layer in change["gate"] else 0.0
    noise = 1 + candidate * 1e-3 * generator.standard_normal(size)
    resid = generator.standard_t(4, size) * (0.5 + 0.05 * layer)
    gate = generator.standard_normal(size) * 0.8 - 0.3 + shift
    value = generator.standard_normal(size) * scale
    act = gate / (1 + np.exp(-gate))
    found = {
        "resid": resid,
        "normed": resid / np.sqrt((resid**2).mean(axis=1, keepdims=True)),
        "gate": gate,
        "gate_act": act,
        "value": value,
        "hidden": act * value,
        "out": generator.standard_t(5, size) * 0.1 * scale,
    }
    return {role: (x * noise).astype(np.float32) for role, x in found.items()}


def _extremes(x: np.ndarray, role: str, shape: Shape) -> Extremes:
    made = Extremes.of(x, 16, step=7, position=np.arange(16), token=np.arange(16) * 31)
    top = made.top.copy()
    top["channel"] = top["channel"] * (shape.width(role) // x.shape[1])
    return replace(made, top=top)


def _noise(x: np.ndarray) -> QuantNoise:
    """Return the noise of each format: about 6 dB a bit."""
    signal = float((x.astype(np.float64) ** 2).sum())
    decibels = np.linspace(45, 12, len(QUANT_KEYS))
    return QuantNoise({
        key: Noise(x.size, signal, signal * 10 ** (-db / 10), 0, 0)
        for key, db in zip(QUANT_KEYS, decibels.tolist(), strict=True)
    })  # fmt: skip


def _channels(
    layer: int, role: str, half: int, whole: BitHistogram, shape: Shape, *, candidate: bool
) -> Channels:
    width, rows = shape.width(role), 4096
    generator = np.random.default_rng([layer, ROLES.index(role), -half])
    sigma = whole.robust_sigma()
    size = sigma * np.exp(0.2 * generator.standard_normal(width))
    loud = [c for c in OUTLIERS if c < width] if role in {"resid", "out"} else []
    quiet = [c for c in DEAD if c < width] if role == "hidden" else []
    size[loud] *= 40
    if candidate and role == "resid" and layer in planted(shape)["outlier"]:
        size[min(NEW_OUTLIER, width - 1)] *= 40
    size[quiet] = 0.0
    mean = 0.1 * size * generator.standard_normal(width)
    m2 = rows * size**2 * generator.chisquare(64, width) / 64
    absmax = size * (4 + generator.random(width))
    active = np.full(width, rows)
    active[quiet] = 0
    return Channels(np.full(width, rows), mean, m2, absmax, active)


def _joint(layer: int, drawn: list[dict[str, np.ndarray]], shape: Shape) -> Joint:
    generator = np.random.default_rng([layer, 99])
    gate, value = (
        np.concatenate([x[r] for x in drawn]).astype(float) for r in ("gate", "value")
    )
    grid = grid_counts(gate, value, np.ones(gate.shape, bool))
    n, rows = shape.d_ff, 8192
    parts = {f"mean_{name}": 0.1 * generator.standard_normal(n) for name in ("gate", "value")}
    parts |= {f"mean_{name}": 0.05 * generator.standard_normal(n) for name in ("act", "hidden")}
    spread = {name: rows * generator.chisquare(64, n) / 64 for name in ("c_gg", "c_uu", "c_aa")}
    cross = np.sqrt(spread["c_gg"] * spread["c_uu"]) * 0.1 * generator.standard_normal(n)
    parts |= spread | {"c_gu": cross, "c_au": cross * 0.5}
    return Joint(count=np.full(n, rows), grid=grid, **parts)


def _weights(layer: int, shape: Shape) -> WeightGeometry:
    generator = np.random.default_rng([layer, 98])
    inner = [generator.random(shape.d_ff).astype(np.float32) for _ in range(4)]
    outer = [generator.random(shape.d_model).astype(np.float32) for _ in range(4)]
    return WeightGeometry(inner[0] * 0.02 - 0.01, *inner[1:], *outer)


# ---- over time --------------------------------------------------------------------------


def _metrics(shape: Shape, *, candidate: bool) -> dict[str, Any]:
    steps = np.arange(shape.windows * shape.steps)
    generator = np.random.default_rng([7, candidate])
    loss = (
        2.2
        + 6 * np.exp(-steps / (steps.size / 6))
        + 0.02 * generator.standard_normal(steps.size)
    )
    norm = 0.5 + np.exp(generator.standard_normal(steps.size) * 0.3 - 1)
    return {
        "window": np.tile(steps // shape.steps, 2),
        "step": np.tile(steps, 2),
        "name": ["loss"] * steps.size + ["grad_norm"] * steps.size,
        "value": np.concatenate([loss, norm]),
        "dp": np.zeros(2 * steps.size, np.int32),
    }


def _trends(run: Run, shape: Shape) -> Iterator[dict[str, Any]]:
    """Yield the rows of a few windows at a time: the measures of the run, wandering."""
    sites = run.sites
    base = _base(run)
    generator = np.random.default_rng(11)
    level = np.zeros((len(sites), len(NUMBERS)))
    for first in range(0, shape.windows, _TOGETHER):
        windows = np.arange(first, min(first + _TOGETHER, shape.windows))
        steps = 0.01 * generator.standard_normal((windows.size, *level.shape))
        levels = level + np.cumsum(steps, axis=0)
        level = levels[-1]
        levels[windows == shape.windows * 2 // 3] += np.log(3.0)  # a spike
        numbers = (base * np.exp(levels)).reshape(-1, len(NUMBERS)).T
        window = np.repeat(windows, len(sites))
        yield {
            **dict(zip(NUMBERS, numbers, strict=True)),
            **{name: [getattr(s, name) for s in sites] * windows.size for name in SITE},
            **{rank: np.zeros(window.size, np.int32) for rank in RANKS},
            "window": window,
            "fold": np.full(window.size, WHOLE),
            "first_step": window * shape.steps,
            "last_step": (window + 1) * shape.steps - 1,
            "rows": np.full(window.size, 4096),
        }


def _base(run: Run) -> np.ndarray:
    """Return the numbers of the trends of every site, NaN where one does not apply."""
    frame = run.measures()
    wide = frame.pivot(
        index=["layer", "block", "role", "expert"], columns="measure", values="value"
    )
    rows = []
    for site in run.sites:
        own = wide.loc[(site.layer, site.block, site.role, site.expert)]
        quantiles = run.histogram(site).quantile(np.array(list(QUANTILES.values())))
        known = dict(zip(QUANTILES, quantiles.tolist(), strict=True)) | own.to_dict()
        rows.append([known.get(name, np.nan) for name in NUMBERS])
    return np.array(rows)
