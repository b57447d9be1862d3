"""Options: how a probe goes about a recording, checked when it is attached."""

from collections.abc import Mapping
from dataclasses import dataclass

from ffn_probe.errors import AttachError, UnknownName

WHEN: Mapping[str, bool | None] = {"always": None, "training": True, "evaluation": False}
"""Which forwards are watched -> the mode (`model.training`) that they need; None: any."""


@dataclass(frozen=True, slots=True)
class Options:
    """One step in `every` is watched, in windows of `window`, `when` the model is in that mode.

    Raises:
        AttachError: a count is below one.
        UnknownName: there is no such `when`.
    """

    every: int = 1
    window: int = 64
    when: str = "always"
    allow_silent: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("every", "window"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise AttachError(f"{name} is {value!r}; expected a whole number of at least 1")
        if self.when not in WHEN:
            raise UnknownName.of("time to watch (when=)", str(self.when), WHEN)

    def watches(self, *, training: bool) -> bool:
        """Return whether a forward in this mode is watched."""
        return WHEN[self.when] in {None, training}
