"""How every command ends: the exit code, and one message instead of a traceback.

0 done and no drift, 1 drift, 2 an error, 128 + n stopped by signal n (130: Ctrl-C, 141: the
reader of a pipe went away). 1 is said by `compare` and `check` alone.
"""

import os
import sys
import traceback
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from ffn_probe.errors import FfnProbeError

ERROR, INTERRUPTED, NO_READER = 2, 130, 141


class Commands(TyperGroup):
    """The commands, guarded: whatever one raises becomes an exit code and a message."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the context."""
        try:
            value = super().invoke(ctx)
            if sys.stdout is not None:  # it is None when the shell closed it
                sys.stdout.flush()
        except KeyboardInterrupt as stop:
            tell("interrupted", stop)
            raise typer.Exit(getattr(stop, "code", INTERRUPTED)) from stop
        except Exception as error:
            code = _code(error)
            if code is None:
                raise
            raise typer.Exit(code) from error
        return value


def tell(text: str, error: BaseException) -> None:
    """Say it on stderr, with the notes of the error; a closed stderr is no reason to fail."""
    with suppress(OSError, ValueError):
        typer.echo("\n".join([text, *getattr(error, "__notes__", ())]), err=True)


def _code(error: Exception) -> int | None:
    """Say what went wrong and return the exit code; None when typer says it itself."""
    if isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "exit_code"):
        return None
    if isinstance(error, FfnProbeError):
        tell(f"error: {error}", error)
    elif isinstance(error, BrokenPipeError):
        _close_output()
        return NO_READER
    elif isinstance(error, OSError):
        _close_output()
        tell(f"error: {error.filename or 'the output'}: {error.strerror or error}", error)
    else:
        traceback.print_exception(error)
        tell(
            "error: this is a fault of ffn-probe; please report it with the lines above", error
        )
    return ERROR


def _close_output() -> None:
    """Send what is still to be written to nowhere, so that the exit is quiet."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
