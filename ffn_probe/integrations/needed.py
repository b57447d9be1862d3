"""needed: a package that only an integration needs, or an error that says how to get it."""

from importlib import import_module
from typing import Any

from ffn_probe.errors import FfnProbeError


class MissingPackage(FfnProbeError, ImportError):
    """A package is not installed that is needed for what was asked."""


def needed(*modules: str, extra: str, why: str) -> Any:
    """Return the first of some modules that can be imported.

    Args:
        modules: their names, the preferred one first.
        extra: the optional extra of this package that installs one.
        why: what needs it.

    Raises:
        MissingPackage: none is installed.
    """
    for name in modules:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise  # it is there, and broken
    raise MissingPackage(
        f"{why} needs {' or '.join(modules)}, which is not installed: "
        f"pip install 'ffn-probe[{extra}]'"
    )
