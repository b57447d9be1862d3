"""Counting: the batches, steps and folds of a recording, and what is pending for a window.

Where `Probe.step` is called, a step is what lies between two calls (in a training an optimizer
step, however many forwards it took); where it never is, every forward is a step.
"""

from typing import Any

from torch import Tensor

from ffn_probe.probes.accumulate import FOLDS
from ffn_probe.probes.inputs import Grid, mixed


class Counting:
    """How many batches and steps there were, and the folds they fell into.

    Args:
        every: one step in `every` is watched.
        window: watched steps a window.
    """

    def __init__(self, every: int, window: int) -> None:
        self.every = every
        self.window = window
        self.batches = 0  # forwards that began a batch
        self.told = False  # whether steps are told by calls
        self.pending = 0  # watched steps since the last window
        self._steps = 0  # calls, where steps are told
        self._watched = False  # whether a forward of the step that runs is watched
        self._span: tuple[int, int] | None = None  # the first and the last step of the window
        self._hashes: dict[int, Tensor] = {}
        self._folds = {fold: [0, 0] for fold in range(FOLDS)}  # batches, tokens

    @property
    def step(self) -> int:
        """The ordinal of the step that runs."""
        return self._steps if self.told else max(self.batches - 1, 0)

    @property
    def steps(self) -> int:
        """How many steps there were."""
        return self._steps if self.told else self.batches

    @property
    def fold(self) -> int:
        """The fold of the batch that runs."""
        return max(self.batches - 1, 0) % FOLDS

    @property
    def live(self) -> bool:
        """Whether the step that runs is one of those to watch."""
        return self.step % self.every == 0

    @property
    def full(self) -> bool:
        """Whether a window is complete."""
        return self.pending >= self.window

    # What happens

    def batch(self) -> None:
        """Count a batch."""
        self.batches += 1

    def watch(self, grids: tuple[Grid, ...], code: Tensor | None, *, starts: bool) -> None:
        """Count a forward that is watched: its tokens, and the hash of its inputs."""
        fold, step = self.fold, self.step
        self._span = (self._span[0] if self._span else step, step)
        self._watched = True
        if not self.told:
            self.pending += starts
        if code is not None:
            self._hashes[fold] = mixed(self._hashes.get(fold), code)
        self._folds[fold][0] += starts
        self._folds[fold][1] += grids[0].rows if grids else 0

    def tell(self, *, fresh: bool) -> bool:
        """Say that steps are told by calls from now on; return whether steps were renamed.

        Args:
            fresh: nothing was written yet: all forwards so far are those of step 0.
        """
        if self.told:
            return False
        self.told = True
        if not fresh:
            self._steps = max(self.batches - 1, 0)
        elif self._span is not None:
            self._span = (0, 0)
        self.pending = 0
        return fresh and self.batches > 1

    def end_step(self) -> None:
        """Count a step that was told."""
        self._steps += 1
        self.pending += self._watched
        self._watched = False

    def new_window(self) -> tuple[int, int]:
        """Begin a window; return the first and last step of the one that ends."""
        span, self._span = self._span or (self.step, self.step), None
        self.pending = 0
        return span

    def state(self) -> dict[str, Any]:
        """Return what the manifest says of folds, steps and tokens."""
        folds = [
            {
                "hash": format(int(self._hashes[k]) % (1 << 64), "016x")
                if k in self._hashes
                else "",
                "batches": self._folds[k][0],
                "tokens": self._folds[k][1],
            }
            for k in range(FOLDS)
        ]
        return {
            "folds": tuple(folds),
            "steps": self.steps,
            "tokens": sum(tokens for _, tokens in self._folds.values()),
        }
