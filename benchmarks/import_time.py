"""How long the cheap commands take: `python -m benchmarks.import_time`.

Each line is the median of a number of fresh interpreters, and what it takes beyond a bare one.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import ffn_probe": [sys.executable, "-c", "import ffn_probe"],
    "import ffn_probe.runs": [sys.executable, "-c", "import ffn_probe.runs"],
    "import ffn_probe.compare": [sys.executable, "-c", "import ffn_probe.compare"],
    "import plotly": [sys.executable, "-c", "import plotly.graph_objects"],
    "import torch": [sys.executable, "-c", "import torch"],
    "ffn-probe --help": [str(Path(sys.executable).with_name("ffn-probe")), "--help"],
}


def seconds(command: list[str], repeats: int) -> float:
    """Return the median wall time of `command` in fresh processes, the first discarded."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    bare = seconds(COMMANDS["python -c pass"], repeats)
    print(f"{'command':26} {'seconds':>8} {'over bare':>10}")
    for name, command in COMMANDS.items():
        taken = seconds(command, repeats)
        print(f"{name:26} {taken:8.3f} {taken - bare:10.3f}")


if __name__ == "__main__":
    main()
