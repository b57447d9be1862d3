"""The manifest of a run: what was recorded, of which model, how, and in which state."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ffn_probe.anatomy import Block
from ffn_probe.errors import RunError, SchemaError

SCHEMA_VERSION = 1
FILE = "run.json"
TOKENS_KEPT, TOKEN_LETTERS = 4096, 64
"""Of how many tokens a run keeps the text, and how much of it."""
_LIMIT = 256 << 20  # bytes; a manifest of 100,000 experts is under 100 MB
_VALUES = {"kind": ("telemetry", "paired", "bench"), "state": ("open", "closed")}
_EXPECTED = {
    **{name: f"one of {values}" for name, values in _VALUES.items()},
    **dict.fromkeys(("windows", "steps", "tokens", "schema_version"), "a count"),
    **dict.fromkeys(("model", "sampling", "versions", "tags", "paired"), "a mapping"),
    "vocabulary": "a mapping of at most 4,096 token ids to short texts",
    **dict.fromkeys(("blocks", "folds", "skipped"), "a list of mappings"),
    "warnings": "a list of texts",
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a run that is not a statistic.

    `state` is "open" while it is written, "closed" after; `folds` holds for each of the 16
    folds a hash of the inputs it saw and its numbers of batches and tokens; `skipped` lists
    what discovery passed over, with the reason; `warnings` what the recorder noticed. Of a
    paired run `model` and `blocks` are the reference's, and `paired` holds the candidate's
    ("candidate", "blocks"), the names of both, the pairs of blocks and the options.
    `vocabulary` maps token ids (as text) to the texts of the tokens that are among the largest
    values; it is empty where the recorder knew no texts.
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
    paired: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def with_(self, **changes: Any) -> "Manifest":
        """Return a copy with these fields changed."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """Return the manifest as readable JSON with a fixed order of keys.

        Raises:
            RunError: a field holds something that JSON has no type for.
        """
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["blocks"] = [block.to_dict() for block in self.blocks]
        try:
            return json.dumps(_plain(data), indent=1, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise RunError(f"the manifest holds what JSON cannot: {error}") from error

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest of a run folder.

        Raises:
            RunError: the folder is no run, or its manifest cannot be read.
            SchemaError: the manifest was written by a newer version.
        """
        path = folder / FILE
        try:
            if not os.path.lexists(folder):
                raise RunError(f"no run at {folder}: the folder does not exist")
            if not path.is_file():
                raise RunError(f"{folder} is not a run: it holds no {FILE}{_near(folder)}")
            size = path.stat().st_size
            if size > _LIMIT:
                raise RunError(f"{path} is {size} bytes; a manifest is under {_LIMIT}")
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
        kept = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        for name, value in kept.items():
            _check(name, value, path)
        try:
            kept["blocks"] = tuple(_block(b, path) for b in kept.get("blocks", ()))
            for name in ("folds", "skipped", "warnings"):
                kept[name] = tuple(kept.get(name, ()))
            return cls(**kept)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise SchemaError(f"{path} is damaged: {error!r}") from error


def _near(folder: Path) -> str:
    """Return where the run may be that was meant, "" when there is none close by."""
    if folder.name == FILE and folder.is_file():
        return f". Give its folder: {folder.parent}"
    found = sorted(path.parent.name for path in folder.glob(f"*/{FILE}"))
    if not found:
        return ""
    listed = ", ".join(found[:6]) + (", ..." if len(found) > 6 else "")
    return f". Runs in it ({len(found)}): {listed}"


def readable_name(name: object) -> bool:
    """Return whether this can be a module's path: text that names no place on a disk."""
    if not isinstance(name, str) or not name.isprintable():
        return False
    return ".." not in name and not name.startswith(("/", "\\"))


def _check(name: str, value: Any, path: Path) -> None:
    """Raise SchemaError when a field of the manifest has another type or value."""
    if name in {"windows", "steps", "tokens", "schema_version"}:
        good = type(value) is int and 0 <= value < 2**63
    elif name in {"model", "sampling", "versions", "tags", "paired"}:
        good = isinstance(value, dict)
    elif name == "vocabulary":
        good = isinstance(value, dict) and _are_texts(value)
    elif name in {"blocks", "folds", "skipped", "warnings"}:
        kind = str if name == "warnings" else dict
        good = isinstance(value, list) and all(isinstance(item, kind) for item in value)
    else:
        good = isinstance(value, str) and value in _VALUES.get(name, (value,))
    if not good:
        shown = repr(value) if len(repr(value)) < 80 else type(value).__name__
        raise SchemaError(f"{path}: {name} is {shown}; expected {_EXPECTED.get(name, 'text')}")


def _are_texts(tokens: Mapping[str, Any]) -> bool:
    """Whether this maps token ids to short texts, not too many."""
    return len(tokens) <= TOKENS_KEPT and all(
        key.removeprefix("-").isdecimal()
        and isinstance(text, str)
        and len(text) <= TOKEN_LETTERS
        for key, text in tokens.items()
    )


def _block(data: Mapping[str, Any], path: Path) -> Block:
    for name in ("kind", "activation", "layout", "name"):
        if not isinstance(data.get(name, ""), str):
            raise SchemaError(f"{path}: a block's {name} is {data[name]!r}; expected text")
    for name in ("layer", "d_model", "d_ff", "experts"):
        if type(data.get(name, 0)) is not int:
            raise SchemaError(f"{path}: a block's {name} is {data[name]!r}; expected a number")
    if not readable_name(data.get("name")):
        raise SchemaError(f"{path}: {data.get('name')!r} is no name of a block")
    return Block.from_dict(data)


def _plain(value: Any) -> Any:
    """Return `value` in JSON types; non-finite numbers become their names."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
