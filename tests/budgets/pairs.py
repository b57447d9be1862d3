"""Measures of a pair made by hand: four blocks, an output, as `pair_measures` makes them."""

import math

import pandas as pd

from ffn_probe.attribution.pair_measures import COLUMNS
from ffn_probe.budgets.judging import Measured

_UNITS = {"sqnr_db": "dB", "cosine": "cosine", "kl": "nats a token", "top1": "share"}


def measured(
    *, bad: int | None = None, output: bool = True, reasons: dict[int, str] | None = None
) -> Measured:
    """Return four blocks at 60 dB (one `bad` at 33.3), local and end to end, and an output.

    `reasons` maps a layer to why its values are not paired; it has a CKA only.
    """
    lines: list[tuple[object, ...]] = []
    apart = reasons or {}
    for layer in range(4):
        block = f"layers.{layer}.ffn"
        for role in ("normed", "gate", "hidden", "out"):
            for view in ("end", "local"):
                site = (layer, block, role, view)
                if layer in apart:
                    lines.append((*site, "cka", 0.5, "cka", math.nan))
                    continue
                level = 33.3 if layer == bad and role == "out" else 60.0
                lines += [
                    (*site, "sqnr_db", level, "dB", 110.0),
                    (*site, "cosine", 0.9999, "cosine", 1.0),
                    (*site, "nonfinite_a", 0.0, "values", 0.0),
                    (*site, "nonfinite_b", 0.0, "values", 0.0),
                ]
    if output:
        site = (-1, "", "logits", "end")
        lines += [
            (*site, "sqnr_db", 45.0, "dB", 100.0), (*site, "kl", 3e-4, "nats a token", 1e-9),
            (*site, "top1", 0.99, "share", 1.0),
        ]  # fmt: skip
    told = {
        (layer, f"layers.{layer}.ffn", role, view): why
        for layer, why in apart.items()
        for role in ("normed", "gate", "hidden", "out")
        for view in ("end", "local")
    }
    return Measured.from_table(pd.DataFrame(lines, columns=COLUMNS), told)


def with_value(
    pair: Measured, site: tuple[int, str, str, str], measure: str, value: float
) -> Measured:
    """Return the measures with one value changed."""
    values = {key: dict(found) for key, found in pair.values.items()}
    _, unit, floor = values[site][measure]
    values[site][measure] = (value, unit, floor)
    return Measured(values, pair.reasons)
