"""The help: at once, complete, and readable on a narrow terminal."""

import resource
import subprocess

import pytest
from typer.main import get_command

from ffn_probe.cli import app
from tests.cli.shell import COMMAND, ENVIRONMENT, refused, run

NAMES = (
    "scan", "record", "show", "compare", "report", "replay", "check", "dashboard", "demo",
)  # fmt: skip


@pytest.mark.parametrize("name", ["", "record"])
def test_help_takes_less_than_half_a_second(name: str) -> None:
    """Of the processor: on a machine with nothing else to do, that is the time one waits."""
    line = [*COMMAND, *name.split(), "--help"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, env=ENVIRONMENT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert 0.01 < min(seconds) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_a_narrow_terminal_and_names_every_option(name: str) -> None:
    shown = run(name, "--help").stdout
    assert max(len(line) for line in shown.splitlines()) <= 80
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    for parameter in command.params:
        for option in parameter.opts if parameter.opts[0].startswith("-") else ():
            assert option in shown
        assert getattr(parameter, "help", "")


def test_the_commands_and_the_exit_codes_are_listed() -> None:
    shown = run("--help").stdout
    assert all(f"│ {name} " in shown for name in NAMES)
    assert "0 done and no drift, 1 drift (compare, check), 2 error" in shown
    assert run("--version").stdout.startswith("ffn-probe 0.")


def test_a_name_that_is_nearly_right_gets_a_guess() -> None:
    assert "Did you mean 'record'?" in refused("recrd")
    assert "--to" in refused("record", "x:y", "--too", "z")
    assert "Missing option '--to'" in refused("record", "x:y")
    assert "Missing argument" in refused("show")
