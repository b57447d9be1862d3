"""Four tiny runs, two norms by two activations, with the noise of formats measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ffn_probe.anatomy import Block, Norm, Site, Tap
from ffn_probe.formats import quantize
from ffn_probe.runs import Manifest, RunWriter
from ffn_probe.sketches import QuantNoise
from tests.compare.made_runs import _key, _rows

LAYERS, FOLDS, ROWS, CHANNELS = 2, 4, 16, 64
KEYS = ("int8:tensor", "int8:token", "e4m3fn:tensor", "mxfp8:block", "nvfp4:block", "bf16:none")
RUNS: Mapping[str, tuple[str, str, str]] = {
    "ln-gelu": ("layernorm", "gelu", "mlp"), "rms-gelu": ("rmsnorm", "gelu", "mlp"),
    "ln-swiglu": ("layernorm", "silu", "glu"), "rms-swiglu": ("rmsnorm", "silu", "glu"),
}  # fmt: skip
SCALES = {"ln-gelu": 1.0, "rms-gelu": 1.2, "ln-swiglu": 2.0, "rms-swiglu": 2.3}


def square(
    folder: Path, *names: str, inputs: str = "same", layers: int = LAYERS, **more: str
) -> Path:
    """Write the runs of these names; `more` is folder name -> the run it is another of."""
    for name, kind in ({name: name for name in names or RUNS} | more).items():
        write(folder / name, kind, inputs=inputs, layers=layers)
    return folder


def values(kind: str, site: Site) -> list[np.ndarray]:
    """Return what passes a site, a fold at a time; `hidden` of the gated runs has a tail."""
    rng = np.random.default_rng([list(RUNS).index(kind), site.layer, len(site.role)])
    x = rng.standard_normal((FOLDS, ROWS, CHANNELS)) * SCALES[kind] * (site.layer + 1)
    if site.role == "hidden" and RUNS[kind][2] == "glu":
        x = x * np.abs(rng.standard_normal(x.shape)) ** 3
    return list(x.astype(np.float32))


def sites(kind: str, layers: int = LAYERS) -> list[Site]:
    roles = ("normed", "gate", "hidden", "out")
    roles += ("value",) if RUNS[kind][2] == "glu" else ()
    return [Site(i, f"layers.{i}.ffn", role) for i in range(layers) for role in roles]


def write(path: Path, kind: str, *, inputs: str = "same", layers: int = LAYERS) -> None:
    norm, activation, form = RUNS[kind]
    found = sites(kind, layers)
    blocks = tuple(
        Block(
            f"layers.{i}.ffn", i, form, activation, Norm(norm), {}, CHANNELS, CHANNELS,
            taps=tuple(Tap(s.role, "output", s.block) for s in found if s.layer == i),
        )
        for i in range(layers)
    )  # fmt: skip
    folds = tuple({"hash": f"{inputs}-{k}" if k < FOLDS else "", "batches": 1, "tokens": 1}
                  for k in range(16))  # fmt: skip
    sampling = {"rows": 512, "folds": 16}
    writer = RunWriter.create(path, Manifest(blocks=blocks, folds=folds, sampling=sampling))
    tables: dict[str, list[dict[str, Any]]] = {}
    for site in found:
        x = values(kind, site)
        for table, row in _rows(site, x):
            tables.setdefault(table, []).append(row)
        for fold, part in enumerate(x):
            tables.setdefault("quant", []).append(_key(site, fold) | noise(part).to_row())
    writer.write_window(0, tables)
    writer.close(windows=1)


def noise(x: np.ndarray) -> QuantNoise:
    stored = {
        key: quantize(x, *key.split(":")[:1], granularity=key.split(":")[1]) for key in KEYS
    }
    return QuantNoise.measured(
        x,
        {key: found.values for key, found in stored.items()},
        clipped={key: int(found.clipped.sum()) for key, found in stored.items()},
    )
