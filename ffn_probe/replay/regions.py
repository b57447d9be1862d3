"""The error of an activation by the value of its gate: predicted by the formulas, and seen."""

from typing import Any

import numpy as np
from torch import Tensor

from ffn_probe.runs import WHOLE
from ffn_probe.sketches.bit_codes import bit_codes
from ffn_probe.zoo.fingerprint import Match, apply_match

_BITS = 3  # of the mantissa: eight steps an octave
_CODES = 1 << (9 + _BITS)


class ActivationError:
    """Counts and squared errors by the bit code of the gate."""

    def __init__(self, a: Match, b: Match) -> None:
        self.a, self.b = a, b
        self.counts = np.zeros(_CODES, np.int64)
        self.expected = np.zeros(_CODES)
        self.error = np.zeros(_CODES)

    def add(self, gate: Tensor, seen_a: Tensor, seen_b: Tensor) -> None:
        """Add the reference's gate, and both activations of it as they were computed."""
        finite = gate.isfinite() & seen_a.isfinite() & seen_b.isfinite()
        g, x, y = (t[finite].double() for t in (gate, seen_a, seen_b.to(gate.device)))
        formula = apply_match(self.b, g, None) - apply_match(self.a, g, None)
        codes = bit_codes(g.float().cpu().numpy(), _BITS)
        self.counts += np.bincount(codes, minlength=_CODES)
        for held, apart in ((self.expected, formula), (self.error, y - x)):
            weights = apart.square().cpu().numpy()
            np.add(held, np.bincount(codes, weights=weights, minlength=_CODES), out=held)

    def row(self) -> dict[str, Any]:
        """Return the columns of the table `activation_error`, sparse."""
        used = np.flatnonzero(self.counts)
        return {
            "fold": WHOLE,
            "codes": used.astype(np.int32),
            "counts": self.counts[used],
            "expected": self.expected[used],
            "error": self.error[used],
        }
