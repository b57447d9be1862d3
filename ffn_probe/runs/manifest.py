"""The manifest of a run: what was recorded, of which model, how, and in which state."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ffn_probe.anatomy import Block
from ffn_probe.errors import RunError, SchemaError

SCHEMA_VERSION = 1
FILE = "run.json"
_LIMIT = 256 << 20  # bytes; a manifest of 100,000 experts is under 100 MB
_KINDS = ("telemetry", "paired", "bench")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a run that is not a statistic.

    `state` is "open" while it is written, "closed" after; `folds` holds for each of the 16
    folds a hash of the inputs it saw and its numbers of batches and tokens; `skipped` lists
    what discovery passed over, with the reason; `warnings` what the recorder noticed.
    """

    kind: str = "telemetry"
    state: str = "open"
    created: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    folds: tuple[Mapping[str, Any], ...] = ()
    windows: int = 0
    steps: int = 0
    tokens: int = 0
    skipped: tuple[Mapping[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    def with_(self, **changes: Any) -> "Manifest":
        """Return a copy with these fields changed."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """Return the manifest as readable JSON with a fixed order of keys."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["blocks"] = [block.to_dict() for block in self.blocks]
        return json.dumps(_plain(data), indent=1, allow_nan=False)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest of a run folder.

        Raises:
            RunError: the folder is no run, or its manifest cannot be read.
            SchemaError: the manifest was written by a newer version.
        """
        path = folder / FILE
        if not folder.exists():
            raise RunError(f"no run at {folder}: the folder does not exist")
        if not path.is_file():
            raise RunError(f"{folder} is not a run: it holds no {FILE}")
        if path.stat().st_size > _LIMIT:
            raise RunError(
                f"{path} is {path.stat().st_size} bytes; a manifest is under {_LIMIT}"
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} is not a readable manifest: {error}") from error
        return cls._from_data(data, path)

    @classmethod
    def _from_data(cls, data: Any, path: Path) -> "Manifest":
        if not isinstance(data, dict) or not isinstance(data.get("schema_version"), int):
            raise SchemaError(f"{path} is no run manifest: it has no schema_version")
        version = data["schema_version"]
        if version > SCHEMA_VERSION:
            raise SchemaError(
                f"{path} has schema version {version}; this version reads up to "
                f"{SCHEMA_VERSION}. Upgrade ffn-probe."
            )
        names = {f.name for f in fields(cls)}
        kept = {key: value for key, value in data.items() if key in names}
        try:
            kept["blocks"] = tuple(Block.from_dict(b) for b in kept.get("blocks", ()))
            for name in ("folds", "skipped", "warnings"):
                kept[name] = tuple(kept.get(name, ()))
            manifest = cls(**kept)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise SchemaError(f"{path} is damaged: {error}") from error
        manifest._check(path)
        return manifest

    def _check(self, path: Path) -> None:
        counts = {"windows": self.windows, "steps": self.steps, "tokens": self.tokens}
        for name, value in counts.items():
            if not isinstance(value, int) or value < 0:
                raise SchemaError(f"{path}: {name} is {value!r}, expected a count")
        if self.kind not in _KINDS:
            raise SchemaError(f"{path}: kind is {self.kind!r}, expected one of {_KINDS}")
        for name in ("model", "sampling", "versions", "tags"):
            if not isinstance(getattr(self, name), Mapping):
                raise SchemaError(f"{path}: {name} is not a mapping")


def _plain(value: Any) -> Any:
    """Return `value` in JSON types; non-finite numbers become their names."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
