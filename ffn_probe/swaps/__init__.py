"""Replace norms, activations, gating, dtypes and weights in place, and undo it bit for bit."""

from ffn_probe.swaps.swap import Swap
from ffn_probe.swaps.swapped import Change, Left, Swapped
from ffn_probe.swaps.swapping import Swapping, apply, swap, swapped

__all__ = ["Change", "Left", "Swap", "Swapped", "Swapping", "apply", "swap", "swapped"]
