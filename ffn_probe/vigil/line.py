"""Line: a number over the windows of a training, in at most so many points."""

import numpy as np
from jaxtyping import Float64, Int64

MOST = 128


class Line:
    """The history of one number. When it is full, two neighbours become one: the larger.

    A point stands for `together` windows; its step is the last of them.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.together = 1
        self._open = 0  # windows in the last point, 0 when it is complete
        self._steps: list[int] = []
        self._values: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Add a window."""
        if self._open:
            self._steps[-1] = step
            self._values[-1] = float(np.fmax(self._values[-1], value))
        else:
            self._steps.append(step)
            self._values.append(float(value))
        self._open = (self._open + 1) % self.together
        if len(self._values) >= self.most and not self._open:
            self._halve()

    def _halve(self) -> None:
        self.together *= 2
        if len(self._values) % 2:
            self._open = self.together // 2
        steps, values = self._steps, self._values
        self._steps = steps[1::2] + steps[len(steps) - len(steps) % 2 :]
        pairs = zip(values[::2], values[1::2], strict=False)
        self._values = [float(np.fmax(a, b)) for a, b in pairs]
        self._values += values[len(values) - len(values) % 2 :]

    @property
    def steps(self) -> Int64[np.ndarray, " points"]:
        """The last step of each point."""
        return np.array(self._steps, np.int64)

    @property
    def values(self) -> Float64[np.ndarray, " points"]:
        """The value of each point."""
        return np.array(self._values, np.float64)
