"""Runs: what was recorded, as a folder of Parquet parts and one JSON manifest. No torch."""

from ffn_probe.runs.manifest import SCHEMA_VERSION, Manifest
from ffn_probe.runs.run import Run
from ffn_probe.runs.schema import EVEN, FOLDS, ODD, WHOLE
from ffn_probe.runs.writer import RunWriter

__all__ = ["EVEN", "FOLDS", "ODD", "SCHEMA_VERSION", "WHOLE", "Manifest", "Run", "RunWriter"]
