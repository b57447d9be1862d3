"""The token of the dashboard: where it comes from, and what makes it one."""

import os
from collections.abc import Mapping
from pathlib import Path

from dashboard import LOOPBACK
from ffn_probe.errors import FfnProbeError

VARIABLE = "FFN_PROBE_TOKEN"
LEAST = 16
_EXAMPLE = 'python -c "import secrets; print(secrets.token_urlsafe())"'
_LARGEST = 4096  # bytes of a file with a token


def token_of(given: str, file: Path | None, variables: Mapping[str, str] = os.environ) -> str:
    """Return the token, "" when there is none: the one given, else of the file, else set.

    Raises:
        FfnProbeError: both are given, the file cannot be read, or the token is too weak.
    """
    if given and file is not None:
        raise FfnProbeError("both --token and --token-file are given; give one of them")
    token = _read(file) if file is not None else given or variables.get(VARIABLE, "")
    if token and (len(token) < LEAST or not token.isascii() or not token.isprintable()
                  or " " in token):  # fmt: skip
        raise FfnProbeError(
            f"the token has {len(token)} characters; it needs at least {LEAST}: letters, "
            f"digits and signs, no spaces. Make one: {_EXAMPLE}"
        )
    return token


def check_reach(host: str, token: str) -> bool:
    """Return whether other machines can reach the address.

    Raises:
        FfnProbeError: they can, and there is no token.
    """
    if host in LOOPBACK:
        return False
    if not token:
        raise FfnProbeError(
            f"{host} can be reached from other machines, so the dashboard asks for a token "
            f"there. Leave out --host (this machine only), or give --token TOKEN, --token-file "
            f"FILE or {VARIABLE}. Make one: {_EXAMPLE}"
        )
    return True


def _read(file: Path) -> str:
    try:
        if not file.is_file():
            raise FfnProbeError(f"no file {file} with a token")
        with file.open(encoding="utf-8") as opened:
            token = opened.read(_LARGEST).strip()
    except (OSError, ValueError) as error:
        raise FfnProbeError(f"cannot read the token of {file}: {error}") from error
    if not token:
        raise FfnProbeError(f"{file} holds no token")
    return token
