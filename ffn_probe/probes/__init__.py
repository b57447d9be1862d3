"""Probes: attach to a model, watch its FFNs, record a run (needs torch)."""

from ffn_probe.probes.attach import attach
from ffn_probe.probes.probe import Probe
from ffn_probe.probes.record import record

__all__ = ["Probe", "attach", "record"]
