"""A report for programs: JSON with a schema (`schema/report.schema.json`)."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from ffn_probe.compare import Drift
from ffn_probe.measures import MEASURES
from ffn_probe.report.paired import Story
from ffn_probe.report.parts import KINDS, Part
from ffn_probe.report.telemetry import Telemetry
from ffn_probe.report.words import counts, facts, thresholds, written_by

SCHEMA = "ffn-probe-report"
VERSION = 1
"""Rises when a key changes its meaning or goes; new keys do not raise it."""

_MEASURE = ("name", "unit", "label", "formula", "source", "direction")


def to_json(parts: Sequence[Part], command: str) -> str:
    """Return the report as JSON: one part as itself, several in the list `parts`.

    A number that is not finite is its name ("nan", "inf", "-inf"); null is what there is
    none of, such as a noise floor of too few folds.
    """
    head = {
        "schema": {"name": SCHEMA, "version": VERSION},
        "written_by": written_by(),
        "command": command,
    }
    if len(parts) == 1:
        data = head | _of(parts[0])
    else:
        data = head | {"kind": "several", "parts": [_of(part) for part in parts]}
    return json.dumps(plain(data), indent=1, allow_nan=False) + "\n"


@cache
def schema() -> Mapping[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every report as JSON keeps to."""
    text = files("ffn_probe.report").joinpath("schema/report.schema.json").read_text("utf-8")
    found: Mapping[str, Any] = json.loads(text)
    return found


def plain(value: Any) -> Any:
    """Return JSON types; a number that is not finite is its name."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value if isinstance(value, int | float | bool | None) else plain(str(value))


def _of(part: Part) -> dict[str, Any]:
    if isinstance(part, Drift):
        told = _drift(part)
    elif isinstance(part, Telemetry):
        told = _telemetry(part)
    else:
        told = _story(part)
    return {"kind": KINDS[type(part)], **told}


def _drift(drift: Drift) -> dict[str, Any]:
    counted = [
        {"aspect": aspect, "failed": failed, "suspicious": warned}
        for aspect, failed, warned in counts(drift)
    ]
    return drift.to_dict() | {
        "aspects": counted,
        "asked": {
            "thresholds": dict(drift.asked.thresholds),
            "repeat": drift.asked.repeat,
            "mapping": drift.asked.mapping,
            "pairs": [list(pair) for pair in drift.asked.pairs],
        },
        "definitions": [
            {
                "statistic": entry.name,
                "label": entry.label,
                "aspect": entry.aspect,
                "unit": entry.unit,
                "threshold": threshold,
                "provenance": source,
            }
            for entry, threshold, source in thresholds(drift)
        ],
    }


def _story(story: Story) -> dict[str, Any]:
    return story.attribution.to_dict() | {
        "path": story.path,
        "problems": list(story.problems),
        "made": [list(row) for row in story.made],
    }


def _telemetry(told: Telemetry) -> dict[str, Any]:
    run, banner = told.run, told.banner
    blocks = [
        {
            "name": b.name, "layer": b.layer, "kind": b.kind, "layout": b.layout,
            "activation": b.activation, "norm": b.norm.kind, "d_model": b.d_model,
            "d_ff": b.d_ff, "experts": b.experts, "taps": len(b.taps),
            "recompute_error": b.recompute_error, "flags": list(b.flags),
        }
        for b in run.blocks
    ]  # fmt: skip
    return {
        "verdict": {"status": banner.word, "sentence": " ".join(banner.sentences)},
        "run": {"name": run.name, "path": run.path, "facts": facts(run.manifest, run.path)},
        "problems": list(run.problems),
        "blocks": blocks,
        "sites": _sites(told),
        "definitions": [
            {key: getattr(entry, key) for key in _MEASURE}
            for entry in MEASURES
            if entry.name in set(told.measures["measure"])
        ],
    }


def _sites(told: Telemetry) -> list[dict[str, Any]]:
    """Return the measures of every site by name, in the order of depth and data flow."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for line in told.measures.to_dict("records"):
        where = (line["layer"], line["block"], line["role"], line["expert"])
        found.setdefault(where, {})[str(line["measure"])] = float(line["value"])
    names = ("layer", "block", "role", "expert")
    return [{**dict(zip(names, where, strict=True)), "measures": values}
            for where, values in found.items()]  # fmt: skip
