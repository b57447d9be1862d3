"""What is read without torch, and what an import may pull in."""

import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "sample_runs"
HEAVY = {"torch", "transformers", "pandas", "pyarrow", "scipy", "plotly", "dash", "numpy"}

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "transformers"}}:
            raise ImportError("torch was asked for: " + name)
sys.meta_path.insert(0, Refuse())
{code}
assert not {{name.split(".")[0] for name in sys.modules}} & {{"torch", "transformers"}}
"""

COMMAND = "from ffn_probe.cli import main\n"
MAIN = "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, ffn_probe; print(*{name.split('.')[0] for name in sys.modules})"
    assert not set(run(code, tmp_path).split()) & HEAVY


def test_importing_the_package_takes_less_than_a_tenth_of_a_second(tmp_path: Path) -> None:
    """Of the processor; the best of five, as another process may hold the machine."""
    code = (
        "import time; start = time.process_time(); import ffn_probe; "
        "print(time.process_time() - start)"
    )
    assert min(float(run(code, tmp_path)) for _ in range(5)) < 0.1


def test_help_of_the_command_line_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ffn_probe.cli import main\nsys.argv = ['ffn-probe', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print('\\nmodules:', *{name.split('.')[0] for name in sys.modules})"
    )
    assert not set(run(code, tmp_path).split("modules:")[1].split()) & HEAVY


def test_public_names_resolve_and_are_listed() -> None:
    import ffn_probe

    assert set(ffn_probe.__all__) <= set(dir(ffn_probe))
    assert all(getattr(ffn_probe, name) is not None for name in ffn_probe.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        ffn_probe.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "run = fp.Run.open(A)\nassert len(run.measures()) > 50\nrun.summary(run.sites[0])",
        "drift = fp.compare(A, B)\nassert len(drift.table()) > 50",
        "drift = fp.compare(A, B)\nfp.report(drift, to='d.html')\nfp.report(drift, to='d.md')",
        "import dashboard.app",
        f"{COMMAND}sys.argv = ['ffn-probe', 'show', A]\n{MAIN}",
        f"{COMMAND}sys.argv = ['ffn-probe', 'compare', A, A, '--out', 'd.html']\n{MAIN}",
    ],
    ids=["read", "compare", "report", "dashboard", "ffn-probe show", "ffn-probe compare"],
)
def test_everything_after_the_recording_works_without_torch(code: str, tmp_path: Path) -> None:
    paths = f"A, B = {str(SAMPLES / 'ln-gelu')!r}, {str(SAMPLES / 'rms-swiglu')!r}\n"
    run(WITHOUT_TORCH.format(code="import ffn_probe as fp\n" + paths + code), tmp_path)
