"""Telemetry and drift diagnostics for the feed-forward blocks of PyTorch transformers.

Importing this imports nothing heavy: each public name is looked up when it is first used.
`ffn_probe.discover`, `compare`, `replay` and `report` are functions here; what else the
packages of these names hold is reached with `from ffn_probe.compare import ...`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffn_probe.anatomy import Block, Site
    from ffn_probe.attribution import Attribution
    from ffn_probe.compare import Drift, compare
    from ffn_probe.discover import Scan, discover, scan
    from ffn_probe.errors import FfnProbeError
    from ffn_probe.probes import Probe, attach, record
    from ffn_probe.replay import replay
    from ffn_probe.replay.autopsy import autopsy
    from ffn_probe.report import report
    from ffn_probe.runs import Run
    from ffn_probe.swaps import Swap, apply, swap, swapped

__version__ = "0.1.0"

__all__ = [
    "Attribution",
    "Block",
    "Drift",
    "FfnProbeError",
    "Probe",
    "Run",
    "Scan",
    "Site",
    "Swap",
    "apply",
    "attach",
    "autopsy",
    "compare",
    "discover",
    "record",
    "replay",
    "report",
    "scan",
    "swap",
    "swapped",
]

_HOMES = {
    "Attribution": "attribution",
    "Block": "anatomy",
    "Drift": "compare",
    "FfnProbeError": "errors",
    "Probe": "probes",
    "Run": "runs",
    "Scan": "discover",
    "Site": "anatomy",
    "Swap": "swaps",
    "apply": "swaps",
    "attach": "probes",
    "autopsy": "replay.autopsy",
    "compare": "compare",
    "discover": "discover",
    "record": "probes",
    "replay": "replay",
    "report": "report",
    "scan": "discover",
    "swap": "swaps",
    "swapped": "swaps",
}


class _Package(ModuleType):
    """This package; a public name wins over the subpackage of the same name."""

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


def _late(name: str) -> property:
    def get(_: ModuleType) -> Any:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def ignore(_: ModuleType, value: object) -> None:
        """Importing a subpackage sets it here; the public name stays what it is."""

    return property(get, ignore)


for _name in _HOMES:
    setattr(_Package, _name, _late(_name))
sys.modules[__name__].__class__ = _Package
