"""The README is true: its code runs, its tables are the current ones, its links exist.

`python tests/test_docs.py` writes the generated tables anew.
"""

import ast
import doctest
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> str:
    """Return the table of commands, from the command line's own help."""
    from typer.main import get_command

    from ffn_probe.cli import app

    rows = [
        f"| `ffn-probe {name}` | {command.get_short_help_str(120).rstrip('.')} |"
        for name, command in sorted(get_command(app).commands.items())
    ]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def measures() -> str:
    """Return the table of measures, from the code that computes them."""
    from ffn_probe.measures import MEASURES

    rows = [
        f"| `{m.name}` | {cell(m.label)} | {cell(m.unit)} | {cell(m.formula)} |"
        for m in MEASURES
    ]
    head = ["| measure | what it is | unit | formula |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def pages() -> str:
    """Return the table of the dashboard's pages, from their routes."""
    from dashboard.routes import ROUTES

    rows = [
        f"| {route.text or 'Site (a cell of Compare)'} | {cell(route.told)} |"
        for route in ROUTES.values()
    ]
    return "\n".join(["| page | what it shows |", "|---|---|", *rows])


def losses() -> str:
    """Return the table of what the sample models learned, from their training's record."""
    facts = json.loads((ROOT / "sample_runs" / "training.json").read_text())
    rows = [
        f"| {name} | {model['parameters']:,} | {model['held_back']:.2f} |"
        for name, model in facts["models"].items()
    ]
    head = ["| model | parameters | held-back loss, nats per byte |", "|---|---|---|"]
    return "\n".join([*head, f"| byte frequencies alone | | {facts['unigram']:.2f} |", *rows])


def why() -> str:
    """Return what `ffn-probe show` says of a stored replay, up to its details."""
    shown = subprocess.run(
        [sys.executable, "-m", "ffn_probe", "show", "sample_runs/planted"],
        cwd=ROOT, env={**os.environ, "COLUMNS": "96"}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    lines = [line.rstrip() for line in shown.stdout.splitlines()]
    return "\n".join(["```text", *lines, "```"]).replace("\n\n```", "\n```")


def cell(text: str) -> str:
    return text.replace("|", "\\|") or "-"


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "losses": losses,
    "measures": measures,
    "pages": pages,
    "why": why,
}


def section(text: str, name: str) -> re.Match[str]:
    found = re.search(rf"(<!-- {name} -->\n)(.*?)(\n<!-- end -->)", text, re.DOTALL)
    assert found, f"README.md has no '<!-- {name} -->' ... '<!-- end -->'"
    return found


def blocks(language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(README.read_text()) if kind == language]


@pytest.mark.parametrize("name", list(TABLES))
def test_generated_tables_are_current(name: str) -> None:
    current = section(README.read_text(), name)[2].strip()
    assert current == TABLES[name](), "run: .venv/bin/python tests/test_docs.py"


def test_python_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    """All blocks are one program, in order, in an empty folder and without a network."""
    program = "\n".join(blocks("python"))
    assert len(blocks("python")[0].strip().splitlines()) <= 16
    offline = "import os; os.environ.update(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')\n"
    done = subprocess.run(
        [sys.executable, "-c", offline + program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drift.html").stat().st_size > 10_000
    assert "PASS" in done.stdout or "FAIL" in done.stdout or "WARN" in done.stdout


def test_sql_of_the_readme_runs_on_a_sample_run() -> None:
    import duckdb

    (query,) = blocks("sql")
    text = query.replace("'sample_runs/", f"'{ROOT}/sample_runs/")
    rows = duckdb.sql(text).fetchall()
    assert rows
    assert all(len(row) == len(rows[0]) for row in rows)


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README.read_text())
    missing = [target for target in targets if not (ROOT / target.split("#")[0]).exists()]
    assert not missing


def test_make_targets_of_the_readme_exist() -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    named = set(re.findall(r"\bmake ([a-z]+)", " ".join([*blocks("sh"), *inline()])))
    assert named >= {"demo", "test"}
    assert named <= {line.split()[0] for line in listed.splitlines()}


def test_commands_of_the_readme_exist() -> None:
    from typer.main import get_command

    from ffn_probe.cli import app

    known = get_command(app).commands
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    used = [re.match(r"(?:\S*/)?ffn-probe (\w+)(.*)", line) for line in lines]
    for match in filter(None, used):
        assert match[1] in known
        options = {name for parameter in known[match[1]].params for name in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", match[2])) <= options | {
            name for parameter in known[match[1]].params for name in parameter.secondary_opts
        }


def test_every_public_name_is_documented() -> None:
    import ffn_probe

    bare = [name for name in ffn_probe.__all__ if not doc_of(getattr(ffn_probe, name))]
    assert not bare


def test_every_module_says_what_it_is() -> None:
    packages = [importlib.import_module(name) for name in ("ffn_probe", "dashboard")]
    paths = [
        Path(module.module_finder.path) / f"{module.name.rpartition('.')[2]}"
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    files = [
        path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths
    ]
    assert files
    assert not [file for file in files if not ast.get_docstring(ast.parse(file.read_text()))]


def test_changelog_names_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in text or "## [Unreleased]" in text


def test_doctests_of_the_sample_model() -> None:
    result = doctest.testmod(importlib.import_module("sample_runs.tiny_lm"))
    assert result.attempted >= 1
    assert not result.failed


def inline() -> list[str]:
    return re.findall(r"`(make [^`]+)`", README.read_text())


def doc_of(thing: object) -> str:
    return getattr(thing, "__doc__", None) or ""


def rewrite() -> None:
    """Write the generated tables of the README anew."""
    text = README.read_text()
    for name, table in TABLES.items():
        found = section(text, name)
        text = text[: found.start(2)] + table() + text[found.end(2) :]
    README.write_text(text)


if __name__ == "__main__":
    rewrite()
