"""`ffn-probe dashboard`: start the dashboard, which is a package of its own."""

import runpy
import sys
from pathlib import Path


def serve(
    runs: Path, *, host: str, port: int, token: str = "", token_file: Path | None = None
) -> None:
    """Serve the dashboard over `runs` until interrupted.

    Raises:
        SystemExit: with 0 when interrupted, with 2 when it cannot start.
    """
    sys.argv = ["dashboard", "--host", host, "--port", str(port)]
    sys.argv += [f"--token={token}"] * bool(token)
    sys.argv += [] if token_file is None else [f"--token-file={token_file}"]
    sys.argv += ["--", str(runs)]
    runpy.run_module("dashboard", run_name="__main__", alter_sys=True)
