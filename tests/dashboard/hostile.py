"""Runs that were made to do harm, each in a folder of its own beside a good one."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ffn_probe.anatomy import Site
from ffn_probe.runs.schema import TABLES
from tests.compare.made_runs import draws, make_run

SAMPLES = Path(__file__).parents[2] / "sample_runs"
GOOD = "ln-gelu"
SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
SECRET = "the-secret-outside-of-the-folder"


def part(run: Path, table: str) -> Path:
    return sorted((run / table).glob("*.parquet"))[0]


def manifest(**changes: Any) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        path = run / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return harm


def column(table: str, name: str, value: Any) -> Callable[[Path], None]:
    """Return the harm of putting a value into the last row of a table."""

    def harm(run: Path) -> None:
        path = part(run, table)
        columns = pq.read_table(path).to_pydict()
        columns[name][-1] = value
        pq.write_table(pa.Table.from_pydict(columns, schema=TABLES[table]), path)

    return harm


def instead(table: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Return the harm of putting something else in the place of a part."""

    def harm(run: Path) -> None:
        path = part(run, table)
        path.unlink()
        make(path)

    return harm


def outside(run: Path) -> Path:
    """Return a run that lies outside of the folder that is served."""
    kept = run.parent.parent / "outside"
    if not kept.exists():
        shutil.copytree(SAMPLES / GOOD, kept)
        text = (kept / "run.json").read_text()
        (kept / "run.json").write_text(text.replace('"tags": {', f'"tags": {{"a": "{SECRET}",'))
    return kept


def manifest_outside(run: Path) -> None:
    (run / "run.json").unlink()
    (run / "run.json").symlink_to(outside(run) / "run.json")


def table_outside(run: Path) -> None:
    shutil.rmtree(run / "moments")
    (run / "moments").symlink_to(outside(run) / "moments")


def fifo_manifest(run: Path) -> None:
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")


def bomb(run: Path) -> None:
    """Write a small part that unpacks to 128 MiB of zeros."""
    path = part(run, "histograms")
    size = 1 << 24
    zeros = pa.array(np.zeros(size, np.int64))
    lists = pa.ListArray.from_arrays(pa.array([0, size], pa.int32()), zeros)
    one = pq.read_table(path).slice(0, 1)
    at = one.schema.get_field_index("counts")
    pq.write_table(one.set_column(at, one.schema.field("counts"), lists), path)
    assert path.stat().st_size < 1 << 20


def long_text(run: Path) -> None:
    """Write a name of a megabyte a thousand times, which takes no room in the file."""
    path = part(run, "moments")
    one = pq.read_table(path).slice(0, 1)
    many = pa.concat_tables([one] * 1000)
    at = one.schema.get_field_index("dtype")
    many = many.set_column(at, one.schema.field("dtype"), pa.array(["x" * (1 << 20)] * 1000))
    pq.write_table(many, path, compression="zstd")


def nested(depth: int) -> Any:
    value: Any = SCRIPT
    for _ in range(depth):
        value = {IMAGE: value}
    return value


def cut(run: Path) -> None:
    path = part(run, "moments")
    path.write_bytes(path.read_bytes()[:-40])


REFUSED: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (instead("moments", os.mkfifo), "no plain file"),
    "fifo-manifest": (fifo_manifest, "holds no run.json"),
    "device": (instead("moments", lambda p: p.symlink_to("/dev/zero")), "no plain file"),
    "directory": (instead("moments", Path.mkdir), "no plain file"),
    "part-outside": (
        instead("moments", lambda p: p.symlink_to(part(outside(p.parents[1]), "moments"))),
        "leads out of the run folder",
    ),
    "manifest-outside": (manifest_outside, "leads out of the run folder"),
    "table-outside": (table_outside, "leads out of the run folder"),
    "dangling": (instead("moments", lambda p: p.symlink_to("nowhere")), "no plain file"),
    "cut": (cut, "truncated or no Parquet file"),
    "empty-part": (instead("moments", Path.touch), "truncated or no Parquet file"),
    "long-text": (long_text, "holds a text of 1048576 letters"),
    "negative": (column("moments", "count", -1), "below zero"),
    "overflow": (column("moments", "count", 2**63 - 1), "counts more than 2^62"),
    "path-name": (column("moments", "block", "../../etc/passwd"), "is no name of a block"),
    "null-byte": (column("moments", "block", "a\0b"), "is no name of a block"),
    "deep-json": (
        lambda run: (run / "run.json").write_text("[" * 200_000) and None,
        "readable",
    ),
    "endless": (manifest(windows=2**70), "expected a count"),
}
"""Harm -> what is said of it wherever the run is read."""

SHOWN: Mapping[str, Callable[[Path], None]] = {
    "tags": manifest(tags={SCRIPT: IMAGE, "javascript:alert(1)": "'\"><b>"}),
    "model": manifest(model={"class": SCRIPT, "name": IMAGE, "dtype": nested(300)}),
    "command": manifest(command=f"{SCRIPT}\x1b[2J\u202e", device=IMAGE, created=SCRIPT),
    "warnings": manifest(warnings=[SCRIPT] * 3, skipped=[{"name": IMAGE, "reason": SCRIPT}]),
}
"""Harm that is text only: the run is read, and its text is shown as text."""


def make_folder(root: Path) -> None:
    """Make a folder with a good run and every hostile one."""
    root.mkdir()
    shutil.copytree(SAMPLES / GOOD, root / GOOD)
    for name, (harm, _) in REFUSED.items():
        harm(Path(shutil.copytree(SAMPLES / GOOD, root / name)))
    for name, harm in SHOWN.items():
        harm(Path(shutil.copytree(SAMPLES / GOOD, root / name)))
    odd = [Site(0, IMAGE, "gate"), Site(0, IMAGE, "value"), Site(1, f"{SCRIPT}.b", "hidden")]
    make_run(root / SCRIPT.replace("/", "-"), {s: draws(i) for i, s in enumerate(odd)})
    make_run(root / ("n" * 200), {odd[0]: draws(1)}, tags={"a": "=1+1"})
    (root / "circle").symlink_to(root)
    os.mkfifo(root / "pipe")
