"""Runs: what was recorded, as a folder of Parquet parts and one JSON manifest. No torch."""

from ffn_probe.runs.manifest import SCHEMA_VERSION, Manifest
from ffn_probe.runs.run import Run
from ffn_probe.runs.writer import RunWriter

__all__ = ["SCHEMA_VERSION", "Manifest", "Run", "RunWriter"]
