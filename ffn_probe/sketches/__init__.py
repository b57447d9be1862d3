"""Mergeable values that stand for streams of numbers. No torch.

Every sketch is a frozen value with the same verbs: `empty` (the identity of `merge`),
`of`, `merge` (associative and commutative, neither operand changes), `to_row` and
`from_row` (plain columns for Parquet). Merging parts equals sketching the whole, so batches,
steps, ranks and runs all combine with one operation.
"""

from ffn_probe.sketches.channels import Channels
from ffn_probe.sketches.extremes import TOP, Extremes
from ffn_probe.sketches.histogram import BitHistogram
from ffn_probe.sketches.joint import JOINT_BINS, JOINT_EDGES, Joint, JointTotals
from ffn_probe.sketches.moments import Moments
from ffn_probe.sketches.quant_noise import Noise, QuantNoise
from ffn_probe.sketches.summary import Summary

__all__ = [
    "JOINT_BINS",
    "JOINT_EDGES",
    "TOP",
    "BitHistogram",
    "Channels",
    "Extremes",
    "Joint",
    "JointTotals",
    "Moments",
    "Noise",
    "QuantNoise",
    "Summary",
]
