"""`ffn-probe dashboard`: start the dashboard, which is a package of its own."""

import runpy
import sys
from pathlib import Path

from ffn_probe.errors import RunError


def serve(runs: Path, *, host: str, port: int) -> None:
    """Serve the dashboard over `runs` until interrupted.

    Raises:
        RunError: `runs` is no folder.
    """
    if not runs.is_dir():
        raise RunError(f"no folder {runs}: the dashboard shows the runs of a folder")
    sys.argv = ["dashboard", str(runs), "--host", host, "--port", str(port)]
    runpy.run_module("dashboard", run_name="__main__", alter_sys=True)
