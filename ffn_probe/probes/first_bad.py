"""FirstBad: where each site was first not finite: the step, the sequence, position and token.

The counts of a state on the CPU are looked at after every call; those on an accelerator are
not, as that would wait for it: there the window is what is known.
"""

import numpy as np
import torch
from torch import Tensor

from ffn_probe.anatomy import Site
from ffn_probe.probes.address import Address


class FirstBad:
    """The first NaN or Inf of every site; `known` maps names of sites to step and token."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[int, str]] = {}

    def look(
        self,
        site: Site,
        experts: tuple[int, ...],
        counts: Tensor,
        rows: Tensor,
        at: Address,
        labels: Tensor | None,
    ) -> None:
        """Keep the address of the first bad value of a site, if these rows hold it.

        Args:
            site: the site; its expert does not matter.
            experts: those that share the state.
            counts: [experts, 3] of NaN, +Inf and -Inf, these rows included.
            rows: [rows, channels] as they were added to the state.
            at: their address.
            labels: the ordinal of each row's expert, None when there is only one.
        """
        if counts.device.type != "cpu" or not (bad := counts.numpy()).any():
            return
        finite = rows.float().isfinite().all(-1).numpy()
        for group in np.flatnonzero(bad.any(-1)).tolist():
            name = Site(site.layer, site.block, site.role, experts[group]).name
            if name in self.known:
                continue
            mine = ~finite if labels is None else ~finite & (labels.numpy() == group)
            if mine.any():
                self.known[name] = at.step, _place(at, int(mine.argmax()))


def _place(at: Address, row: int) -> str:
    """Return the token of a row in words, "" where nothing is known of it."""
    parts = [("token", at.token), ("sequence", at.sequence), ("position", at.position)]
    with torch.no_grad():
        known = [f"{name} {int(of.numpy()[row])}" for name, of in parts if of is not None]
    return ", ".join(known)
