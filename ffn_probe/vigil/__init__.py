"""Vigil: the alarms of a training while it runs, in bounded memory. No torch."""

from ffn_probe.vigil.sentinel import Sentinel
from ffn_probe.vigil.sighting import Sighting, first_mover

__all__ = ["Sentinel", "Sighting", "first_mover"]
