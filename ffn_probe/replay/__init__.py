"""Run two models on the same inputs and explain the difference."""

from ffn_probe.replay.blockwise import record_inputs, replay_blocks
from ffn_probe.replay.replay import replay
from ffn_probe.replay.replaying import Options

__all__ = ["Options", "record_inputs", "replay", "replay_blocks"]
