"""Run the command as a user does: in this process where that is enough, else in a shell."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner, Result

from ffn_probe.cli import app

ROOT = Path(__file__).parents[2]
CODE = "tests.cli.user_code"
COMMAND = (sys.executable, "-m", "ffn_probe")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(*arguments: object) -> Result:
    """Return what the command says and its exit code; nothing may escape as an exception."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def refused(*arguments: object) -> str:
    """Return the message of a command that must fail with 2 and without a traceback."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def shell(
    line: str, folder: Path = ROOT, environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which $PROBE is the command."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**environment, "PROBE": " ".join(COMMAND), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
