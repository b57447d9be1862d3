"""What the manifest of a paired run says of the two models, checked before it is read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ffn_probe.errors import RunError, SchemaError
from ffn_probe.runs.manifest import FILE, Manifest


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _mappings(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, dict) for item in value)


def _pairs(value: Any) -> bool:
    return _mappings(value) and all(
        isinstance(pair.get(key, empty), str)
        for pair in value
        for key, empty in (("a", None), ("b", None), ("reason", ""))
    )


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("names", "factors", "notes"), ("a list of texts", _texts)),
    **dict.fromkeys(("candidate", "options", "floors"), ("a mapping", _mapping)),
    "swap": ("a mapping", lambda value: value is None or _mapping(value)),
    "blocks": ("a list of mappings", _mappings),
    "pairs": ("a list of mappings with the texts a, b and reason", _pairs),
}
"""Field of `paired` -> what it should be, and whether it is."""


def check_paired(manifest: Manifest, folder: Path) -> None:
    """Check that a run is one of two models and says what it should of them.

    Raises:
        RunError: it is a run of another kind.
        SchemaError: a field of `paired` in its manifest has another type.
    """
    if manifest.kind != "paired":
        name = folder.name or folder.resolve().name
        raise RunError(
            f"run {name} is a {manifest.kind} run: it holds one model, and there is no "
            "candidate to explain. Record two models on the same inputs (`ffn-probe replay`, "
            "ffn_probe.replay), or compare two runs (`ffn-probe compare`)."
        )
    for field, value in manifest.paired.items():
        expected, good = _KINDS.get(field, ("", lambda _: True))
        if not good(value):
            shown = repr(value) if len(repr(value)) < 80 else type(value).__name__
            raise SchemaError(
                f"{folder / FILE}: paired.{field} is {shown}; expected {expected}"
            )
