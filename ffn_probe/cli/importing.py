"""The user's own code: what `package.module:name` stands for, and what went wrong in it."""

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ffn_probe
from ffn_probe.errors import FfnProbeError, ModelError, UnknownName

_IMPORT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_OURS = str(Path(ffn_probe.__file__).parent)


def is_import(name: str) -> bool:
    """Return whether the name reads as package.module:name."""
    return _IMPORT.fullmatch(name) is not None


def named(name: str) -> Any:
    """Return what `package.module:name` stands for; the current folder is importable.

    Raises:
        ModelError: the module is not there, or fails while it is imported.
        UnknownName: the module has no such name.
    """
    module, _, attributes = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with _user_code(f"importing {module!r} failed", f"import {module}"):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise ModelError(
                f"no module {error.name!r} (for {name!r}). Run the command in the folder that "
                "holds it, install it, or add its folder to PYTHONPATH."
            ) from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise UnknownName.of("name", attribute, public, f"It was looked for in {module!r}.")
        found = getattr(found, attribute)
    return found


def called(name: str, function: Callable[[], Any]) -> Any:
    """Return what the user's function returns.

    Raises:
        ModelError: it fails; the message names the error and the line.
    """
    module, _, attribute = name.partition(":")
    with _user_code(f"{name} failed", f"import {module}; {module}.{attribute}()"):
        return function()


def said(error: BaseException) -> str:
    """Return an error in one line: its kind, its text and the user's line it came from."""
    text = " ".join(str(error).split())[:400]
    return type(error).__name__ + (f": {text}" if text else "") + _place(error)


@contextmanager
def _user_code(what: str, code: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a ModelError; its prints go to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except FfnProbeError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f'{what}: {said(error)}. The whole traceback: python -c "{code}"'
        ) from error


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its text names the line
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = frame.filename
        library = "site-packages" in name or name.startswith((_OURS, sys.base_prefix, "<"))
        if not library:
            return f" ({name}, line {frame.lineno})"
    return ""
