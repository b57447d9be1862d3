"""Run two models on the same inputs and explain the difference."""

from ffn_probe.replay.replay import Options, replay

__all__ = ["Options", "replay"]
