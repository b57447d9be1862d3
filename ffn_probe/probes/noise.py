"""What number formats would do to a site: a few rows kept on the device, quantized at a flush.

Of every fourth batch eight sampled rows are kept, and all their formats are tried on the
host when the window ends: in the windows 0, 1, 2, 4, 8 and so on, so that a long run does not
pay for what a short one shows. The scale of a whole tensor and of a channel comes from all rows
of the window, as a calibration would set it; tokens, groups and blocks scale by their own.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffn_probe.formats import FORMATS, FormatError, Quantized, quantize
from ffn_probe.measures import QUANT_KEYS
from ffn_probe.sketches import QuantNoise

NOISE_ROWS = 8
NOISE_EVERY = 4


class NoiseRows:
    """The rows of one site that wait for the quantizers; [slot, rows, channels]."""

    def __init__(self, channels: int, folds: int, device: torch.device) -> None:
        self.folds: dict[int, int] = {}  # slot -> fold
        self.counts: dict[int, int] = {}
        self.window = 0
        self._slots = folds // NOISE_EVERY
        with torch.inference_mode(mode=False):
            self.kept = torch.zeros(self._slots, NOISE_ROWS, channels, device=device)

    @torch.no_grad()
    def add(self, rows: Tensor, fold: int) -> None:
        """Keep some rows of a call, unless the fold has some already or the window rests."""
        slot = fold // NOISE_EVERY
        if fold % NOISE_EVERY or slot in self.folds or self.window & (self.window - 1):
            return
        chosen = rows[:NOISE_ROWS].float()
        self.kept[slot, : chosen.shape[0]] = chosen
        self.folds[slot], self.counts[slot] = fold, chosen.shape[0]

    def rows(self, absmax: Tensor) -> list[dict[str, Any]]:
        """Return the row of each fold, and start afresh.

        Args:
            absmax: [channels] largest finite |x| of every channel over all rows.
        """
        self.window += 1
        if not self.folds:
            return []
        kept = self.kept.cpu().numpy()
        slots = sorted(self.folds)
        parts = [kept[s, : self.counts[s]] for s in slots]
        found = quantized(np.concatenate(parts), absmax.cpu().numpy())
        ends = np.cumsum([p.shape[0] for p in parts])
        lines = []
        for slot, part, end in zip(slots, parts, ends.tolist(), strict=True):
            own = slice(end - part.shape[0], end)
            here = {key: q.values[own] for key, q in found.items()}
            clipped = {key: int(q.clipped[own].sum()) for key, q in found.items()}
            sketch = QuantNoise.measured(part, here, clipped=clipped)
            lines.append({"expert": -1, "fold": self.folds[slot], **sketch.to_row()})
        self.folds.clear()
        return lines


def quantized(rows: np.ndarray, absmax: np.ndarray) -> dict[str, Quantized]:
    """Return the rows as each format of QUANT_KEYS would hold them.

    Formats whose block or group does not divide the channels are left out.
    """
    found = {}
    top = float(absmax.max(initial=0.0))
    for key in QUANT_KEYS:
        name, granularity = key.split(":")
        scale: Any = None
        largest = FORMATS[name].max
        if granularity == "tensor" and top > 0:
            scale = top / largest
        elif granularity == "channel":
            scale = np.where(absmax > 0, absmax / largest, 1.0)[None]
        try:
            found[key] = quantize(rows, name, granularity=granularity, scale=scale)
        except FormatError:
            continue
    return found
