"""A check of JSON against a JSON Schema, of the keywords that the report's schema uses."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
    "integer": int, "number": (int, float),
}  # fmt: skip
_KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "type", "required", "properties",
    "additionalProperties", "items", "minItems", "maxItems", "minimum", "enum", "const",
    "anyOf", "oneOf",
}  # fmt: skip


def problems(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a document, as "place: what"."""
    return list(_wrong(value, schema, schema, "$"))


def _wrong(value: Any, rule: Mapping[str, Any], root: Any, at: str) -> Iterator[str]:
    assert set(rule) <= _KNOWN, f"this check does not know {set(rule) - _KNOWN}"
    if "$ref" in rule:
        yield from _wrong(value, root["$defs"][rule["$ref"].rpartition("/")[2]], root, at)
    if "const" in rule and value != rule["const"]:
        yield f"{at}: {value!r} is not {rule['const']!r}"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{at}: {value!r} is none of {rule['enum']}"
    if "minimum" in rule and value < rule["minimum"]:
        yield f"{at}: {value} is too small"
    for word in ("anyOf", "oneOf"):
        fits = [not list(_wrong(value, one, root, at)) for one in rule.get(word, ())]
        if fits and (not any(fits) or (word == "oneOf" and sum(fits) > 1)):
            yield f"{at}: fits {sum(fits)} of {len(fits)}"
    if "type" in rule and not _is(value, rule["type"]):
        yield f"{at}: {value!r} is no {rule['type']}"
        return
    if isinstance(value, dict):
        yield from _wrong_object(value, rule, root, at)
    if isinstance(value, list):
        yield from _wrong_array(value, rule, root, at)


def _is(value: Any, names: str | Sequence[str]) -> bool:
    listed = [names] if isinstance(names, str) else names
    if isinstance(value, bool):
        return "boolean" in listed
    return any(isinstance(value, _TYPES[name]) for name in listed)


def _wrong_object(
    value: Mapping[str, Any], rule: Mapping[str, Any], root: Any, at: str
) -> Iterator[str]:
    yield from (f"{at}: lacks {key}" for key in rule.get("required", ()) if key not in value)
    known = rule.get("properties", {})
    rest = rule.get("additionalProperties", True)
    for key, item in value.items():
        if key in known:
            yield from _wrong(item, known[key], root, f"{at}.{key}")
        elif rest is False:
            yield f"{at}: {key} is not known"
        elif isinstance(rest, Mapping):
            yield from _wrong(item, rest, root, f"{at}.{key}")


def _wrong_array(
    value: Sequence[Any], rule: Mapping[str, Any], root: Any, at: str
) -> Iterator[str]:
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
        yield f"{at}: {len(value)} items"
    for i, item in enumerate(value):
        yield from _wrong(item, rule.get("items", {}), root, f"{at}[{i}]")
