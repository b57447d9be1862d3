"""TensorBoardSink: the numbers of every window as scalars of TensorBoard."""

import os
from collections.abc import Mapping
from typing import Any

from ffn_probe.integrations.needed import needed


class TensorBoardSink:
    """A sink for `attach(sinks=[...])`: scalars, and alarms as texts.

    Args:
        to: a folder of events, or a SummaryWriter (which then stays open at the end).

    Raises:
        MissingPackage: tensorboard is not installed.
    """

    def __init__(self, to: str | os.PathLike[str] | Any) -> None:
        self._own = isinstance(to, str | os.PathLike)
        if self._own:
            needed("tensorboard", extra="tensorboard", why="TensorBoardSink")
            from torch.utils.tensorboard import SummaryWriter

            to = SummaryWriter(os.fspath(to))
        self.writer: Any = to

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a window at its last step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def alarm(self, step: int, text: str) -> None:
        """Write an alarm."""
        self.writer.add_text("ffn/alarm", text, step)

    def close(self) -> None:
        """Write what is pending; close the writer if it is this sink's own."""
        self.writer.flush()
        if self._own:
            self.writer.close()
