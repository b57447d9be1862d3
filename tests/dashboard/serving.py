"""A dashboard in a process of its own, as a user starts it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def dashboard(runs: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve `runs` on a free port; give the address and the process, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ffn_probe", "dashboard", str(runs), "--port", "0", *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://[^/\s]+", line)
        assert found, line + process.stdout.read()
        yield found[0], process
    finally:
        process.terminate()
        process.wait(timeout=30)
        assert process.stdout
        process.stdout.close()
