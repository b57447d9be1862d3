"""Runs: what was recorded, as a folder of Parquet parts and one JSON manifest. No torch."""

from ffn_probe.runs.manifest import SCHEMA_VERSION, TOKEN_LETTERS, TOKENS_KEPT, Manifest
from ffn_probe.runs.run import Run
from ffn_probe.runs.schema import EVEN, FOLDS, ODD, QUANTILES, WHOLE
from ffn_probe.runs.trends import NUMBERS, trend_rows
from ffn_probe.runs.weights import WeightGeometry
from ffn_probe.runs.writer import RunWriter

__all__ = [
    "EVEN",
    "FOLDS",
    "NUMBERS",
    "ODD",
    "QUANTILES",
    "SCHEMA_VERSION",
    "TOKENS_KEPT",
    "TOKEN_LETTERS",
    "WHOLE",
    "Manifest",
    "Run",
    "RunWriter",
    "WeightGeometry",
    "trend_rows",
]
