"""The tables of a paired run as tidy frames, for spreadsheets and programs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from ffn_probe.attribution.attribution import Attribution
from ffn_probe.report.paired import Story

_NESTED = ("stages", "causes", "theory", "norm_split", "regions", "patched_parts")


def tables_of(story: Story) -> dict[str, pd.DataFrame]:
    """Return a frame each of blocks, stages, causes, ...; empty ones are left out."""
    told = story.attribution
    found = {"blocks": told.table(), "output": _output(told), "factorial": _factorial(told)}
    found["model_theory"] = pd.DataFrame([asdict(theory) for theory in told.theory])
    found["hypotheses"] = pd.DataFrame([asdict(h) for h in told.hypotheses])
    found |= {name: _nested(told, name) for name in _NESTED}
    if story.pairs is not None:
        found["pairs"] = story.pairs
    return {name: frame for name, frame in found.items() if len(frame)}


def _nested(told: Attribution, name: str) -> pd.DataFrame:
    rows = [
        {"layer": block.layer, "block": block.block, **_flat(asdict(entry))}
        for block in told.blocks
        for entry in getattr(block, name)
    ]
    return pd.DataFrame(rows)


def _output(told: Attribution) -> pd.DataFrame:
    return pd.DataFrame([] if told.output is None else [_flat(asdict(told.output))])


def _factorial(told: Attribution) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for found in told.factorial:
        named = [
            *zip(found.factors, found.main, strict=True),
            ("interaction", found.interaction),
        ]
        rows += [
            {
                "metric": found.metric, "unit": found.unit, "effect": name,
                **_flat({"value": asdict(value)}), "separable": found.separable,
            }
            for name, value in [*named, ("total", found.total)]
        ]  # fmt: skip
        rows += [
            {"metric": found.metric, "unit": found.unit, "effect": cell, "value": value}
            for cell, value in zip(("v00", "v10", "v01", "v11"), found.cells, strict=True)
        ]
    return pd.DataFrame(rows)


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return intervals as three columns: share, share_low, share_high."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= {key if k == "value" else f"{key}_{k}": v for k, v in value.items()}
        else:
            found[key] = value
    return found
