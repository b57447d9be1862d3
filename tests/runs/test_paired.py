"""A paired run explains itself; another run says that it cannot; damage is told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_probe.attribution import PAIR_MEASURES
from ffn_probe.errors import RunError, SchemaError
from ffn_probe.runs import Run
from tests.runs.pairing import FOLDS_SEEN, OUT, arrays, write_pair
from tests.runs.recording import BLOCK, values, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pair(tmp_path / "pair", windows=2)
    return tmp_path / "pair"


def both() -> tuple[np.ndarray, np.ndarray]:
    parts = [arrays(window, fold) for window in range(2) for fold in FOLDS_SEEN]
    a, b = (np.concatenate([pair[side] for pair in parts]) for side in (0, 1))
    return a, b


def test_a_paired_run_explains_itself(folder: Path) -> None:
    found = Run.open(folder).explain()
    a, b = both()
    [block] = found.blocks
    assert (found.reference, found.candidate) == ("ref", "cand")
    assert (block.layer, block.block) == (0, BLOCK.name)
    assert block.end_db == pytest.approx(10 * np.log10((a**2).sum() / ((b - a) ** 2).sum()))
    assert block.energy == pytest.approx(((b - a) ** 2).sum())
    assert [h.name for h in found.hypotheses] == ["quick_gelu", "quick_gelu"]
    assert found.output is not None
    assert found.output.kl.value == pytest.approx(0.01 * np.mean(FOLDS_SEEN) / 6)


def test_the_measures_of_a_pair_are_a_table(folder: Path) -> None:
    run = Run.open(folder)
    found = run.table("pairs")
    a, b = both()
    assert found.equals(run.pair_measures())
    assert set(found["measure"]) <= set(PAIR_MEASURES)
    ratio = found.query("role == 'out' and view == 'end' and measure == 'norm_ratio'")
    assert ratio["value"].tolist() == [pytest.approx(np.linalg.norm(b) / np.linalg.norm(a))]
    assert ratio["block"].tolist() == [OUT.block]


@pytest.mark.parametrize("asked", ["explain", "pair_measures"])
def test_a_run_of_one_model_says_what_to_do_instead(tmp_path: Path, asked: str) -> None:
    write(tmp_path / "base", values(), windows=1)
    run = Run.open(tmp_path / "base")
    with pytest.raises(RunError, match=r"run base is a telemetry run: .*`ffn-probe replay`"):
        getattr(run, asked)()
    with pytest.raises(RunError, match="run base is a telemetry run"):
        run.table("pairs")


def test_a_part_that_is_cut_is_told(folder: Path) -> None:
    path = sorted((folder / "paired").glob("*.parquet"))[-1]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match="truncated"):
        Run.open(folder).explain()


@pytest.mark.parametrize(
    "changes",
    [
        {"names": "ref"}, {"names": [1, 2]}, {"candidate": []}, {"candidate": None},
        {"blocks": {}}, {"blocks": [1]}, {"pairs": 3}, {"pairs": [{}]},
        {"pairs": [{"a": "x", "b": None}]}, {"pairs": [{"a": "x", "b": "y", "reason": 3}]},
        {"floors": "none"}, {"swap": ["norm"]}, {"factors": "norm"}, {"notes": [None]},
        {"options": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_a_manifest_with_another_type_is_told(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "run.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"paired": data["paired"] | changes}))
    with pytest.raises(SchemaError, match=rf"paired\.{next(iter(changes))} is "):
        Run.open(folder).explain()


def test_a_manifest_that_says_nothing_of_the_candidate_is_read(folder: Path) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"paired": {"more": 1}}))
    found = Run.open(folder).explain()
    assert (found.reference, found.candidate) == ("reference", "candidate")
    assert found.blocks[0].candidate == BLOCK.name


def test_an_empty_paired_run_is_explained_as_empty(folder: Path) -> None:
    for path in folder.glob("*/*.parquet"):
        path.unlink()
    found = Run.open(folder).explain()
    assert found.blocks == ()
    assert Run.open(folder).table("pairs").empty


def test_explaining_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from ffn_probe.runs import Run; "
        f"r = Run.open({str(folder)!r}); r.explain(); r.pair_measures(); "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert result.stdout.strip() == "False"
