"""How two runs were made: the settings that differ."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ffn_probe.anatomy import Block
from ffn_probe.runs import Run

_BLOCK_KEYS = {
    "kind": lambda block: block.kind,
    "activation": lambda block: block.activation,
    "layout": lambda block: block.layout,
    "experts": lambda block: block.experts,
    "d_model": lambda block: block.d_model,
    "d_ff": lambda block: block.d_ff,
    "norm": lambda block: block.norm.kind,
    "norm.eps": lambda block: block.norm.eps,
    "norm.gain": lambda block: block.norm.gain,
    "norm.bias": lambda block: block.norm.bias,
    "norm.cast": lambda block: block.norm.cast,
}


def config_diff(a: Run, b: Run) -> tuple[tuple[str, str, str], ...]:
    """Return (setting, in a, in b) for every setting that differs, "-" where it is absent."""
    one, other = _settings(a), _settings(b)
    keys = [*one, *(key for key in other if key not in one)]
    rows = ((key, one.get(key, "-"), other.get(key, "-")) for key in keys)
    return tuple(row for row in rows if row[1] != row[2])


def _settings(run: Run) -> dict[str, str]:
    manifest = run.manifest
    found = {f"block.{key}": _summary(run.blocks, key) for key in _BLOCK_KEYS}
    found["blocks"] = str(len(run.blocks))
    found["dtype"] = ", ".join(sorted({run.rows(site)[2] for site in run.sites} - {""}))
    found["device"] = manifest.device
    for name in ("model", "sampling", "versions", "tags"):
        _flatten(getattr(manifest, name), name, found)
    return found


def _summary(blocks: tuple[Block, ...], key: str) -> str:
    """Return "rmsnorm" when all blocks agree, else "rmsnorm (10), none (2)"."""
    counted = Counter(str(_BLOCK_KEYS[key](block)) for block in blocks)
    if len(counted) == 1:
        return next(iter(counted))
    return ", ".join(f"{value} ({n})" for value, n in counted.most_common())


def _flatten(value: Any, name: str, found: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(item, f"{name}.{key}", found)
        return
    found[name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
