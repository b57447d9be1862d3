"""The built wheel holds what it should, declares what it imports, and works alone."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONAL = {"transformers", "playwright"}
CLONE = {"sample_runs"}  # the demo says that it needs a clone


def pip(verb: str, *arguments: str, python: Path = Path(sys.executable)) -> None:
    options = ("--no-deps", "--no-index", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), verb, *options, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are borrowed, not our checkout."""
    home = tmp_path_factory.mktemp("alone")
    venv.create(home, with_pip=False, symlinks=True)
    pip("install", str(wheel), python=home / "bin" / "python")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = home / "lib" / version / "site-packages"
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def metadata(wheel: Path) -> tuple[list[str], Parser]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return names, Parser().parsestr(archive.read(path).decode())


def test_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    names, _ = metadata(wheel)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ffn_probe", "dashboard"}
    for package in ("ffn_probe", "dashboard"):
        tracked = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert tracked == {name for name in names if name.startswith(f"{package}/")}
        assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_metadata_declares_every_import(wheel: Path) -> None:
    _, head = metadata(wheel)
    required = {
        norm(re.split(r"[^\w.-]", line)[0])
        for line in head.get_all("Requires-Dist")
        if "extra ==" not in line
    }
    owners = packages_distributions()
    imported = {
        top
        for package in ("ffn_probe", "dashboard")
        for path in (ROOT / package).rglob("*.py")
        for top in imports(path)
    }
    foreign = imported - set(sys.stdlib_module_names) - {"ffn_probe", "dashboard"}
    foreign -= OPTIONAL | CLONE
    undeclared = {name for name in foreign if not set(map(norm, owners[name])) & required}
    assert not undeclared - {"flask", "werkzeug"}, "these come with dash; all else is declared"


def norm(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def run_alone(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(home / "bin" / command[0]), *command[1:]],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_installed_package_is_the_wheels(alone: Path) -> None:
    done = run_alone(alone, "python", "-c", "import ffn_probe; print(ffn_probe.__file__)")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(alone)


def test_installed_command_helps_and_shows_a_sample_run(alone: Path) -> None:
    helped = run_alone(alone, "ffn-probe", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "compare" in helped.stdout
    shown = run_alone(alone, "ffn-probe", "show", str(ROOT / "sample_runs" / "rms-swiglu"))
    assert shown.returncode == 0, shown.stderr
    assert "rms" in shown.stdout
