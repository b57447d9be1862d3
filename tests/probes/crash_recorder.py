"""A recorder that is killed: for each line of the input a process is made that records.

    python -m tests.probes.crash_recorder

Reads folders from stdin; prints the process id of the recorder of each, and "dead" when it
ended. The recorder writes the number of windows that it was told are written to FOLDER.log.
"""

import os
import sys

import torch

import ffn_probe as fp
from ffn_probe.runs import compact
from tests.probes.models import Tiny, tokens

WINDOW = 2  # steps
STEPS = 2000


def record(model: Tiny, found: fp.Scan, folder: str) -> None:
    """Record until killed: step k has the loss k."""
    log = os.open(folder + ".log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    options = {"window": WINDOW, "rows": 8, "bits": 2, "roles": ["out"]}
    with torch.no_grad(), fp.attach(model, to=folder, found=found, **options) as probe:
        for step in range(STEPS):
            model(**tokens(seed=step % 3))
            probe.step(loss=float(step))
            os.write(log, b"." * ((step + 1) % WINDOW == 0))


def main() -> None:
    """Serve recorders; all that is slow is done before."""
    compact.MOST, compact.MOST_JOINED = 2, 3  # old windows are merged from the third on
    torch.set_num_threads(1)
    model = Tiny(width=8, hidden=8, layers=1).eval()
    found = fp.scan(model, tokens())
    fp.record(model, [tokens(seed=k) for k in range(8)], to=sys.argv[1], found=found, window=2)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            record(model, found, line.strip())
            os._exit(1)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)
        sys.stdout.write("dead\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
