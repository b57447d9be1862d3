"""Every error the toolkit raises on purpose.

A message says what was wrong with its value, what was possible, and what to do. The
command line prints it without a traceback and exits with 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST, _NEAREST = 200, 2000
"""Letters of a wrong name that are repeated, and names among which the nearest is sought."""


class FfnProbeError(Exception):
    """Base of every error raised on purpose."""


class ModelError(FfnProbeError):
    """The model cannot be read: no FFN, meta device, unsupported weights."""


class ExampleError(FfnProbeError):
    """The model rejected the example or a batch."""


class AttachError(FfnProbeError):
    """Probes could not be attached, or a tap did not fire as its block ran."""


class SwapError(FfnProbeError):
    """A swap applies to nothing, cannot be done here, or is left in the wrong order."""


class RunError(FfnProbeError):
    """A run folder cannot be created, written or read."""


class SchemaError(RunError):
    """A run was written by a newer version, or a file of it has the wrong columns."""


class CompareError(FfnProbeError):
    """Two runs cannot be compared."""


class BudgetError(FfnProbeError):
    """A budget cannot be read, or a limit of it means nothing."""


class SketchError(FfnProbeError, ValueError):
    """Sketches with unlike shapes cannot merge, or a sketch was asked for what it lacks."""


class UnknownName(FfnProbeError):
    """A name that is not in its closed set."""

    @classmethod
    def of(cls, noun: str, name: str, known: Iterable[str], hint: str = "") -> "UnknownName":
        """Return the error for `name`, with the nearest of the `known` names."""
        choices = list(known)
        if len(name) > _LONGEST:
            name = name[:_LONGEST] + "..."
        close = get_close_matches(name, choices[:_NEAREST], n=1, cutoff=0.5)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
        tail = f" {hint}" if hint else ""
        return cls(f"no {noun} {name!r}.{guess} Known ({len(choices)}): {listed}.{tail}")
