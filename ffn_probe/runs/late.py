"""LateSummary: the summary of a site whose parts are read when somebody looks at them."""

from collections.abc import Callable, Mapping
from typing import Any

from ffn_probe.sketches import Summary


class LateSummary(Summary):
    """A Summary like any other, that reads each of its fields when it is first asked for.

    The median of a site needs its histogram only, and not the moments of 30,000 channels.
    """

    __slots__ = ("_reading",)

    def __init__(self, reading: Mapping[str, Callable[[], Any]]) -> None:
        """Take what gives each field of a Summary."""
        object.__setattr__(self, "_reading", reading)

    def __getattr__(self, name: str) -> Any:
        """Read a field: called for those that are not there yet.

        Raises:
            RunError, SchemaError: it cannot be read.
        """
        if name.startswith("_") or name not in self._reading:
            raise AttributeError(name)
        value = self._reading[name]()
        object.__setattr__(self, name, value)
        return value
